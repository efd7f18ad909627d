package call

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

// resolved is what a target stands for; exactly one of the first four is set.
type resolved struct {
	dir    string         // a cell's directory on this machine
	socket string         // a nucleus behind a Unix socket
	info   *peer.AddrInfo // a nucleus at a multiaddr
	cell   cid.Cid        // a published cell

	mirrorOf cid.Cid // of a directory: it is a mirror of this cell
	failing  string  // of a published cell: the directory of a mirror that has failed of late; "": there is none
	newest   cid.Cid // of a name: the version that it stands for
	made     string  // hash of the schema that the caller of it was made for, as bytes; "": not known
}

func (t resolved) where() string {
	switch {
	case t.dir != "":
		return t.dir
	case t.socket != "":
		return t.socket
	case t.info != nil:
		return t.info.ID.String()
	}
	return t.cell.String()
}

// ErrNoName is what a Finder says of what has not the form of a name.
var ErrNoName = errors.New("it is neither an IPNS name nor a domain")

// resolve finds out what a target is, in this order: a path, a name of cell.toml, a CID, a name of
// the network, a directory beside the cell.
func (c *Caller) resolve(ctx context.Context, target string) (resolved, error) {
	t, err := c.resolveTo(ctx, target)
	if err == nil && c.deps.MadeFor != nil {
		if hash := c.deps.MadeFor(target); !hash.IsZero() {
			t.made = string(hash[:])
		}
	}
	return t, err
}

func (c *Caller) resolveTo(ctx context.Context, target string) (resolved, error) {
	name := target // as the caller has it; an error says it
	if target == "" {
		return resolved{dir: c.cfg.Dir}, nil
	}
	if isPath(target) {
		return c.directory(target)
	}
	if to, ok := c.cfg.Deps[target]; ok {
		if _, git, _ := celltoml.GitDep(to); git {
			return c.repository(ctx, "resolve "+name, target)
		}
		if isPath(to) {
			return c.directory(to)
		}
		target = to
	}
	if to, ok := c.cfg.RemoteCells[target]; ok {
		return remoteCell("resolve "+name, to)
	}
	if id, ok := c.decoded(target); ok {
		return c.publishedAs(id, cellproto.CellID(target)), nil
	}
	if id, err := cid.Decode(target); err == nil && id.Type() != cid.Libp2pKey && !strings.HasPrefix(target, "Qm") {
		if id.Type() != cid.DagCBOR {
			return resolved{}, cellproto.Errorf("resolve "+name, cellproto.BadInput, "this CID names no cell: a manifest is a dag-cbor block").
				WithHint("Give the CID that cellctl publish printed.")
		}
		if id.String() == target { // not in another base
			c.keepDecoded(target, id)
		}
		return c.published(id), nil
	}
	if info, err := os.Stat(filepath.Join(c.cfg.Dir, target, "cell.toml")); err == nil && info.Mode().IsRegular() {
		return c.directory(target)
	}
	if c.deps.Finder == nil {
		return resolved{}, cellproto.Errorf("resolve "+name, cellproto.NotFound, "no directory, dependency or CID of that name, and no network to ask")
	}
	id, err := c.byName(ctx, "resolve "+name, target)
	if err != nil {
		return resolved{}, err
	}
	t := c.published(id)
	t.newest = id
	return t, nil
}

// repository gives the copy of a dependency by git, which is made if there is none.
func (c *Caller) repository(ctx context.Context, op, name string) (resolved, error) {
	if c.deps.Repos == nil {
		return resolved{}, cellproto.Errorf(op, cellproto.Unsupported, "a dependency by git cannot be called from here")
	}
	dir, ok, err := c.deps.Repos.Dir(ctx, name)
	if err == nil && !ok {
		err = cellproto.Errorf(op, cellproto.NotFound, "it was not under [deps] when this nucleus started").WithHint("cellctl restart")
	}
	return resolved{dir: dir}, err
}

func isPath(s string) bool {
	return s == "." || s == ".." || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") || filepath.IsAbs(s)
}

// directory is relative to the calling cell.
func (c *Caller) directory(path string) (resolved, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.cfg.Dir, path)
	}
	path = filepath.Clean(path)
	if _, err := os.Stat(filepath.Join(path, "cell.toml")); err != nil {
		return resolved{}, cellproto.Errorf("resolve "+path, cellproto.NotFound, "no cell there: %w", err).
			WithHint("A cell is a directory with a cell.toml; cellctl init makes one.")
	}
	return resolved{dir: path}, nil
}

func remoteCell(op, to string) (resolved, error) {
	if !strings.Contains(to, "/p2p/") {
		return resolved{socket: to}, nil
	}
	addr, err := multiaddr.NewMultiaddr(to)
	if err != nil {
		return resolved{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	info, err := peer.AddrInfoFromP2pAddr(addr)
	if err != nil {
		return resolved{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return resolved{info: info}, nil
}

// maxDecoded is how many CIDs are remembered as they are written: to decode one takes as long as all
// else that is done with a call to a cell that is known.
const maxDecoded = maxRemotes

func (c *Caller) decoded(target string) (cid.Cid, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.cids[target]
	return id, ok
}

func (c *Caller) keepDecoded(target string, id cid.Cid) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cids) >= maxDecoded {
		clear(c.cids)
	}
	c.cids[target] = id
}

// published is a cell by its CID. What this very nucleus serves needs no network.
func (c *Caller) published(id cid.Cid) resolved {
	return c.publishedAs(id, cellproto.CellID(id.String()))
}

func (c *Caller) publishedAs(id cid.Cid, name cellproto.CellID) resolved {
	if c.deps.Own != nil && c.deps.Own.Serving().Cell == name {
		return resolved{dir: c.cfg.Dir}
	}
	dir, failing, ok := c.mirrorDir(id, name)
	switch {
	case ok && !failing:
		return resolved{dir: dir, mirrorOf: id}
	case ok:
		return resolved{cell: id, failing: dir}
	}
	return resolved{cell: id}
}

// namesHint says what to try instead of a name that nothing has.
func (c *Caller) namesHint(name string) string {
	names := slices.Sorted(maps.Keys(c.cfg.Deps))
	names = slices.AppendSeq(names, maps.Keys(c.cfg.RemoteCells))
	switch {
	case strings.HasPrefix(name, "baf") || strings.HasPrefix(name, "k51"):
		return "Was all of it copied? Give what cellctl publish printed."
	case len(names) == 0:
		return "Give a directory (./" + name + "), a CID, or a name that is under [deps] of the calling cell."
	}
	return "These names are known here: " + strings.Join(names[:min(len(names), 20)], ", ") + "."
}

// direct gives the link to a nucleus that was named.
func (c *Caller) direct(ctx context.Context, t resolved) (*link, error) {
	switch {
	case t.info != nil:
		return c.links.peer(ctx, *t.info, "", t.made)
	case t.socket != "":
		return c.links.socket(ctx, t.socket, t.made, func(ctx context.Context) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", t.socket)
			if err != nil {
				return nil, cellproto.Errorf("connect to "+t.socket, cellproto.Unavailable, "%w", err).
					WithHint("Check that the nucleus behind this socket runs, or that the ssh forwarding stands.")
			}
			return conn, nil
		})
	}
	return c.links.socket(ctx, t.dir, t.made, func(ctx context.Context) (net.Conn, error) {
		conn, err := ctl.Dial(ctx, t.dir, ctl.CellSocket)
		if err == nil || c.deps.Wake == nil || !errors.Is(err, ctl.ErrNotRunning) {
			return conn, localError(t.dir, err)
		}
		if err := c.deps.Wake(ctx, t.dir); err != nil {
			return nil, err
		}
		conn, err = ctl.Dial(ctx, t.dir, ctl.CellSocket)
		return conn, localError(t.dir, err)
	})
}

func localError(dir string, err error) error {
	if err == nil {
		return nil
	}
	kind := cellproto.Unavailable
	if k := cellproto.KindOf(err); k == cellproto.Denied || k == cellproto.Timeout || k == cellproto.Canceled {
		kind = k
	}
	return cellproto.Errorf("connect to "+dir, kind, "%w", err).WithHint("Start it: cellctl start %s", dir)
}

// resolvePublished is resolve for those who want the published cell and not a nucleus: a directory
// stands for the version that was published from it last.
func (c *Caller) resolvePublished(ctx context.Context, target string) (resolved, error) {
	t, err := c.resolve(ctx, target)
	if err != nil || t.dir == "" {
		return t, err
	}
	if t.mirrorOf.Defined() {
		return resolved{cell: t.mirrorOf}, nil
	}
	f, err := os.Open(filepath.Join(t.dir, "published", "latest"))
	if err != nil {
		return t, nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*maxCID))
	if err != nil {
		return t, nil
	}
	if id, err := cid.Decode(strings.TrimSpace(string(text))); err == nil {
		return resolved{cell: id}, nil
	}
	return t, nil
}
