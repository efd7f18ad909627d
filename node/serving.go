package node

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"
	"go.uber.org/zap"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

const cacheDir = "cache" // below the cell's

// Files under cache/. All can be deleted: they are made again from the program.
const (
	schemaFile   = "schema.json" // canonical JSON
	schemaOfFile = "schema.of"   // which program it is the schema of: schemaOf as JSON
)

// serving keeps what the cell serves: the schema of its program and the manifest under which it is
// published. It tells the server half, and announces.
type serving struct {
	n *nucleus

	mu       sync.Mutex
	version  string // of the program that runs, as cell.toml said when it took over
	schema   *cellproto.Schema
	binary   signed.Digest                // BLAKE3 of the program, as of the last look
	stat     os.FileInfo                  // of the program then
	conn     *cellproto.Conn              // to the program for whose start that was
	met      map[*cellproto.Conn]struct{} // that were met before, and live: a swap can be taken back
	manifest *signed.Manifest             // nil: not published
	id       cid.Cid                      // of manifest
	name     string                       // IPNS; "" while it is not known

	asking chan struct{} // capacity 1: taken while the program is asked for its schema
}

func newServing(n *nucleus) *serving {
	return &serving{
		n: n, version: n.cfg.Cell.Version, met: map[*cellproto.Conn]struct{}{}, asking: make(chan struct{}, 1),
	}
}

// releaseVersion gives the version that is served.
func (s *serving) releaseVersion() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

func (s *serving) cacheFile(name string) string { return filepath.Join(s.n.cfg.Dir, cacheDir, name) }

// resume takes up what an earlier run, or the original of this copy, has left: the schema, if the
// program is still the same, and the manifest, if it names this very program. It announces it.
func (s *serving) resume(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n.cfg.Headless() {
		return
	}
	s.inherit()
	if err := s.look(); err != nil {
		s.n.log.Warn("the program cannot be read", zap.Error(err))
	}
	s.schema = s.savedSchema()
	if s.n.cfg.Privacy.Placement != celltoml.PlacementLocal {
		s.manifest, s.id = s.savedManifest()
	}
	if s.schema == nil && s.manifest != nil {
		if schema, err := s.versionSchema(s.id, s.manifest); err == nil {
			s.schema = schema
			s.saveSchema(schema)
		}
	}
	s.apply()
	s.heal(ctx)
	if s.manifest != nil {
		s.announce(ctx)
		s.keepName()
	}
}

// inherit takes up what the celld before knew of a program that goes on. s.mu is held.
func (s *serving) inherit() {
	if s.n.taken == nil {
		return
	}
	conn := s.n.program.Current()
	if conn == nil {
		return
	}
	s.version, s.conn = s.n.taken.h.Release, conn
	s.greet(conn)
	if info, err := os.Stat(s.n.program.Binary()); err == nil {
		if sum, ok := s.n.taken.h.Binary.of(info); ok {
			s.binary, s.stat = sum, info
		}
	}
}

// look hashes the program, unless it is the file that it was. s.mu is held.
func (s *serving) look() error {
	path := s.n.program.Binary()
	info, err := os.Stat(path)
	if err != nil {
		s.stat = nil
		return cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).WithHint("Build it: cellctl build %s", s.n.cfg.Dir)
	}
	if s.stat != nil && os.SameFile(info, s.stat) && info.ModTime().Equal(s.stat.ModTime()) && info.Size() == s.stat.Size() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	h := blake3.New(32, nil)
	if _, err := io.Copy(h, f); err != nil {
		return cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
	}
	h.Sum(s.binary[:0])
	s.stat = info
	return nil
}

// write replaces a file under cache/.
func (s *serving) write(name string, data []byte) error {
	path := s.cacheFile(name)
	if err := makeDir(filepath.Dir(path)); err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// makeDir makes a directory below a cell's cache/, or that, if it is missing. The cell's own is not made: when it is
// gone, the cell was removed, and what the nucleus writes as it stops would be left in its place.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && filepath.Base(parent) == cacheDir {
		if err = os.Mkdir(parent, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// savedManifest gives the manifest of the last publish, if it still fits: this program is among its
// artefacts, or was built here from its source. s.mu is held.
func (s *serving) savedManifest() (*signed.Manifest, cid.Cid) {
	m, id := s.lastPublished()
	if m == nil {
		return nil, cid.Undef
	}
	if s.stat != nil && s.fits(m) {
		return m, id
	}
	s.n.log.Info("the program is not the one that was published", zap.Stringer("cid", id))
	return nil, cid.Undef
}

// apply tells the server half what is served now. s.mu is held.
func (s *serving) apply() {
	id := cellproto.CellID("")
	if s.manifest != nil {
		id = cellproto.CellID(s.id.String())
	}
	now, err := call.NewServing(id, s.schema)
	if err != nil {
		s.n.log.Error("the schema cannot be served", zap.Error(err))
		return
	}
	s.n.schemas.keep(s.schema)
	s.n.server.Set(now)
	s.n.adverts.poke()
}

// announce makes the cell findable: its manifest, and for other IPFS nodes its artefacts and schema.
// One that nobody can reach is not announced. s.mu is held.
func (s *serving) announce(context.Context) {
	if !s.n.reachable() {
		return
	}
	s.n.dht.Announce(s.id)
	for _, l := range s.links() {
		s.n.dht.Announce(l)
	}
}

// keepName goes on republishing the cell's IPNS name, if this copy has its key.
func (s *serving) keepName() {
	key, err := readKey(filepath.Join(s.n.cfg.Dir, "keys", nameKeyFile))
	if err != nil {
		return // a copy without the name's key serves, and names nothing
	}
	if s.name, err = s.n.dht.KeepName(key, s.id); err != nil {
		s.n.log.Warn("cannot keep the name", zap.Error(err))
	}
}

func (s *serving) links() []cid.Cid {
	var out []cid.Cid
	if s.manifest.Schema.Defined() {
		out = append(out, s.manifest.Schema.Cid)
	}
	for _, a := range s.manifest.Artefacts {
		if a.BLAKE3 == s.binary {
			out = append(out, a.CID.Cid)
		}
	}
	return out
}

// published gives the manifest that is served, or nil.
func (s *serving) published() (*signed.Manifest, cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manifest, s.id
}

// learn makes sure that what is served is what the program at the end of conn is. It costs nothing
// when that was looked at before.
func (s *serving) learn(ctx context.Context, conn *cellproto.Conn) error {
	const op = "ask the program for its schema"
	hello, err := conn.PeerHello(ctx)
	if err != nil {
		return err
	}
	if s.meet(ctx, conn) {
		defer s.noteRun()
		s.n.locked.read()
	}
	if s.knows(hello.Schema) {
		return nil
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	}
	if s.knows(hello.Schema) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, schemaTimeout)
	defer cancel()
	schema, err := s.n.schemaOf(limited, conn)
	switch {
	case ctx.Err() != nil:
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	case err != nil: // whatever its kind: the request that waits for the program has not run
		return cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schema = schema
	s.saveSchema(schema)
	s.apply()
	return nil
}

// knows says whether a program whose hello names this schema needs not be asked for it.
func (s *serving) knows(hash []byte) bool {
	serving := s.n.server.Serving()
	return len(hash) == 0 || serving.Schema != nil && string(hash) == string(serving.Hash[:])
}

// meet looks at the program's file when there is a new run of it, which it reports: it may be another
// one than before.
func (s *serving) meet(ctx context.Context, conn *cellproto.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		return false
	}
	s.conn = conn
	if s.settle(ctx) {
		s.apply()
	}
	return s.greet(conn)
}

// greet notes a connection to the program, and reports whether it is new. s.mu is held.
func (s *serving) greet(conn *cellproto.Conn) bool {
	maps.DeleteFunc(s.met, func(c *cellproto.Conn, _ struct{}) bool { // those that have ended
		select {
		case <-c.Done():
			return true
		default:
			return false
		}
	})
	_, known := s.met[conn]
	s.met[conn] = struct{}{}
	return !known
}

// settle sees which manifest fits the program that runs. It reports whether that is another one than
// before. s.mu is held.
func (s *serving) settle(ctx context.Context) (changed bool) {
	if err := s.look(); err != nil {
		s.n.log.Warn("the program cannot be read", zap.Error(err))
		return false
	}
	if s.manifest != nil && !s.fits(s.manifest) {
		s.n.log.Warn("the program is not the one that was published any more: it is not served under its CID until it is published",
			zap.Stringer("cid", s.id))
		s.withdraw()
		s.manifest, s.id = nil, cid.Undef
		return true
	}
	if s.manifest == nil && s.n.cfg.Privacy.Placement != celltoml.PlacementLocal {
		if s.manifest, s.id = s.savedManifest(); s.manifest != nil {
			s.announce(ctx)
			s.keepName()
			return true
		}
	}
	return false
}

// moved keeps step with a swap: the program at the end of conn is served from now on, with a manifest
// that is published in the same moment, if there is one. It gives the CID that is served.
func (s *serving) moved(ctx context.Context, conn *cellproto.Conn, schema *cellproto.Schema, version string, m *signed.Manifest) (id cid.Cid, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet(conn)
	s.n.locked.read()
	s.conn, s.version, s.schema = conn, version, schema
	if m != nil {
		if id, err = s.publishLocked(ctx, *m, schema); err == nil {
			return id, nil
		}
	}
	s.settle(ctx)
	if schema != nil {
		s.saveSchema(schema)
	}
	s.apply()
	return s.id, err
}

// reinstate keeps step with a program that was taken up again. Without conn it is not known yet: it
// sleeps, and is learned when it starts.
func (s *serving) reinstate(ctx context.Context, conn *cellproto.Conn, version string) {
	s.mu.Lock()
	if version != "" {
		s.version = version
	}
	s.conn = nil
	if conn == nil && s.settle(ctx) {
		s.apply()
	}
	s.mu.Unlock()
	if conn == nil {
		return
	}
	if err := s.learn(ctx, conn); err != nil {
		s.n.log.Warn("the program that was taken up again does not give its schema", zap.Error(err))
	}
}

// noteRun has the history say what runs, if that is another program than before.
func (s *serving) noteRun() {
	s.mu.Lock()
	row := ctl.RunRow{
		Time: time.Now(), BLAKE3: hex.EncodeToString(s.binary[:]), Version: s.version, Outcome: ctl.OutcomeStarted,
	}
	schema := s.schema
	s.mu.Unlock()
	s.n.swaps.runs.started(row, func() string { return schemaText(schemaHash(schema)) })
}

// fits says whether the program is one of a manifest's, or was built here from its source. s.mu is held.
func (s *serving) fits(m *signed.Manifest) bool {
	return s.n.builtFrom(m, s.binary) || slices.ContainsFunc(m.Artefacts, func(a signed.Artefact) bool { return a.BLAKE3 == s.binary })
}

// watched is a program whose schema is learned at each start, before the first call reaches it.
type watched struct {
	call.Program
	s *serving
}

// Conn starts the program and learns its schema.
func (w watched) Conn(ctx context.Context) (*cellproto.Conn, error) {
	conn, err := w.Program.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return conn, w.s.learn(ctx, conn)
}

// digest gives the BLAKE3 of the program, as of the last look.
func (s *serving) digest() signed.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.binary
}

// changed says that there was a publish, but of another program than there is now.
func (s *serving) changed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, _ := s.lastPublished()
	return last != nil && s.manifest == nil
}
