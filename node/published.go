package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"
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
const (
	publishedDir = "published"
	latestFile   = "latest"
	blockSuffix  = ".cbor"
	schemaSuffix = ".schema.json"
)

func (s *serving) publishedFile(name string) string {
	return filepath.Join(s.n.cfg.Dir, publishedDir, name)
}

// keep writes a version down before anybody hears of it; latest comes last. s.mu is held.
func (s *serving) keep(id cid.Cid, block []byte, schema *cellproto.Schema) error {
	if err := os.MkdirAll(s.publishedFile(""), 0o755); err != nil {
		return cellproto.Errorf("write "+s.publishedFile(""), cellproto.KindOf(err), "%w", err)
	}
	write := func(name string, data []byte) error {
		if err := renameio.WriteFile(s.publishedFile(name), data, 0o644); err != nil { // synced, then renamed
			return cellproto.Errorf("write "+s.publishedFile(name), cellproto.KindOf(err), "%w", err)
		}
		return nil
	}
	if err := write(id.String()+blockSuffix, block); err != nil {
		return err
	}
	if schema != nil {
		if err := write(id.String()+schemaSuffix, schema.Canonical()); err != nil {
			return err
		}
	}
	return write(latestFile, []byte(id.String()+"\n"))
}

// lastPublished gives the manifest of the last publish, whether or not the program is still the
// same; nil when there was none, or of another cell, or when it is damaged. s.mu is held.
func (s *serving) lastPublished() (*signed.Manifest, cid.Cid) {
	text, err := readBounded(s.publishedFile(latestFile), maxKeyFile)
	if err != nil {
		return nil, cid.Undef
	}
	id, err := cid.Decode(strings.TrimSpace(string(text)))
	if err != nil {
		s.n.log.Warn("published/latest is damaged", zap.Error(err))
		return nil, cid.Undef
	}
	block, err := readBounded(s.publishedFile(id.String()+blockSuffix), cellproto.MaxManifest)
	if err != nil {
		s.n.log.Warn("the published manifest is missing", zap.Error(err))
		return nil, cid.Undef
	}
	m, err := signed.OpenManifest(id, block)
	if err != nil {
		s.n.log.Warn("the published manifest is damaged", zap.Error(err))
		return nil, cid.Undef
	}
	if m.Name != s.n.cfg.Cell.Name {
		return nil, cid.Undef
	}
	return m, id
}

// heal puts the blocks of all published versions back into a block store that was deleted, and the
// program that is served. s.mu is held.
func (s *serving) heal(ctx context.Context) {
	entries, err := os.ReadDir(s.publishedFile(""))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.n.log.Warn("what was published cannot be read", zap.Error(err))
		}
		return
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), blockSuffix)
		id, err := cid.Decode(name)
		if !ok || err != nil {
			continue
		}
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
	block, err := readBounded(s.publishedFile(id.String()+blockSuffix), cellproto.MaxManifest)
	if err != nil {
		return err
	}
	m, err := signed.OpenManifest(id, block)
	if err != nil {
		return err
	}
	if err := s.n.blocks.PutBlock(ctx, id, block); err != nil {
		return err
	}
	if !m.Schema.Defined() {
		return nil
	}
	schema, err := readSchema(s.publishedFile(id.String() + schemaSuffix))
	if err != nil {
		return err
	}
	return s.n.blocks.PutBlock(ctx, m.Schema.Cid, schema.Canonical())
}
