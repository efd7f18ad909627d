package content

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/zap"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
)

// File names an artefact: what a manifest says of it, and what FetchFile checks.
type File struct {
	CID    cid.Cid  // of the UnixFS file
	Size   int64    // bytes
	BLAKE3 [32]byte // BLAKE3-256 of the bytes
}

// stamp tells whether a file is still the one that was read.
type stamp struct {
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // Unix time in ns
	Inode   uint64 `json:"inode"`
}

func stampOf(fi os.FileInfo) stamp {
	st := stamp{Size: fi.Size(), ModTime: fi.ModTime().UnixNano()}
	if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
		st.Inode = sys.Ino
	}
	return st
}

// racy is how much older than its reading a file must be for its stamp to prove anything: file
// systems keep times to a tick (4 ms) up to two seconds (FAT), and within one tick a second write
// leaves no trace.
const racy = 2 * time.Second

// record is an artefact that is served from a file.
type record struct {
	CID    string `json:"cid"`
	Path   string `json:"path"` // absolute
	Stamp  stamp  `json:"stamp"`
	Read   int64  `json:"read"` // when it was imported, Unix time in ns
	Chunk  int    `json:"chunk"`
	BLAKE3 []byte `json:"blake3"`
	// Inner are the multihashes of the tree's inner nodes, which have files of their own in the store.
	Inner [][]byte `json:"inner,omitempty"`

	file     File
	outboard []byte   // Bao tree, group of groupLog
	leaves   [][]byte // SHA-256 of each leaf of Chunk bytes
}

// open opens the artefact's file. NotFound: it is gone, or is not the one any more; other kinds may
// pass. It never blocks, not even on a named pipe that has taken the file's place.
func (r *record) open() (*os.File, error) {
	op := "open artefact " + r.CID
	f, st, err := openRegular(r.Path)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if st != r.Stamp {
		_ = f.Close()
		return nil, cellproto.Errorf(op, cellproto.NotFound, "%s has changed", r.Path)
	}
	return f, nil
}

// trusted reports whether an equal stamp proves that the file was not written since it was read.
func (r *record) trusted() bool { return r.Stamp.ModTime < r.Read-int64(racy) }

// openRegular opens a regular file for reading.
func openRegular(path string) (*os.File, stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = cellproto.Errorf("open "+path, cellproto.NotFound, "it is no regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, stamp{}, err
	}
	return f, stampOf(fi), nil
}

// registry knows the artefacts that are served, and where each of their leaves is. Only what
// AddFile has put here is ever opened for a peer.
type registry struct {
	dir string // "" keeps it in memory
	log *zap.Logger

	mu     sync.RWMutex
	cid    map[cid.Cid]*record
	hash   map[[32]byte]*record
	leaves map[string][]leafRef // by SHA-256
	inner  map[string][]*record // by multihash; trees share nodes
}

type leafRef struct {
	rec   *record
	index int
}

// openRegistry reads the records of an earlier run; those that are damaged, or whose file has
// changed, are removed.
func openRegistry(dir string, log *zap.Logger) (*registry, error) {
	g := &registry{log: log, cid: make(map[cid.Cid]*record), hash: make(map[[32]byte]*record),
		leaves: make(map[string][]leafRef), inner: make(map[string][]*record)}
	if dir == "" {
		return g, nil
	}
	g.dir = filepath.Join(dir, "files")
	op := "open block store " + dir
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	for _, e := range entries {
		path := filepath.Join(g.dir, e.Name())
		if err := g.load(path); err != nil {
			log.Info("dropping the record of an artefact", zap.String("record", e.Name()), zap.Error(err))
			if err := os.Remove(path); err != nil {
				log.Warn("cannot remove a record", zap.Error(err))
			}
		}
	}
	return g, nil
}

func (g *registry) load(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rec, err := decodeRecord(data)
	if err != nil {
		return err
	}
	f, err := rec.open()
	if err != nil {
		return err
	}
	g.insert(rec)
	return f.Close()
}

// add keeps a record, in place of an older one of the same artefact or the same file.
func (g *registry) add(rec *record) {
	if old := g.byPath(rec.Path); old != nil {
		g.drop(old.file.CID)
	}
	g.drop(rec.file.CID)
	g.insert(rec)
	if g.dir == "" {
		return
	}
	data, err := rec.encode()
	if err == nil {
		err = renameio.WriteFile(filepath.Join(g.dir, rec.CID), data, 0o600, renameio.WithTempDir(g.dir))
	}
	if err != nil { // it is served all the same, until the next start
		g.log.Warn("cannot keep the record of an artefact", zap.String("path", rec.Path), zap.Error(err))
	}
}

func (g *registry) insert(rec *record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cid[rec.file.CID] = rec
	g.hash[rec.file.BLAKE3] = rec
	for i, sum := range rec.leaves {
		g.leaves[string(sum)] = append(g.leaves[string(sum)], leafRef{rec, i})
	}
	for _, hash := range rec.Inner {
		g.inner[string(hash)] = append(g.inner[string(hash)], rec)
	}
}

// drop forgets an artefact; its file is not touched.
func (g *registry) drop(c cid.Cid) {
	g.mu.Lock()
	rec := g.cid[c]
	if rec != nil {
		delete(g.cid, c)
		if g.hash[rec.file.BLAKE3] == rec {
			delete(g.hash, rec.file.BLAKE3)
		}
		for _, sum := range rec.leaves {
			key := string(sum)
			var rest []leafRef
			for _, ref := range g.leaves[key] {
				if ref.rec != rec {
					rest = append(rest, ref)
				}
			}
			if g.leaves[key] = rest; rest == nil {
				delete(g.leaves, key)
			}
		}
		for _, hash := range rec.Inner {
			key := string(hash)
			g.inner[key] = slices.DeleteFunc(g.inner[key], func(other *record) bool { return other == rec })
			if len(g.inner[key]) == 0 {
				delete(g.inner, key)
			}
		}
	}
	g.mu.Unlock()
	if rec == nil || g.dir == "" {
		return
	}
	if err := os.Remove(filepath.Join(g.dir, rec.CID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		g.log.Warn("cannot remove a record", zap.Error(err))
	}
}

// innerOf gives an artefact of whose tree this is an inner node, or nil.
func (g *registry) innerOf(hash mh.Multihash) *record {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if recs := g.inner[string(hash)]; len(recs) > 0 {
		return recs[0]
	}
	return nil
}

// has reports that a block is one of an artefact's tree.
func (g *registry) has(c cid.Cid) bool { return len(g.find(c)) > 0 || g.innerOf(c.Hash()) != nil }

func (g *registry) byCID(c cid.Cid) *record {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.cid[c]
}

func (g *registry) byHash(sum [32]byte) *record {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.hash[sum]
}

func (g *registry) byPath(path string) *record {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, rec := range g.cid {
		if rec.Path == path {
			return rec
		}
	}
	return nil
}

func (g *registry) cids() []cid.Cid {
	g.mu.RLock()
	defer g.mu.RUnlock()
	out := make([]cid.Cid, 0, len(g.cid))
	for c := range g.cid {
		out = append(out, c)
	}
	return out
}

// find gives the places where the leaf c is.
func (g *registry) find(c cid.Cid) []leafRef {
	if c.Prefix().MhType != mh.SHA2_256 {
		return nil
	}
	dec, err := mh.Decode(c.Hash())
	if err != nil {
		return nil
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.leaves[string(dec.Digest)]
}

func (g *registry) leafSize(c cid.Cid) (int, bool) {
	for _, ref := range g.find(c) {
		return ref.size(), true
	}
	return 0, false
}

func (r leafRef) size() int {
	return int(min(int64(r.rec.Chunk), r.rec.file.Size-int64(r.index)*int64(r.rec.Chunk)))
}

// leaf reads the leaf c from the file that it is part of, and checks its hash. An artefact whose
// file has changed is dropped.
func (g *registry) leaf(c cid.Cid) ([]byte, bool) {
	for _, ref := range g.find(c) {
		data, err := ref.read()
		if err == nil && !matches(c, data) {
			err = cellproto.Errorf("read artefact "+ref.rec.CID, cellproto.NotFound, "its bytes have changed")
		}
		if err == nil {
			return data, true
		}
		g.log.Info("cannot read an artefact", zap.String("path", ref.rec.Path), zap.Error(err))
		if cellproto.KindOf(err) == cellproto.NotFound {
			g.drop(ref.rec.file.CID)
		}
	}
	return nil, false
}

func (r leafRef) read() ([]byte, error) {
	f, err := r.rec.open()
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	data := make([]byte, r.size())
	_, err = f.ReadAt(data, int64(r.index)*int64(r.rec.Chunk))
	if err == io.EOF {
		err = nil // the last leaf, or a file that was cut this moment: the hash tells
	}
	return data, err
}

// encode gives a record's file: a line of JSON, the Bao tree, the hashes of the leaves, and the
// BLAKE3 of all that, because a record that was damaged would make this node serve false trees.
func (r *record) encode() ([]byte, error) {
	head, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	buf := bytes.NewBuffer(append(head, '\n'))
	buf.Write(r.outboard)
	for _, sum := range r.leaves {
		buf.Write(sum)
	}
	sum := blake3.Sum256(buf.Bytes())
	buf.Write(sum[:])
	return buf.Bytes(), nil
}

func decodeRecord(data []byte) (*record, error) {
	if len(data) < 32 {
		return nil, errors.New("it is cut off")
	}
	body := data[:len(data)-32]
	if blake3.Sum256(body) != [32]byte(data[len(body):]) {
		return nil, errors.New("its checksum is wrong")
	}
	head, rest, _ := bytes.Cut(body, []byte{'\n'})
	r := &record{}
	if err := json.Unmarshal(head, r); err != nil {
		return nil, err
	}
	c, err := cid.Decode(r.CID)
	if err != nil {
		return nil, err
	}
	if len(r.BLAKE3) != 32 || r.Stamp.Size < 0 || r.Stamp.Size > DefaultMaxFile || r.Chunk != chunkBytes {
		return nil, errors.New("it is of another version")
	}
	r.file = File{CID: c, Size: r.Stamp.Size, BLAKE3: [32]byte(r.BLAKE3)}
	tree, leaves := outboardSize(r.file.Size), leafCount(r.file.Size)
	if len(rest) != tree+32*leaves || (leaves > 1) != (len(r.Inner) > 0) {
		return nil, errors.New("its length is wrong")
	}
	r.outboard = rest[:tree]
	for i := range leaves {
		r.leaves = append(r.leaves, rest[tree+32*i:][:32])
	}
	return r, nil
}

// AddFile makes the file at path an artefact: its UnixFS tree is served by bitswap to any IPFS node
// and the file itself by /cell/fetch/1. Nothing is copied: the file must stay as it is, and when it
// is changed, replaced or removed, the artefact is gone until the new file is added.
//
// The CID is that of `ipfs add --cid-version=1`. Adding a file again that has not changed costs a
// few system calls. A file over Config.MaxFile is TooLarge; one that changes meanwhile is Failed.
func (s *Store) AddFile(ctx context.Context, path string) (File, error) {
	op := "add " + path
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return File{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	f, st, err := openRegular(abs)
	if err != nil {
		return File{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close() // only read from
	if st.Size > s.cfg.MaxFile {
		return File{}, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", st.Size, s.cfg.MaxFile)
	}
	if rec := s.files.byPath(abs); rec != nil && rec.Stamp == st && rec.trusted() && s.whole(ctx, rec.file.CID) {
		return rec.file, nil
	}

	s.gc.RLock()
	defer s.gc.RUnlock()
	read := time.Now()
	imp, err := importFile(ctx, f, st.Size, s.blocks.put)
	if err != nil {
		return File{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if fi, err := f.Stat(); err != nil || stampOf(fi) != st {
		return File{}, cellproto.Errorf(op, cellproto.Failed, "it changed while it was read").
			WithHint("Wait until it is written, then try again.")
	}
	rec := &record{
		CID: imp.root.String(), Path: abs, Stamp: st, Read: read.UnixNano(), Chunk: chunkBytes, BLAKE3: imp.sum[:],
		Inner:    imp.inner,
		file:     File{CID: imp.root, Size: st.Size, BLAKE3: imp.sum},
		outboard: imp.outboard, leaves: imp.leaves,
	}
	s.files.add(rec)
	return rec.file, nil
}

// whole reports whether the inner nodes of an artefact's tree are here and sound. Its leaves are
// in its file.
func (s *Store) whole(ctx context.Context, c cid.Cid) bool {
	if !hasLinks(c) {
		return true
	}
	data, err := s.blocks.get(ctx, c)
	if err != nil {
		return false
	}
	for _, child := range links(c, data) {
		if !s.whole(ctx, child) {
			return false
		}
	}
	return true
}

// sameFile reports whether path is a regular file with want's bytes.
func sameFile(path string, want File) bool {
	f, st, err := openRegular(path)
	if err != nil {
		return false
	}
	defer f.Close() // only read from
	if st.Size != want.Size {
		return false
	}
	sum, err := hashOf(f)
	return err == nil && sum == want.BLAKE3
}

func hashOf(r io.Reader) (sum [32]byte, err error) {
	h := blake3.New(32, nil)
	if _, err = io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 256<<10)); err == nil {
		h.Sum(sum[:0])
	}
	return sum, err
}

// partPath is where a fetch of want to dst keeps what it has: a name of its own for each content,
// so that the rest of one version is never taken for another's.
func partPath(dst string, want File) string {
	dir, base := filepath.Split(dst)
	return dir + "." + strings.TrimPrefix(base, ".") + fmt.Sprintf(".%x.part", want.BLAKE3[:8])
}
