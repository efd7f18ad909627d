package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// What was published is kept under published/, which travels with a copied directory and which no
// cache cleaner may take: a manifest cannot be made again, since it says when it was made and after
// what.
//
//	published/latest              the CID of the newest version, as text
//	published/<cid>.cbor          the manifest's block, of each version
//	published/<cid>.schema.json   its schema
//
// Each is a second copy of a block. Whichever of the two is damaged, while the nucleus runs or when
// it starts, is put back from the other.
const (
	publishedDir = "published"
	latestFile   = "latest"
	blockSuffix  = ".cbor"
	schemaSuffix = ".schema.json"
)

// originals knows which file under published/ holds which block, for the block store.
type originals struct {
	mu    sync.RWMutex
	paths map[string]string // by multihash
}

func (o *originals) add(c cid.Cid, path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.paths == nil {
		o.paths = make(map[string]string)
	}
	o.paths[string(c.Hash())] = path
}

func (o *originals) path(hash multihash.Multihash) (string, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	path, ok := o.paths[string(hash)]
	return path, ok
}

func (s *serving) publishedFile(name string) string {
	return filepath.Join(s.n.cfg.Dir, publishedDir, name)
}

// keep writes a version down before anybody hears of it; latest comes last. s.mu is held.
func (s *serving) keep(id cid.Cid, m *signed.Manifest, block []byte, schema *cellproto.Schema) error {
	if err := s.writePublished(id.String()+blockSuffix, block); err != nil {
		return err
	}
	s.n.originals.add(id, s.publishedFile(id.String()+blockSuffix))
	if schema != nil {
		if err := s.writePublished(id.String()+schemaSuffix, schema.Canonical()); err != nil {
			return err
		}
		s.n.originals.add(m.Schema.Cid, s.publishedFile(id.String()+schemaSuffix))
	}
	return s.writePublished(latestFile, []byte(id.String()+"\n"))
}

func (s *serving) writePublished(name string, data []byte) error {
	path := s.publishedFile(name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = renameio.WriteFile(path, data, 0o644) // synced, then renamed
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// lastPublished gives the manifest of the last publish, whether or not the program is still the
// same; nil when there was none, or of another cell. If it is not known any more which one that was, it
// is the newest of this cell's. s.mu is held.
func (s *serving) lastPublished() (*signed.Manifest, cid.Cid) {
	text, err := readBounded(s.publishedFile(latestFile), 1<<10)
	var id cid.Cid
	if err == nil {
		id, err = cid.Decode(strings.TrimSpace(string(text)))
	}
	var m *signed.Manifest
	if err == nil {
		m, _, err = s.openVersion(id)
	}
	if err != nil {
		return s.newestVersion(err)
	}
	if m.Name != s.n.cfg.Cell.Name {
		return nil, cid.Undef
	}
	return m, id
}

// publishedIn gives what was published last from a directory that may be another cell's; nil if nothing was. "" is none.
func publishedIn(dir string) (*signed.Manifest, cid.Cid) {
	if dir == "" {
		return nil, cid.Undef
	}
	text, err := readBounded(filepath.Join(dir, publishedDir, latestFile), 1<<10)
	if err != nil {
		return nil, cid.Undef
	}
	id, err := cid.Decode(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, cid.Undef
	}
	block, err := readBounded(filepath.Join(dir, publishedDir, id.String()+blockSuffix), cellproto.MaxManifest)
	if err != nil {
		return nil, cid.Undef
	}
	m, err := signed.OpenManifest(id, block)
	if err != nil {
		return nil, cid.Undef
	}
	return m, id
}

// maxAccepted is how many schemas a manifest says that the program understands: as many as fit an advert.
const maxAccepted = 32

// accepted gives the schemas that callers may hold: that of the program, and those of the versions before
// that it still serves (cellproto.Compatible), of the newest ones.
func (s *serving) accepted(schema *cellproto.Schema) []cellproto.SchemaHash {
	s.mu.Lock()
	defer s.mu.Unlock()
	type version struct {
		created int64
		schema  *cellproto.Schema
	}
	var before []version
	for _, c := range s.versions() {
		m, _, err := s.openVersion(c)
		if err != nil || m.Name != s.n.cfg.Cell.Name {
			continue
		}
		if old, err := s.versionSchema(c, m); err == nil && old != nil {
			before = append(before, version{m.Created, old})
		}
	}
	slices.SortFunc(before, func(a, b version) int { return cmp.Compare(b.created, a.created) })
	out := []cellproto.SchemaHash{schema.Hash()}
	for _, one := range schema.Older {
		if h := one.Hash(); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	for _, v := range before {
		if h := v.schema.Hash(); len(out) < maxAccepted && !slices.Contains(out, h) && len(cellproto.Compatible(v.schema, schema)) == 0 {
			out = append(out, h)
		}
	}
	return out
}

// newestVersion looks for the version that was published last among all that are kept, and notes it,
// because that cannot be read: why. s.mu is held.
func (s *serving) newestVersion(why error) (newest *signed.Manifest, id cid.Cid) {
	for _, c := range s.versions() {
		m, _, err := s.openVersion(c)
		if err == nil && m.Name == s.n.cfg.Cell.Name && (newest == nil || m.Created > newest.Created) {
			newest, id = m, c
		}
	}
	if newest == nil {
		if !errors.Is(why, fs.ErrNotExist) {
			s.n.log.Warn("what was published last is not known any more", zap.Error(why))
		}
		return nil, cid.Undef
	}
	s.n.log.Warn("published/latest was damaged: it is the newest version again", zap.Stringer("cid", id), zap.Error(why))
	if err := s.writePublished(latestFile, []byte(id.String()+"\n")); err != nil {
		s.n.log.Warn("cannot write down what was published last", zap.Error(err))
	}
	return newest, id
}

// versions lists what was published here.
func (s *serving) versions() (out []cid.Cid) {
	entries, err := os.ReadDir(s.publishedFile(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.n.log.Warn("what was published cannot be read", zap.Error(err))
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), blockSuffix)
		if id, err := cid.Decode(name); ok && err == nil {
			out = append(out, id)
		}
	}
	return out
}

// openVersion reads a manifest that was published here, from the block store if its file is damaged, which
// is mended then.
func (s *serving) openVersion(id cid.Cid) (*signed.Manifest, []byte, error) {
	name := id.String() + blockSuffix
	block, err := readBounded(s.publishedFile(name), cellproto.MaxManifest)
	var m *signed.Manifest
	if err == nil {
		m, err = signed.OpenManifest(id, block)
	}
	if err == nil {
		return m, block, nil
	}
	block, lost := s.n.blocks.Local(context.Background(), id)
	if lost == nil {
		m, lost = signed.OpenManifest(id, block)
	}
	if lost != nil {
		return nil, nil, err
	}
	s.n.log.Warn("a published manifest was damaged, and is put back", zap.Stringer("cid", id), zap.Error(err))
	if err := s.writePublished(name, block); err != nil {
		s.n.log.Warn("cannot put it back", zap.Error(err))
	}
	return m, block, nil
}

// versionSchema reads the schema of a version likewise.
func (s *serving) versionSchema(id cid.Cid, m *signed.Manifest) (*cellproto.Schema, error) {
	name := id.String() + schemaSuffix
	text, err := readBounded(s.publishedFile(name), cellproto.MaxSchema)
	var schema *cellproto.Schema
	if err == nil {
		schema, err = cellproto.ParseSchema(text)
	}
	if err == nil && schema.Hash() != m.SchemaHash {
		err = cellproto.Errorf("read "+name, cellproto.Corrupt, "it is not the schema of that version")
	}
	if err == nil && bytes.Equal(text, schema.Canonical()) {
		return schema, nil
	}
	if err != nil {
		block, lost := s.n.blocks.Local(context.Background(), m.Schema.Cid)
		if lost == nil {
			schema, lost = cellproto.ParseSchema(block)
		}
		if lost != nil {
			return nil, err
		}
	}
	s.n.log.Warn("a published schema was damaged, and is put back", zap.Stringer("cid", id), zap.Error(err))
	if err := s.writePublished(name, schema.Canonical()); err != nil {
		s.n.log.Warn("cannot put it back", zap.Error(err))
	}
	return schema, nil
}

// heal puts the blocks of all published versions back into a block store that was deleted, and the
// program that is served. s.mu is held.
func (s *serving) heal(ctx context.Context) {
	for _, id := range s.versions() {
		if err := s.restore(ctx, id); err != nil {
			s.n.log.Warn("a published version cannot be restored", zap.Stringer("cid", id), zap.Error(err))
		}
	}
	if s.manifest == nil {
		return
	}
	// The program's blocks are its file: adding it costs nothing when it is known.
	if _, err := s.n.blocks.AddFile(ctx, s.n.cfg.Path(s.n.cfg.Cell.Binary)); err != nil {
		s.n.log.Warn("the program cannot be given to others", zap.Error(err))
	}
}

// restore puts one version's manifest and schema into the block store.
func (s *serving) restore(ctx context.Context, id cid.Cid) error {
	m, block, err := s.openVersion(id)
	if err != nil {
		return err
	}
	s.n.originals.add(id, s.publishedFile(id.String()+blockSuffix))
	if err := s.n.blocks.PutBlock(ctx, id, block); err != nil {
		return err
	}
	if !m.Schema.Defined() {
		return nil
	}
	schema, err := s.versionSchema(id, m)
	if err != nil {
		return err
	}
	s.n.originals.add(m.Schema.Cid, s.publishedFile(id.String()+schemaSuffix))
	s.n.schemas.keep(schema)
	return s.n.blocks.PutBlock(ctx, m.Schema.Cid, schema.Canonical())
}
