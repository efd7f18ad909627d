package call

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// cache is the caller's memory of others between runs: Dir/.cell-cache/<cell>/. All of it can be
// deleted at any time, and what cannot be read counts as deleted.
//
//	reputation.json             of all peers
//	names.json                  what names stood for last: name -> CID
//	<cell>/manifest.cbor        the manifest's block
//	<cell>/schema.json          its schema
//	<cell>/winner.json          the winner of the last race, and where the providers were
//	<cell>/token                tokens, by server; 0600
//	<cell>/race.log             the last 100 races
//
// It keeps maxCells cells; those that were used longest ago make room.
type cache struct {
	dir string // "": keep nothing
	log *zap.Logger
	mu  sync.Mutex // one writer at a time

	tokensMu sync.Mutex // held while a file of tokens is read and rewritten
}

const (
	cacheDir      = ".cell-cache"
	namesFile     = "names.json"
	maxCells      = 256
	maxCacheFile  = 8 << 20 // bytes; the largest is reputation.json
	maxTokenStore = 64 << 10
	maxTokens     = 32 // in one file; as base64 they are at most two thirds of it
)

func openCache(dir string, log *zap.Logger) *cache {
	if dir == "" {
		return &cache{log: log}
	}
	c := &cache{dir: filepath.Join(dir, cacheDir), log: log}
	sweep(c.dir)
	return c
}

// sweep removes the temporary files of writes that were cut off. Nobody else may write there meanwhile.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), ".") {
			_ = os.Remove(filepath.Join(dir, e.Name())) // it only takes room
		}
	}
}

// cellDirName makes a directory name of a CID, path or socket.
func cellDirName(cell string) string {
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator || r == 0 {
			return '-'
		}
		return r
	}, strings.Trim(cell, "/"))
	name = strings.TrimLeft(name, ".")
	if name == "" {
		return "-"
	}
	return name[max(0, len(name)-120):]
}

func (c *cache) read(parts ...string) []byte {
	if c.dir == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(append([]string{c.dir}, parts...)...))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCacheFile))
	if err != nil {
		return nil
	}
	return data
}

// write replaces a file atomically. A cache that cannot be written costs speed only.
func (c *cache) write(data []byte, perm fs.FileMode, parts ...string) {
	if c.dir == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	path := filepath.Join(append([]string{c.dir}, parts...)...)
	err := c.makeDir(filepath.Dir(path))
	if err == nil {
		if info, serr := os.Lstat(path); serr == nil && info.IsDir() {
			_ = os.RemoveAll(path) // not ours: a file belongs there
		}
		err = renameio.WriteFile(path, data, perm)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the cell was removed meanwhile
		c.log.Warn("cannot write the cache", zap.String("file", path), zap.Error(err))
	}
}

// makeDir makes the directory of a cell, or of all, if it is not there, and room for it. c.mu is held.
func (c *cache) makeDir(dir string) error {
	info, err := os.Lstat(dir)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil && !info.IsDir() {
		_ = os.Remove(dir) // not ours: a directory belongs there
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c.makeRoom(filepath.Base(dir))
	return nil
}

// makeRoom removes the cells that were used longest ago, but for a new one, beyond maxCells.
func (c *cache) makeRoom(but string) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	type cell struct {
		name string
		used time.Time
	}
	var cells []cell
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.IsDir() && e.Name() != but {
			cells = append(cells, cell{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(cells, func(a, b cell) int { return b.used.Compare(a.used) })
	for _, old := range cells[min(len(cells), maxCells-1):] {
		if err := os.RemoveAll(filepath.Join(c.dir, old.name)); err != nil {
			c.log.Warn("cannot make room in the cache", zap.String("cell", old.name), zap.Error(err))
		}
	}
}

// use notes that a cell is used, which every write does too.
func (c *cache) use(cell string) {
	if c.dir == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	dir, now := filepath.Join(c.dir, cell), time.Now()
	_ = os.Chtimes(dir, now, now) // it is not there yet, or cannot be written either
	sweep(dir)
}

func (c *cache) reputation() *race.Reputation {
	rep := race.NewReputation()
	if data := c.read("reputation.json"); data != nil {
		if err := json.Unmarshal(data, rep); err != nil {
			c.log.Info("reputation.json is damaged and starts anew", zap.Error(err))
			return race.NewReputation()
		}
	}
	return rep
}

// named keeps what a name stands for, for those who ask while there is no network. Nothing is called by it.
func (c *cache) named(name string, id cid.Cid) {
	known := map[string]string{}
	if err := json.Unmarshal(c.read(namesFile), &known); err != nil || len(known) >= maxNames {
		known = map[string]string{}
	}
	known[name] = id.String()
	if data, err := json.Marshal(known); err == nil {
		c.write(data, 0o600, namesFile)
	}
}

func (c *cache) setReputation(data []byte) { c.write(data, 0o600, "reputation.json") }

// winnerFile is winner.json.
type winnerFile struct {
	race.Cached
	Providers []providerEntry `json:"providers"` // where they were, the best first
}

type providerEntry struct {
	Peer  string   `json:"peer"`
	Addrs []string `json:"addrs"`
}

// load fills r with what is remembered of it.
func (c *cache) load(r *remote) {
	cell := cellDirName(string(r.name))
	c.use(cell)
	if block := c.read(cell, "manifest.cbor"); block != nil {
		if m, err := signed.OpenManifest(r.id, block); err == nil {
			s, err := cellproto.ParseSchema(c.read(cell, "schema.json"))
			if err == nil && s.Hash() == m.SchemaHash {
				r.describe(m, s)
			} else if !m.Schema.Defined() {
				r.describe(m, nil)
			}
		}
	}
}

// candidates gives the providers of earlier races, so that they are asked before the network has
// answered.
func (c *cache) candidates(r *remote) []Found {
	data := c.read(cellDirName(string(r.name)), "winner.json")
	var w winnerFile
	if len(data) > cellproto.MaxManifest || json.Unmarshal(data, &w) != nil {
		return nil
	}
	var out []Found
	for _, p := range w.Providers[:min(len(w.Providers), cellproto.MaxProbed)] {
		id, err := peer.Decode(p.Peer)
		if err != nil {
			continue
		}
		info := peer.AddrInfo{ID: id}
		for _, a := range p.Addrs[:min(len(p.Addrs), cellproto.MaxAdvertAddrs)] {
			if addr, err := multiaddr.NewMultiaddr(a); err == nil {
				info.Addrs = append(info.Addrs, addr)
			}
		}
		out = append(out, Found{Info: info, Source: "dht"})
	}
	return out
}

// described keeps the manifest and the schema.
func (c *cache) described(r *remote, block []byte, s *cellproto.Schema) {
	cell := cellDirName(string(r.name))
	if s != nil {
		c.write(s.Canonical(), 0o600, cell, "schema.json")
	}
	c.write(block, 0o600, cell, "manifest.cbor")
}

// raced keeps the outcome of a race.
func (c *cache) raced(r *remote, d *race.Decision, why race.Reason) {
	cell := cellDirName(string(r.name))
	if entry, err := race.AppendLog(c.read(cell, "race.log"), d.Log(r.name, why)); err == nil {
		c.write(entry, 0o600, cell, "race.log")
	}
	if d.Winner == "" {
		return
	}
	r.mu.Lock()
	w := winnerFile{Cached: r.winner}
	for _, k := range d.Ranking[:min(len(d.Ranking), cellproto.MaxProbed)] {
		info := r.infos[k.Peer]
		if k.Out != "" || len(info.Addrs) == 0 {
			continue
		}
		e := providerEntry{Peer: string(k.Peer)}
		for _, a := range info.Addrs {
			e.Addrs = append(e.Addrs, a.String())
		}
		w.Providers = append(w.Providers, e)
	}
	r.mu.Unlock()
	if data, err := json.Marshal(w); err == nil {
		c.write(data, 0o600, cell, "winner.json")
	}
}

// cellTokens is the token store of one cell.
type cellTokens struct {
	c    *cache
	cell string
}

func (c *cache) tokens(cell string) tokenStore { return cellTokens{c, cellDirName(cell)} }

// tokenFile is the file token.
type tokenFile map[string]savedToken

type savedToken struct {
	Token []byte    `json:"token"`
	Until time.Time `json:"until"`
}

func (t cellTokens) all() tokenFile {
	f := tokenFile{}
	data := t.c.read(t.cell, "token")
	if len(data) > maxTokenStore || json.Unmarshal(data, &f) != nil {
		return tokenFile{}
	}
	now := time.Now()
	maps.DeleteFunc(f, func(_ string, s savedToken) bool {
		// What holds for longer than any token does was not written here.
		return !now.Before(s.Until) || s.Until.Sub(now) > cellproto.TokenTTL || len(s.Token) == 0 || len(s.Token) > cellproto.MaxToken
	})
	return f
}

func (t cellTokens) token(server string) ([]byte, time.Time) {
	s := t.all()[server]
	return s.Token, s.Until
}

// setToken keeps a token, and as many of the others as there is room for.
func (t cellTokens) setToken(server string, token []byte, until time.Time) {
	t.change(func(f tokenFile) bool {
		for len(f) >= maxTokens {
			oldest := server
			for other, s := range f {
				if o, ok := f[oldest]; !ok || s.Until.Before(o.Until) {
					oldest = other
				}
			}
			delete(f, oldest)
		}
		f[server] = savedToken{token, until}
		return true
	})
}

func (t cellTokens) dropToken(server string, token []byte) {
	t.change(func(f tokenFile) bool {
		if !bytes.Equal(f[server].Token, token) {
			return false
		}
		delete(f, server)
		return true
	})
}

// change rewrites the file, if what it does to the content says so.
func (t cellTokens) change(do func(tokenFile) bool) {
	t.c.tokensMu.Lock()
	defer t.c.tokensMu.Unlock()
	f := t.all()
	if !do(f) {
		return
	}
	if data, err := json.Marshal(f); err == nil {
		t.c.write(data, 0o600, t.cell, "token")
	}
}
