package content

import (
	"context"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// How much the blocks of others may take: Config.MaxBlocks, but never more than one part in diskShare
// of the space that would be free without them.
const (
	DefaultMaxBlocks = 1 << 30
	diskShare        = 20
	evictTo          = 0.9       // of the bound: what is left by an eviction, so that the next one is not due at once
	diskBlock        = 4 << 10   // bytes that a file takes is a multiple of it
	touchEvery       = time.Hour // the use of a block is noted on the disk, as its file's time
	blockExt         = ".data"   // of flatfs
)

// usage remembers how large blocks are and which of them was used last, so that the others go first.
type usage struct {
	mu    sync.Mutex
	used  *simplelru.LRU[string, use] // by multihash
	bytes int64                       // of all of them
}

type use struct {
	bytes int64
	at    time.Time // of the last use that is noted on the disk
}

func newUsage() *usage {
	u := &usage{}
	u.used, _ = simplelru.NewLRU(math.MaxInt, func(_ string, v use) { u.bytes -= v.bytes }) // fails for a size below 1 only
	return u
}

func onDisk(n int64) int64 { return (n + diskBlock - 1) / diskBlock * diskBlock }

// put notes a block of n bytes as the last that was used.
func (u *usage) put(hash mh.Multihash, n int64, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used.Remove(string(hash)) // takes its bytes away
	u.used.Add(string(hash), use{onDisk(n), at})
	u.bytes += onDisk(n)
}

// touch notes the use of a block, and reports whether that is to be noted on the disk as well.
func (u *usage) touch(hash mh.Multihash, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	v, ok := u.used.Get(string(hash))
	if !ok || now.Sub(v.at) < touchEvery {
		return false
	}
	v.at = now
	u.used.Add(string(hash), v) // replacing calls no eviction
	return true
}

func (u *usage) remove(hash mh.Multihash) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used.Remove(string(hash))
}

func (u *usage) total() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bytes
}

// merge takes up what an earlier run has left; what was used since this one began is newer.
func (u *usage) merge(found []foundBlock) {
	slices.SortFunc(found, func(a, b foundBlock) int { return a.at.Compare(b.at) })
	u.mu.Lock()
	defer u.mu.Unlock()
	known := u.used.Keys() // oldest first
	for _, f := range found {
		if !u.used.Contains(string(f.hash)) {
			u.used.Add(string(f.hash), f.use)
			u.bytes += f.bytes
		}
	}
	for _, hash := range known {
		u.used.Get(hash)
	}
}

// oldest gives the block whose last use is the longest ago, of those that are not kept. What is kept
// counts as used: it is not looked at again before everything else. Of n blocks at most n are looked at.
func (u *usage) oldest(keep func(mh.Multihash) bool) (mh.Multihash, bool) {
	u.mu.Lock()
	n := u.used.Len()
	u.mu.Unlock()
	for range n {
		u.mu.Lock()
		hash, _, ok := u.used.GetOldest()
		u.mu.Unlock()
		if !ok {
			return nil, false
		}
		if !keep(mh.Multihash(hash)) { // asks others, so not under the lock
			return mh.Multihash(hash), true
		}
		u.mu.Lock()
		u.used.Get(hash)
		u.mu.Unlock()
	}
	return nil, false
}

type foundBlock struct {
	hash mh.Multihash
	use
}

// scan lists the blocks that lie under dir. What is no block's file is passed over.
func scan(ctx context.Context, dir string) []foundBlock {
	var out []foundBlock
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what cannot be read is not counted
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		name, ok := strings.CutSuffix(d.Name(), blockExt)
		if !ok {
			return nil
		}
		hash, err := dshelp.DsKeyToMultihash(datastore.NewKey(name))
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			out = append(out, foundBlock{hash, use{onDisk(info.Size()), info.ModTime()}})
		}
		return nil
	})
	return out
}

// fileOf is where flatfs keeps a block; "" in memory.
func (b *blockStore) fileOf(hash mh.Multihash) string {
	if b.dir == "" {
		return ""
	}
	name := dshelp.MultihashToDsKey(hash).String()[1:]
	return filepath.Join(b.dir, shardOf(name), name+blockExt)
}

// touched notes that a block was used. A failure costs the block its place in the order after the next start.
func (b *blockStore) touched(c cid.Cid) {
	now := time.Now()
	if b.usage.touch(c.Hash(), now) && b.dir != "" {
		_ = os.Chtimes(b.fileOf(c.Hash()), now, now)
	}
}

// limit is how many bytes all blocks may take now.
func (b *blockStore) limit() int64 {
	limit := b.max
	if b.dir == "" {
		return limit
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.dir, &st); err == nil {
		free := int64(min(uint64(st.Bavail), math.MaxInt64/uint64(st.Bsize)) * uint64(st.Bsize))
		limit = min(limit, (free+b.usage.total())/diskShare)
	}
	return limit
}

// evict removes the blocks of others, the least recently used first, until there is room again. Each
// is one unlink: whenever it ends, what is left is a good store.
func (b *blockStore) evict(ctx context.Context) {
	limit := b.limit()
	if b.usage.total() <= limit {
		return
	}
	before, n := b.usage.total(), 0
	for b.usage.total() > int64(float64(limit)*evictTo) && ctx.Err() == nil {
		hash, ok := b.usage.oldest(b.owned)
		if !ok {
			break
		}
		if err := b.delete(ctx, cid.NewCidV1(cid.Raw, hash)); err != nil {
			b.log.Warn("cannot remove an old block", zap.Error(err))
			break
		}
		n++
	}
	b.log.Info("removed the blocks that nobody has used for the longest time", zap.Int("blocks", n),
		zap.Int64("bytes", before-b.usage.total()), zap.Int64("limit", limit))
}

// makeRoom evicts in the background, if that is due.
func (s *Store) makeRoom() {
	if s.blocks.usage.total() <= s.blocks.limit() || !s.evicting.CompareAndSwap(false, true) {
		return
	}
	begun := s.x.out.run(func() {
		defer s.evicting.Store(false)
		s.blocks.evict(s.x.ctx)
	})
	if !begun {
		s.evicting.Store(false)
	}
}

// takeStock learns what an earlier run has left, in the background.
func (s *Store) takeStock() {
	s.x.out.run(func() {
		if s.blocks.dir != "" {
			s.blocks.usage.merge(scan(s.x.ctx, s.blocks.dir))
		}
		close(s.stocked)
		s.makeRoom()
	})
}
