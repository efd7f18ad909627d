package content

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	unixfspb "github.com/ipfs/boxo/ipld/unixfs/pb"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
	"golang.org/x/sync/errgroup"
	"lukechampine.com/blake3/bao"

	"github.com/celldnet/celld/cellproto"
)

// Shape of the trees that are made, and limits of those that are read. The shape is that of
// `ipfs add --cid-version=1`: anyone can check a manifest's CID with kubo.
const (
	chunkBytes = 256 << 10 // bytes of a leaf, which is a raw block
	linksNode  = 174       // links of an inner node

	maxDepth   = 8       // levels of a tree that is fetched; 174^4 leaves are 240 TB
	aheadBytes = 4 << 20 // bytes of leaves that are asked for before they are needed
	maxAhead   = 16      // leaves, likewise
)

func leafCount(size int64) int {
	return int(max(1, (size+chunkBytes-1)/chunkBytes)) // an empty file is one empty leaf
}

// imported is what one reading of a file gives.
type imported struct {
	root     cid.Cid
	sum      [32]byte // BLAKE3
	outboard []byte   // Bao tree, groups of groupLog
	leaves   [][]byte // SHA-256 of each leaf
	inner    [][]byte // multihash of each inner node
}

// importFile reads size bytes of f once for the UnixFS tree and, at the same time on another core,
// once for the BLAKE3 tree; the second reading comes from the page cache. Inner nodes go to put.
func importFile(ctx context.Context, f io.ReaderAt, size int64, put func(context.Context, cid.Cid, []byte) error) (*imported, error) {
	imp := &imported{}
	g, ctx := errgroup.WithContext(ctx)
	section := func() io.Reader { return &ctxReader{ctx, io.NewSectionReader(f, 0, size)} }
	g.Go(func() (err error) {
		imp.outboard = make([]byte, outboardSize(size))
		imp.sum, err = bao.Encode(writerAt(imp.outboard), section(), size, groupLog, true)
		return err
	})
	g.Go(func() error {
		sink := &dagSink{ctx: ctx, put: put}
		params := helpers.DagBuilderParams{
			Dagserv: sink, RawLeaves: true, Maxlinks: linksNode,
			CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: mh.SHA2_256},
		}
		db, err := params.New(&chunker{r: section()})
		if err != nil {
			return err
		}
		root, err := balanced.Layout(db)
		if err != nil {
			return err
		}
		imp.root, imp.leaves, imp.inner = root.Cid(), sink.leaves, sink.inner
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if len(imp.leaves) != leafCount(size) {
		return nil, io.ErrUnexpectedEOF // it was shortened between two reads
	}
	return imp, nil
}

// ctxReader stops reading when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// writerAt is memory of a fixed size.
type writerAt []byte

func (w writerAt) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(w)) {
		return 0, io.ErrShortBuffer
	}
	n := copy(w[off:], p)
	if n < len(p) {
		return n, io.ErrShortBuffer
	}
	return n, nil
}

// chunker cuts a reader into leaves. It has two buffers and uses them in turn: the builder reads
// one leaf ahead, and keeps of a leaf only its hash.
type chunker struct {
	r   io.Reader
	buf [2][]byte
	i   int
}

func (c *chunker) Reader() io.Reader { return c.r }

func (c *chunker) NextBytes() ([]byte, error) {
	c.i ^= 1
	if c.buf[c.i] == nil {
		c.buf[c.i] = make([]byte, chunkBytes)
	}
	n, err := io.ReadFull(c.r, c.buf[c.i])
	if err == io.ErrUnexpectedEOF {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return c.buf[c.i][:n], nil
}

// dagSink takes what the builder makes: leaves' hashes, inner nodes whole. The builder only adds.
type dagSink struct {
	ipld.DAGService
	ctx    context.Context
	put    func(context.Context, cid.Cid, []byte) error
	leaves [][]byte
	inner  [][]byte
}

func (d *dagSink) Add(_ context.Context, n ipld.Node) error {
	if _, ok := n.(*merkledag.RawNode); !ok {
		d.inner = append(d.inner, n.Cid().Hash())
		return d.put(d.ctx, n.Cid(), n.RawData())
	}
	dec, err := mh.Decode(n.Cid().Hash())
	if err == nil {
		d.leaves = append(d.leaves, bytes.Clone(dec.Digest))
	}
	return err
}

// walk fetches a UnixFS file of size bytes block by block, in order.
type walk struct {
	get  func(ctx context.Context, c cid.Cid) ([]byte, error)
	from int64 // what lies before this offset is there already
	sink func(off int64, data []byte) error
}

// node writes the part of the file that c holds: size bytes from off on.
func (w *walk) node(ctx context.Context, c cid.Cid, data []byte, off, size int64, depth int) error {
	op := "read file block " + c.String()
	if off+size <= w.from && size > 0 {
		return nil
	}
	if depth > maxDepth {
		return cellproto.Errorf(op, cellproto.BadInput, "the tree is over %d levels deep", maxDepth)
	}
	leaf, children, sizes, err := parseNode(c, data)
	if err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	total := int64(len(leaf))
	for _, n := range sizes {
		if n == 0 || n > uint64(size) { // an empty child would let a small tree ask for endless blocks
			total = -1
			break
		}
		total += int64(n)
	}
	if total != size {
		return cellproto.Errorf(op, cellproto.Corrupt, "it holds not the %d bytes that it should", size)
	}
	if skip := w.from - off; len(leaf) > 0 && skip < int64(len(leaf)) {
		skip = max(skip, 0)
		if err := w.sink(off+skip, leaf[skip:]); err != nil {
			return err
		}
	}
	return w.children(ctx, children, sizes, off+int64(len(leaf)), depth)
}

// children fetches what a node links to, a few ahead of the one that is being written.
func (w *walk) children(ctx context.Context, children []cid.Cid, sizes []uint64, off int64, depth int) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type fetched struct {
		data []byte
		err  error
	}
	ahead := make(chan chan fetched, maxAhead)
	next, end, budget := 0, off, int64(0)
	fill := func() {
		for next < len(children) && len(ahead) < maxAhead && (len(ahead) == 0 || budget+int64(sizes[next]) <= aheadBytes) {
			done, c, n := make(chan fetched, 1), children[next], int64(sizes[next])
			budget += n
			if end += n; end > w.from {
				wg.Go(func() {
					data, err := w.get(ctx, c)
					done <- fetched{data, err}
				})
			} else {
				done <- fetched{}
			}
			ahead <- done
			next++
		}
	}
	for i, c := range children {
		fill()
		got := <-<-ahead
		if got.err != nil {
			return got.err
		}
		n := int64(sizes[i])
		budget -= n
		if off+n > w.from {
			if err := w.node(ctx, c, got.data, off, n, depth+1); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// parseNode takes one block of a UnixFS file apart.
func parseNode(c cid.Cid, data []byte) (leaf []byte, children []cid.Cid, sizes []uint64, err error) {
	switch c.Type() {
	case cid.Raw:
		return data, nil, nil, nil
	case cid.DagProtobuf:
	default:
		return nil, nil, nil, unixfs.ErrUnrecognizedType
	}
	node, err := merkledag.DecodeProtobuf(data)
	if err != nil {
		return nil, nil, nil, err
	}
	fs, err := unixfs.FSNodeFromBytes(node.Data())
	if err != nil {
		return nil, nil, nil, err
	}
	if t := fs.Type(); t != unixfspb.Data_File && t != unixfspb.Data_Raw {
		return nil, nil, nil, unixfs.ErrUnrecognizedType
	}
	if fs.NumChildren() != len(node.Links()) {
		return nil, nil, nil, unixfs.ErrMalformedFileFormat
	}
	for _, l := range node.Links() {
		children = append(children, l.Cid)
	}
	return fs.Data(), children, fs.BlockSizes(), nil
}

// walkFile fetches what p lacks of want by bitswap: from the peers named, else from those that the
// routing finds for its root. The caller checks the whole.
func (s *Store) walkFile(ctx context.Context, want File, named []peer.ID, p *part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the searches
	var mu sync.Mutex
	var good peer.ID // sent the last block: is asked first
	get := func(ctx context.Context, c cid.Cid) ([]byte, error) {
		if err := checkCID("get block "+c.String(), c); err != nil {
			return nil, err
		}
		if data, err := s.blocks.get(ctx, c); err == nil {
			return data, nil
		}
		mu.Lock()
		order, wait := named, s.timing.stagger
		if good != "" {
			order, wait = append([]peer.ID{good}, named...), s.timing.leaf
		}
		mu.Unlock()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		data, from, err := s.x.get(ctx, c, s.candidates(ctx, want.CID, order), wait)
		if err == nil {
			mu.Lock()
			good = from
			mu.Unlock()
		}
		return data, err
	}
	root, err := get(ctx, want.CID)
	if err != nil {
		return err
	}
	w := &walk{get: get, from: p.done, sink: func(off int64, data []byte) error {
		if off != p.done {
			return cellproto.Errorf("write "+p.path, cellproto.Failed, "blocks out of order: %w", os.ErrInvalid)
		}
		_, err := p.Write(data)
		return err
	}}
	return w.node(ctx, want.CID, root, 0, want.Size, 0)
}
