package content

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

// boundedStore holds at most so many blocks of 4 KiB, and never removes those that are pinned.
func boundedStore(t *testing.T, dir string, blocks int64, pinned map[string]string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir, MaxBlocks: blocks * diskBlock}, Deps{Host: newHost(t), Originals: func(h mh.Multihash) (string, bool) {
		path, ok := pinned[string(h)]
		return path, ok
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.timing = fastTiming
	return s
}

func (s *Store) settle(t *testing.T) {
	t.Helper()
	ctx := deadline(t, 10*time.Second)
	<-s.stocked
	until(t, ctx, "there is room again", func() bool {
		return !s.evicting.Load() && s.blocks.usage.total() <= s.blocks.limit()
	})
}

// The blocks that nobody has used for the longest time go; what is pinned, and the tree of an artefact,
// stay however old they are.
func TestOldBlocksMakeRoom(t *testing.T) {
	for name, dir := range map[string]string{"on disk": t.TempDir(), "in memory": ""} {
		t.Run(name, func(t *testing.T) {
			own := noise(50, 4000)
			ownCID := rawCID(t, own)
			original := filepath.Join(t.TempDir(), "own")
			writeOld(t, original, own)
			s := boundedStore(t, dir, 20, map[string]string{string(ownCID.Hash()): original})
			s.Start()
			defer s.Stop()
			ctx := deadline(t, 20*time.Second)
			program := filepath.Join(t.TempDir(), "bin")
			writeOld(t, program, noise(51, artefactSize))
			artefact, err := s.AddFile(ctx, program)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.PutBlock(ctx, ownCID, own); err != nil {
				t.Fatal(err)
			}
			var foreign []cid.Cid
			for i := range 100 {
				data := noise(uint64(1000+i), 4000)
				foreign = append(foreign, rawCID(t, data))
				if err := s.PutBlock(ctx, foreign[i], data); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Local(ctx, foreign[0]); err != nil { // used all the time
					t.Fatalf("after %d: %v", i, err)
				}
				s.settle(t)
			}
			for _, c := range []cid.Cid{ownCID, artefact.CID, foreign[0], foreign[99]} {
				if _, err := s.blocks.stored(ctx, c); err != nil {
					t.Errorf("%s: %v", c, err)
				}
			}
			if s.Has(ctx, foreign[1]) {
				t.Error("the oldest block is still there")
			}
			stored, err := s.blocks.keys(ctx)
			if err != nil || len(stored) > 20 || len(stored) < 15 {
				t.Errorf("%d blocks are kept, %v", len(stored), err)
			}
		})
	}
}

// The order of use and the sizes outlive a restart, and blocks that somebody else removed do no harm.
func TestOldBlocksMakeRoomAfterRestart(t *testing.T) {
	dir := t.TempDir()
	s := boundedStore(t, dir, 100, nil)
	ctx := deadline(t, 20*time.Second)
	var all []cid.Cid
	now := time.Now()
	for i := range 40 {
		data := noise(uint64(2000+i), 4000)
		c := rawCID(t, data)
		if err := s.PutBlock(ctx, c, data); err != nil {
			t.Fatal(err)
		}
		at := now.Add(time.Duration(i-400) * time.Hour)
		if err := os.Chtimes(s.blocks.fileOf(c.Hash()), at, at); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if err := s.blocks.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "store", "stray.data"), []byte("no block"), 0o600); err != nil {
		t.Fatal(err)
	}

	s = boundedStore(t, dir, 100, nil)
	s.Start()
	<-s.stocked
	if _, err := s.Local(ctx, all[0]); err != nil { // notes it on the disk
		t.Fatal(err)
	}
	if fi, err := os.Stat(s.blocks.fileOf(all[0].Hash())); err != nil || time.Since(fi.ModTime()) > time.Minute {
		t.Errorf("its use was not noted: %v, %v", fi, err)
	}
	s.Stop()
	if err := os.Remove(s.blocks.fileOf(all[1].Hash())); err != nil {
		t.Fatal(err)
	}

	s = boundedStore(t, dir, 20, nil)
	s.Start()
	defer s.Stop()
	s.settle(t)
	for i, want := range map[int]bool{0: true, 1: false, 2: false, 3: false, 38: true, 39: true} {
		if got := s.Has(ctx, all[i]); got != want {
			t.Errorf("block %d is here: %t, want %t", i, got, want)
		}
	}
}

// Eviction beside those who put and read: nothing wrong is ever given, and the bound holds at the end.
func TestEvictionBesideUse(t *testing.T) {
	s := boundedStore(t, t.TempDir(), 30, nil)
	s.Start()
	defer s.Stop()
	ctx := deadline(t, 60*time.Second)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				data := noise(uint64(3000+(i*7+w*13)%60), 4000)
				c := rawCID(t, data)
				if err := s.PutBlock(ctx, c, data); err != nil {
					t.Error(err)
				}
				got, err := s.Local(ctx, c)
				if err != nil && cellproto.KindOf(err) != cellproto.NotFound || err == nil && !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	s.settle(t)
	stored, err := s.blocks.keys(context.Background())
	if err != nil || len(stored) > 30 {
		t.Errorf("%d blocks are kept, %v", len(stored), err)
	}
}

// Whatever is put, used and removed: the sum is that of the blocks that are there, and the oldest of
// those that are not kept is the next to go.
func TestUsage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		u := newUsage()
		var order []string // oldest first
		sizes := map[string]int64{}
		forget := func(k string) {
			for i, o := range order {
				if o == k {
					order = append(order[:i:i], order[i+1:]...)
				}
			}
		}
		now := time.Unix(1_000_000, 0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			k := fmt.Sprint(rapid.IntRange(0, 8).Draw(rt, "key"))
			now = now.Add(time.Duration(rapid.IntRange(0, 5400).Draw(rt, "pause")) * time.Second)
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				n := rapid.Int64Range(0, 3*diskBlock).Draw(rt, "bytes")
				u.put(mh.Multihash(k), n, now)
				forget(k)
				order, sizes[k] = append(order, k), onDisk(n)
			case 1:
				u.touch(mh.Multihash(k), now)
				if _, ok := sizes[k]; ok {
					forget(k)
					order = append(order, k)
				}
			case 2:
				u.remove(mh.Multihash(k))
				forget(k)
				delete(sizes, k)
			case 3:
				kept := rapid.SampledFrom([]string{"0", "1", "2"}).Draw(rt, "kept")
				got, ok := u.oldest(func(h mh.Multihash) bool { return string(h) <= kept })
				want := ""
				for _, o := range append([]string(nil), order...) {
					if o > kept {
						want = o
						break
					}
					forget(o)
					order = append(order, o)
				}
				if string(got) != want || ok != (want != "") {
					rt.Fatalf("the oldest is %q, want %q", got, want)
				}
			}
		}
		var sum int64
		for _, n := range sizes {
			sum += n
		}
		if u.total() != sum {
			rt.Fatalf("%d bytes, want %d", u.total(), sum)
		}
	})
}

// The disk's free space is a bound too.
func TestLimit(t *testing.T) {
	s, small := boundedStore(t, t.TempDir(), 1<<40, nil), boundedStore(t, t.TempDir(), 3, nil)
	for _, x := range []*Store{s, small} {
		defer x.Stop()
	}
	ctx := deadline(t, 10*time.Second)
	if err := s.PutBlock(ctx, rawCID(t, noise(1, 4000)), noise(1, 4000)); err != nil {
		t.Fatal(err)
	}
	if got := s.blocks.limit(); got <= 0 || got > 1<<50/diskShare {
		t.Errorf("the limit is %d bytes", got)
	}
	if got := small.blocks.limit(); got != 3*diskBlock {
		t.Errorf("the limit is %d bytes, want %d", got, 3*diskBlock)
	}
	c := Config{MaxBlocks: -1}
	wantKind(t, c.Validate(), cellproto.BadInput)
}
