package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
	"github.com/celldnet/celld/node/program"
)

// A program with a higher major version may break callers. The one before goes on for them then, in a directory
// beside the cell's: <cell>-v1/, a cell of its own, announced under the CID that it was published under. Callers on
// this machine come by the same socket as ever, and are led there by what their hello says. It retires when nobody
// has called it for retire_after.

// oldFile is in such a directory, and says whose it is.
const oldFile = "old-version.json"

const (
	maxOldFile  = 4 << 10     // bytes
	dismissTime = time.Second // for callers to have heard that they are to come back
)

// oldRecord is its content.
type oldRecord struct {
	Of      string               `json:"of"`      // directory of the cell
	Version string               `json:"version"` // that it serves
	Schema  cellproto.SchemaHash `json:"schema"`  // likewise
	Retired bool                 `json:"retired,omitempty"`
}

// readOld reads the record of a directory that nobody but this user can have written: its program is run.
func readOld(dir string) (*oldRecord, error) {
	for _, path := range []string{dir, filepath.Join(dir, oldFile), filepath.Join(dir, celltoml.FileName)} {
		if err := mine(path); err != nil && !(path != dir && errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
	}
	data, err := readBounded(filepath.Join(dir, oldFile), maxOldFile)
	if err != nil {
		return nil, err
	}
	r := &oldRecord{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, cellproto.Errorf("read "+filepath.Join(dir, oldFile), cellproto.Corrupt, "%w", err)
	}
	return r, nil
}

// mine says what is wrong with a path that is to be this user's own.
func mine(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir() && !info.Mode().IsRegular():
		return cellproto.Errorf("read "+path, cellproto.Denied, "it is a link, or no file")
	case !ok || int(stat.Uid) != os.Getuid():
		return cellproto.Errorf("read "+path, cellproto.Denied, "it belongs to somebody else")
	case info.Mode().Perm()&0o022 != 0:
		return cellproto.Errorf("read "+path, cellproto.Denied, "others may write to it (mode %#o)", info.Mode().Perm())
	}
	return nil
}

func (r *oldRecord) write(dir string) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dir, oldFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		return cellproto.Errorf("write "+filepath.Join(dir, oldFile), cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// olds leads callers to the old versions of the cell that are kept for them.
type olds struct {
	n   *nucleus
	any atomic.Bool // there is one: else nothing has to be looked at

	mu      sync.Mutex
	next    *cellproto.Schema // of a program that is about to take over; nil: none is
	dirs    map[string]cellproto.SchemaHash
	routes  map[cellproto.SchemaHash]string // by what a caller was made for: the directory, "" for here
	routeOf *call.Serving                   // for which routes hold
	led     map[net.Conn]struct{}           // both ends of callers who are led
	closed  bool
}

func openOlds(n *nucleus) *olds {
	o := &olds{n: n, dirs: map[string]cellproto.SchemaHash{}, routes: map[cellproto.SchemaHash]string{}, led: map[net.Conn]struct{}{}}
	found, _ := filepath.Glob(filepath.Join(globQuote(filepath.Dir(n.cfg.Dir)), globQuote(filepath.Base(n.cfg.Dir))+"-v*", oldFile)) // of a good pattern
	for _, path := range found {
		dir := filepath.Dir(path)
		if r, err := readOld(dir); err == nil && r.Of == n.cfg.Dir && !r.Retired {
			o.dirs[dir] = r.Schema
		}
	}
	o.any.Store(len(o.dirs) > 0)
	return o
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// route gives the directory to which a caller that was made for this schema is to be led, "" for nowhere: the
// program serves it, or nobody does.
func (o *olds) route(made []byte) string {
	if !o.any.Load() || len(made) != len(cellproto.SchemaHash{}) {
		return ""
	}
	hash := cellproto.SchemaHash(made)
	o.mu.Lock()
	defer o.mu.Unlock()
	serving := o.n.server.Serving() // not before: what is noted under it has to hold for it
	if o.routeOf != serving {
		o.routeOf = serving
		clear(o.routes)
	}
	dir, known := o.routes[hash]
	if !known {
		next := o.next
		if next == nil {
			next = serving.Schema
		}
		dir = o.look(hash, next)
		if len(o.routes) < maxSchemas {
			o.routes[hash] = dir
		}
	}
	return dir
}

// look finds that out. o.mu is held.
func (o *olds) look(made cellproto.SchemaHash, now *cellproto.Schema) string {
	if now == nil || now.Version(made) != nil {
		return ""
	}
	schema := o.n.schemas.get(made)
	if schema != nil && len(cellproto.Compatible(schema, now)) == 0 {
		return ""
	}
	for dir, hash := range o.dirs {
		if hash == made { // also when that schema was lost
			return dir
		}
		if old := o.n.schemas.get(hash); schema != nil && old != nil && len(cellproto.Compatible(schema, old)) == 0 {
			return dir
		}
	}
	return ""
}

// expect has callers led away whom a program with this schema breaks, which is about to take over; nil: none is,
// or it has.
func (o *olds) expect(ctx context.Context, next *cellproto.Schema) {
	o.mu.Lock()
	o.next = next
	clear(o.routes)
	o.mu.Unlock()
	if next != nil {
		ctx, cancel := context.WithTimeout(ctx, dismissTime)
		defer cancel()
		o.n.server.Dismiss(ctx, next.Hash(), func(made []byte) bool { return o.route(made) != "" })
	}
}

// lead passes a caller on to the old version that serves it. It reports whether it has.
func (o *olds) lead(ctx context.Context, conn *net.UnixConn, who call.Who, hello *cellproto.Hello) bool {
	if hello == nil || !who.Owner { // the other nucleus would take anybody who comes from here for the owner
		return false
	}
	dir := o.route(hello.MadeFor)
	if dir == "" {
		return false
	}
	far, err := o.dial(ctx, dir)
	if err != nil {
		o.n.log.Warn("the old version for a caller cannot be reached", zap.String("dir", dir), zap.Error(err))
		return false
	}
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		far.Close()
		return false
	}
	o.led[conn], o.led[far] = struct{}{}, struct{}{}
	o.mu.Unlock()
	go func() { // ends with either connection, and close ends both
		var both sync.WaitGroup
		pass := func(to, from net.Conn) {
			_, _ = io.Copy(to, from) // the callers notice
			to.Close()
			from.Close()
		}
		both.Go(func() { pass(conn, far) })
		both.Go(func() { pass(far, conn) })
		both.Wait()
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.led, conn)
		delete(o.led, far)
	}()
	return true
}

// dial connects to the nucleus of an old version, and starts it unless it has retired.
func (o *olds) dial(ctx context.Context, dir string) (net.Conn, error) {
	conn, err := ctl.Dial(ctx, dir, ctl.CellSocket)
	if !errors.Is(err, ctl.ErrNotRunning) {
		return conn, err
	}
	r, rerr := readOld(dir)
	if rerr != nil || r.Retired {
		o.mu.Lock()
		delete(o.dirs, dir)
		clear(o.routes)
		o.mu.Unlock()
		return nil, errors.Join(err, rerr)
	}
	if err := wake(ctx, dir); err != nil {
		return nil, err
	}
	return ctl.Dial(ctx, dir, ctl.CellSocket)
}

// close ends the connections of those who are led.
func (o *olds) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for c := range o.led {
		c.Close()
	}
}

// keep makes the version that runs a cell of its own, and starts it, for the callers who are about to be broken. It
// does so once a version.
func (o *olds) keep(ctx context.Context, say func(string)) error {
	n, serving := o.n, o.n.server.Serving()
	op := "keep version " + n.serving.releaseVersion()
	if serving.Schema == nil || n.mirror != nil { // a copy of somebody else's cell has its versions from there
		return nil
	}
	if state, _ := os.ReadDir(filepath.Join(n.cfg.Dir, "data", "store")); len(state) > 0 {
		return cellproto.Errorf(op, cellproto.Unsupported, "the cell has state, of which two versions cannot each have their own").
			WithHint("Have the new program serve the callers of both, or cellctl swap --force, which leaves them behind.")
	}
	major, _, _ := strings.Cut(n.serving.releaseVersion(), ".")
	dir := n.cfg.Dir + "-v" + major
	say("keeping version " + n.serving.releaseVersion() + " in " + dir)
	if err := o.place(ctx, op, dir); err != nil {
		return err
	}
	if err := wake(ctx, dir); err != nil {
		return err
	}
	o.mu.Lock()
	o.dirs[dir] = serving.Hash
	clear(o.routes)
	o.mu.Unlock()
	o.any.Store(true)
	return nil
}

// place makes its directory. One that is there already is used if it is of this cell: its nucleus is stopped when
// it has another program.
func (o *olds) place(ctx context.Context, op, dir string) error {
	n, from := o.n, o.n.program.Binary()
	switch old, err := readOld(dir); {
	case err == nil && old.Of == n.cfg.Dir:
		x, xerr := program.Digest(from)
		y, yerr := program.Digest(filepath.Join(dir, n.cfg.Cell.Binary))
		toml, terr := readBounded(filepath.Join(dir, celltoml.FileName), cellproto.MaxManifest)
		if xerr == nil && yerr == nil && terr == nil && x == y && string(toml) == o.toml() && !old.Retired {
			return nil
		}
		if err := (&ctl.Client{Dir: dir}).Stop(ctx); err == nil {
			l, err := acquireFree(ctx, dir)
			if err != nil {
				return err
			}
			l.unlock()
		}
	case err == nil || !errors.Is(err, fs.ErrNotExist) && cellproto.KindOf(err) != cellproto.NotFound:
		return cellproto.Errorf(op, cellproto.Denied, "%s is there already, and not an old version of this cell", dir).WithHint("Move it away.")
	default:
		if _, err := os.Lstat(dir); err == nil {
			return cellproto.Errorf(op, cellproto.Denied, "%s is there already, and not an old version of this cell", dir).WithHint("Move it away.")
		}
	}
	if err := o.fill(dir, from); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "cannot make %s: %w", dir, err)
	}
	return nil
}

// acquireFree waits until a nucleus that was told to stop has let go of its directory.
func acquireFree(ctx context.Context, dir string) (*runLock, error) {
	for {
		l, err := acquire(ctx, dir)
		if !errors.Is(err, ErrRunning) || ctx.Err() != nil {
			return l, err
		}
	}
}

// fill writes what an old version needs: all but the host key, which is its own, and the name, which leads to the
// newest. The record comes first: what is cut short is known for what it is.
func (o *olds) fill(dir, binary string) error {
	n, serving := o.n, o.n.server.Serving()
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil { // whatever the mask says
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	record := oldRecord{Of: n.cfg.Dir, Version: n.serving.releaseVersion(), Schema: serving.Hash}
	if err := record.write(dir); err != nil {
		return err
	}
	err := copyFiles(filepath.Join(dir, "keys"), filepath.Join(n.cfg.Dir, "keys"), func(name string) bool { return name != hostKeyFile && name != nameKeyFile })
	if err != nil {
		return err
	}
	if _, id := n.serving.published(); id.Defined() {
		if err := copyFiles(filepath.Join(dir, publishedDir), n.serving.publishedFile(""), func(string) bool { return true }); err != nil {
			return err
		}
		if err := renameio.WriteFile(filepath.Join(dir, publishedDir, latestFile), []byte(id.String()+"\n"), 0o644); err != nil {
			return err
		}
	}
	if n.cfg.Cell.Speaks == celltoml.JSONL {
		if err := renameio.WriteFile(filepath.Join(dir, "schema.json"), serving.Schema.Canonical(), 0o644); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(dir, n.cfg.Cell.Binary), binary); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, celltoml.FileName), []byte(o.toml()), 0o644)
}

// toml gives the cell.toml of the version that runs, as an old one.
func (o *olds) toml() string {
	cfg := *o.n.cfg
	cfg.Cell.Version = o.n.serving.releaseVersion()
	cfg.LifeCycle.NucleusTimeout = cfg.LifeCycle.RetireAfter
	cfg.LifeCycle.AutoCleanup = false
	cfg.Network.Listen = anyPorts(cfg.Network.Listen)
	return "# Version " + cfg.Cell.Version + " of " + cfg.Cell.Name + ", for callers who have not moved on yet.\n" + string(cfg.Marshal())
}

// copyFiles copies the regular files of a directory, not those below.
func copyFiles(to, from string, want func(name string) bool) error {
	entries, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && want(e.Name()) {
			if err := copyFile(filepath.Join(to, e.Name()), filepath.Join(from, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := renameio.NewPendingFile(to, renameio.WithStaticPermissions(info.Mode().Perm()))
	if err != nil {
		return err
	}
	defer dst.Cleanup()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.CloseAtomicallyReplace()
}

// retireOld notes in an old version's own record that it has retired: it is not started again for a caller.
func (n *nucleus) retireOld() {
	r, err := readOld(n.cfg.Dir)
	if err != nil {
		return // it is none
	}
	r.Retired = true
	if err := r.write(n.cfg.Dir); err != nil {
		n.log.Warn("cannot note that this version has retired", zap.Error(err))
	}
}
