package content

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// A block that is damaged or gone while the store runs is put back at once: one that is kept
// elsewhere on this machine, from there; an inner node of an artefact, from the artefact's file;
// another peer's, by fetching it again.

// Originals says which file holds the bytes of the block with this hash besides the store. It must be
// quick, and safe for concurrent use.
type Originals func(hash mh.Multihash) (path string, ok bool)

// errWasCorrupt is within the error about a block that was found to be corrupt, and is nowhere else on
// this machine.
var errWasCorrupt = errors.New("it was corrupt and has been removed")

// owned says that this machine can make a block again by itself.
func (b *blockStore) owned(hash mh.Multihash) bool {
	if b.originals != nil {
		if _, ok := b.originals(hash); ok {
			return true
		}
	}
	return b.files.innerOf(hash) != nil
}

// mend gives a block that the store lacks, and puts it back, if this machine can make it again.
func (b *blockStore) mend(ctx context.Context, c cid.Cid) ([]byte, bool) {
	if b.originals != nil {
		if path, ok := b.originals(c.Hash()); ok {
			if data, err := readOriginal(path, c); err != nil {
				b.log.Warn("the original of a block cannot be used", zap.Stringer("cid", c), zap.Error(err))
			} else {
				b.log.Info("put a block back", zap.Stringer("cid", c), zap.String("from", path))
				if err := b.put(ctx, c, data); err != nil {
					b.log.Warn("cannot keep a block", zap.Stringer("cid", c), zap.Error(err)) // its bytes are good
				}
				return data, true
			}
		}
	}
	if rec := b.files.innerOf(c.Hash()); rec != nil {
		if err := b.remake(ctx, c, rec); err != nil {
			b.log.Warn("cannot make the blocks of an artefact again", zap.String("path", rec.Path), zap.Error(err))
			return nil, false
		}
		data, err := b.stored(ctx, c)
		return data, err == nil
	}
	return nil, false
}

// readOriginal reads a block's bytes from a file of the owner's.
func readOriginal(path string, c cid.Cid) ([]byte, error) {
	f, st, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	if st.Size > maxBlock {
		return nil, cellproto.Errorf("read "+path, cellproto.TooLarge, "%d bytes, at most %d", st.Size, maxBlock)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBlock))
	if err == nil && !matches(c, data) {
		err = cellproto.Errorf("read "+path, cellproto.Corrupt, "its bytes are not those of %s", c)
	}
	return data, err
}

// remake makes the inner nodes of an artefact again, unless another goroutine has just done so.
func (b *blockStore) remake(ctx context.Context, c cid.Cid, rec *record) error {
	b.remaking.Lock()
	defer b.remaking.Unlock()
	if _, err := b.stored(ctx, c); err == nil {
		return nil
	}
	f, err := rec.open()
	if err == nil {
		defer f.Close() // only read from
		var imp *imported
		if imp, err = importFile(ctx, f, rec.file.Size, b.put); err == nil && !imp.root.Equals(rec.file.CID) {
			err = cellproto.Errorf("read "+rec.Path, cellproto.NotFound, "its bytes have changed")
		}
	}
	if cellproto.KindOf(err) == cellproto.NotFound {
		b.files.drop(rec.file.CID)
	}
	return err
}

const (
	refetchTime = 30 * time.Second // to fetch a block again that was corrupt
	maxRefetch  = 4                // at once; the others are fetched when somebody here wants them
)

// refetch fetches another peer's block again, in the background: this store was known to have it.
func (s *Store) refetch(c cid.Cid) {
	select {
	case s.refetching <- struct{}{}:
	default:
		return
	}
	begun := s.x.out.run(func() {
		defer func() { <-s.refetching }()
		ctx, cancel := context.WithTimeout(s.x.ctx, refetchTime)
		defer cancel()
		if _, err := s.Block(ctx, c, maxBlock, nil); err != nil {
			s.log.Info("a corrupt block is lost", zap.Stringer("cid", c), zap.Error(err))
		}
	})
	if !begun {
		<-s.refetching
	}
}
