package content

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/verifcid"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// maxBlock is the largest block that bitswap peers accept, in bytes
// (https://specs.ipfs.tech/bitswap-protocol/#block-sizes).
const maxBlock = 2 << 20

// maxCID bounds the binary form of a CID in bytes: four varints and the longest digest that
// verifcid allows, which is 128.
const maxCID = 168

// blockStore keeps blocks, checks each one's hash when it is read, and sees the leaves of artefacts
// as blocks too.
//
// Blocks are written without fsync: a power cut can leave one empty or half-written, the hash
// finds that out, the block is removed and put back or fetched again (heal.go). An fsync for each
// block would cost 5 to 10 ms of a router's flash, and protect nothing that cannot be had again.
type blockStore struct {
	bs        blockstore.Blockstore
	data      datastore.Batching
	dir       string // of flatfs; "": in memory
	max       int64  // bytes of all blocks
	files     *registry
	originals Originals // may be nil
	usage     *usage
	log       *zap.Logger

	changing sync.RWMutex // held for writing while a block is removed, so that usage knows what is there
	remaking sync.Mutex   // held while an artefact's blocks are made again
}

// openBlocks opens the blocks under cfg.Dir.
func openBlocks(cfg Config, files *registry, originals Originals, log *zap.Logger) (*blockStore, error) {
	b := &blockStore{max: cfg.MaxBlocks, files: files, originals: originals, usage: newUsage(), log: log}
	b.data = dssync.MutexWrap(datastore.NewMapDatastore())
	if cfg.Dir != "" && onFiles {
		b.dir = filepath.Join(cfg.Dir, "store")
		var err error
		if b.data, err = openFlatfs(b.dir, log); err != nil {
			return nil, cellproto.Errorf("open block store "+cfg.Dir, cellproto.KindOf(err), "%w", err)
		}
	}
	// No prefix: flatfs takes one-part keys only. Write through: a block on disk may be corrupt,
	// so that finding its file is no reason not to write it.
	b.bs = blockstore.NewBlockstore(b.data, blockstore.NoPrefix(), blockstore.WriteThrough(true))
	return b, nil
}

func (b *blockStore) close() error { return b.data.Close() }

// get gives a block whose hash is right, from wherever on this machine it can be had. One whose hash is
// wrong is removed, and NotFound if it is nowhere else.
func (b *blockStore) get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := inline(c); ok {
		return data, nil
	}
	data, err := b.stored(ctx, c)
	if err == nil {
		b.touched(c)
		return data, nil
	}
	if cellproto.KindOf(err) != cellproto.NotFound {
		return nil, err
	}
	if data, ok := b.files.leaf(c); ok {
		return data, nil
	}
	if data, ok := b.mend(ctx, c); ok {
		return data, nil
	}
	return nil, err
}

// stored gives a block that has a file of its own.
func (b *blockStore) stored(ctx context.Context, c cid.Cid) ([]byte, error) {
	op := "read block " + c.String()
	size, err := b.bs.GetSize(ctx, c)
	var data []byte
	if err == nil && size <= maxBlock { // what is larger has never been put there
		var blk blocks.Block
		if blk, err = b.bs.Get(ctx, c); err == nil {
			data = blk.RawData()
		}
	}
	switch {
	case ipld.IsNotFound(err):
		return nil, cellproto.Errorf(op, cellproto.NotFound, "it is not here")
	case err != nil:
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	case size > maxBlock || !matches(c, data):
		b.log.Warn("removing a corrupt block", zap.Stringer("cid", c), zap.Int("bytes", size))
		if err := b.delete(ctx, c); err != nil {
			return nil, err
		}
		return nil, cellproto.Errorf(op, cellproto.NotFound, "%w", errWasCorrupt)
	}
	return data, nil
}

// size gives a block's size in bytes without reading it.
func (b *blockStore) size(ctx context.Context, c cid.Cid) (int, bool) {
	if data, ok := inline(c); ok {
		return len(data), true
	}
	if n, err := b.bs.GetSize(ctx, c); err == nil {
		return n, true
	}
	if n, ok := b.files.leafSize(c); ok {
		return n, true
	}
	if !b.owned(c.Hash()) {
		return 0, false
	}
	data, err := b.get(ctx, c) // puts it back
	return len(data), err == nil
}

func (b *blockStore) put(ctx context.Context, c cid.Cid, data []byte) error {
	if _, ok := inline(c); ok {
		return nil
	}
	b.changing.RLock()
	defer b.changing.RUnlock()
	blk, err := blocks.NewBlockWithCid(data, c)
	if err == nil {
		err = b.bs.Put(ctx, blk)
	}
	if errors.Is(err, os.ErrNotExist) && b.dir != "" { // somebody has deleted the cache
		if err = os.MkdirAll(filepath.Join(b.dir, ".temp"), 0o755); err == nil { // flatfs makes the others itself
			err = b.bs.Put(ctx, blk)
		}
	}
	if err == nil {
		b.usage.put(c.Hash(), int64(len(data)), time.Now())
	}
	if err != nil {
		return cellproto.Errorf("keep block "+c.String(), cellproto.KindOf(err), "%w", err)
	}
	return nil
}

func (b *blockStore) delete(ctx context.Context, c cid.Cid) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	if err := b.bs.DeleteBlock(ctx, c); err != nil && !ipld.IsNotFound(err) {
		return cellproto.Errorf("remove block "+c.String(), cellproto.KindOf(err), "%w", err)
	}
	b.usage.remove(c.Hash())
	return nil
}

// keys lists the stored blocks, each as a CIDv1 of codec raw: the store knows hashes only.
func (b *blockStore) keys(ctx context.Context) ([]cid.Cid, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch, err := b.bs.AllKeysChan(ctx)
	if err != nil {
		return nil, cellproto.Errorf("list blocks", cellproto.KindOf(err), "%w", err)
	}
	var out []cid.Cid
	for c := range ch {
		out = append(out, c)
	}
	return out, ctx.Err()
}

// checkCID refuses CIDs whose hash function could be forged, and those that are no CID at all.
func checkCID(op string, c cid.Cid) error {
	if !c.Defined() {
		return cellproto.Errorf(op, cellproto.BadInput, "no CID was given")
	}
	err := verifcid.ValidateCid(verifcid.DefaultAllowlist, c)
	if err == nil && c.Prefix().MhType == mh.SHA1 {
		err = errors.New("SHA-1 can be forged")
	}
	if err == nil && c.ByteLen() > maxCID {
		err = errors.New("the CID is too long")
	}
	if err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return nil
}

// matches reports whether data hashes to c.
func matches(c cid.Cid, data []byte) bool {
	sum, err := c.Prefix().Sum(data)
	return err == nil && sum.Equals(c)
}

// inline gives the bytes of a CID that carries its block within itself.
func inline(c cid.Cid) ([]byte, bool) {
	if !c.Defined() || c.Prefix().MhType != mh.IDENTITY {
		return nil, false
	}
	dec, err := mh.Decode(c.Hash())
	if err != nil {
		return nil, false
	}
	return dec.Digest, true
}

func hasLinks(c cid.Cid) bool {
	return c.Type() == cid.DagProtobuf || c.Type() == cid.DagCBOR
}

// links lists the CIDs that a dag-pb or dag-cbor block points to; malformed blocks point to none.
func links(c cid.Cid, data []byte) []cid.Cid {
	var out []cid.Cid
	switch c.Type() {
	case cid.DagProtobuf:
		node, err := merkledag.DecodeProtobuf(data)
		if err != nil {
			return nil
		}
		for _, l := range node.Links() {
			out = append(out, l.Cid)
		}
	case cid.DagCBOR:
		var value any
		if cbor.Unmarshal(data, &value) == nil {
			out = cborLinks(value, nil)
		}
	}
	return out
}

// cborLinks collects the values of tag 42, whose bytes are 0 and then a binary CID
// (https://ipld.io/specs/codecs/dag-cbor/spec/#links).
func cborLinks(value any, out []cid.Cid) []cid.Cid {
	switch v := value.(type) {
	case cbor.Tag:
		raw, ok := v.Content.([]byte)
		if v.Number != 42 || !ok || len(raw) < 2 || raw[0] != 0 {
			return out
		}
		if c, err := cid.Cast(raw[1:]); err == nil {
			out = append(out, c)
		}
	case []any:
		for _, item := range v {
			out = cborLinks(item, out)
		}
	case map[any]any:
		for _, item := range v {
			out = cborLinks(item, out)
		}
	}
	return out
}
