package content

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	mh "github.com/multiformats/go-multihash"

	"github.com/celldnet/celld/cellproto"
)

// damages are what can happen to a file while a store runs.
var damages = map[string]func(path string) error{
	"flipped":      func(path string) error { return os.WriteFile(path, noise(9, 4000), 0o600) },
	"half-written": func(path string) error { return os.Truncate(path, 17) },
	"empty":        func(path string) error { return os.Truncate(path, 0) },
	"grown":        func(path string) error { return os.Truncate(path, 64<<20) },
	"gone":         os.Remove,
	"store gone": func(path string) error {
		dir := filepath.Dir(filepath.Dir(path))
		if err := os.RemoveAll(dir); err != nil { // flatfs may just have written down how large it is
			return os.RemoveAll(dir)
		}
		return nil
	},
}

// A block that is kept elsewhere is served however the store's own copy is damaged, and is whole again
// after that.
func TestServedBlockIsPutBack(t *testing.T) {
	data := noise(40, 4000)
	c := rawCID(t, data)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			original := filepath.Join(t.TempDir(), "manifest.cbor")
			writeOld(t, original, data)
			dir := t.TempDir()
			s, err := New(Config{Dir: dir}, Deps{Host: newHost(t), Originals: func(hash mh.Multihash) (string, bool) {
				return original, bytes.Equal(hash, c.Hash())
			}})
			if err != nil {
				t.Fatal(err)
			}
			s.timing = fastTiming
			s.Start()
			t.Cleanup(s.Stop)
			ctx := deadline(t, 10*time.Second)
			if err := s.PutBlock(ctx, c, data); err != nil {
				t.Fatal(err)
			}
			if err := damage(s.blocks.fileOf(c.Hash())); err != nil {
				t.Fatal(err)
			}
			b := newStore(t, Config{}, nil)
			got, err := b.Block(ctx, c, 4000, b.know(s.self()))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("it is not served: %v", err)
			}
			kept, err := os.ReadFile(s.blocks.fileOf(c.Hash()))
			if err != nil || !bytes.Equal(kept, data) {
				t.Errorf("it was not put back: %d bytes, %v", len(kept), err)
			}
		})
	}
}

// An original that is damaged itself is no block.
func TestDamagedOriginalIsNotServed(t *testing.T) {
	data := noise(41, 4000)
	c := rawCID(t, data)
	original := filepath.Join(t.TempDir(), "manifest.cbor")
	for name, wrong := range map[string][]byte{"other": noise(42, 4000), "too large": make([]byte, maxBlock+1), "empty": nil} {
		writeOld(t, original, wrong)
		s, err := New(Config{}, Deps{Host: newHost(t), Originals: func(mh.Multihash) (string, bool) { return original, true }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Local(t.Context(), c)
		wantKind(t, err, cellproto.NotFound)
		if s.Has(t.Context(), c) {
			t.Errorf("%s: it is said to be here", name)
		}
	}
}

// The tree of an artefact is made again from its file.
func TestServedTreeIsMadeAgain(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Config{Dir: t.TempDir()}, nil)
			path := filepath.Join(t.TempDir(), "bin")
			data := noise(43, artefactSize)
			writeOld(t, path, data)
			f, err := s.AddFile(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(s.blocks.fileOf(f.CID.Hash())); err != nil {
				t.Fatal(err)
			}
			s.fetch.stop() // bitswap alone
			got, err := fetchTo(t, f, false, s.self())
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("it is not served: %v", err)
			}
			if _, err := s.blocks.stored(t.Context(), f.CID); err != nil {
				t.Errorf("its root was not put back: %v", err)
			}
		})
	}
}

// Another peer's block that turns out corrupt when a third wants it is fetched again at once.
func TestCorruptForeignBlockIsFetchedAgain(t *testing.T) {
	origin, s, third := newStore(t, Config{}, nil), newStore(t, Config{Dir: t.TempDir()}, nil), newStore(t, Config{}, nil)
	data := noise(44, 4000)
	c := rawCID(t, data)
	ctx := deadline(t, 10*time.Second)
	for _, x := range []*Store{origin, s} {
		if err := x.PutBlock(ctx, c, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.deps.Host.Connect(ctx, origin.self()); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, "they know that both speak bitswap", func() bool { return len(s.x.connected()) > 0 })
	if err := os.Truncate(s.blocks.fileOf(c.Hash()), 100); err != nil {
		t.Fatal(err)
	}
	_, err := third.Block(ctx, c, 4000, third.know(s.self()))
	wantKind(t, err, cellproto.NotFound)
	until(t, ctx, "it has been fetched again", func() bool {
		_, err := s.blocks.stored(ctx, c)
		return err == nil
	})
	if _, err := third.Block(ctx, c, 4000, third.know(s.self())); err != nil {
		t.Errorf("it is not served: %v", err)
	}
}

// until polls for what has no event to wait for.
func until(t testing.TB, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still not: %s", what)
		}
	}
}

// Records of before there were inner nodes in them, and others that do not fit, are not taken.
func TestRecordNeedsItsInnerNodes(t *testing.T) {
	for name, c := range map[string]struct {
		size  int
		inner [][]byte
	}{
		"a tree without inner nodes": {artefactSize, nil},
		"a leaf with inner nodes":    {1000, [][]byte{rawCID(t, nil).Hash()}},
	} {
		a := newArtefact(t, 45, c.size)
		rec := *a.files.byCID(a.CID)
		good, err := rec.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRecord(good); err != nil {
			t.Fatal(err)
		}
		rec.Inner = c.inner
		bad, err := rec.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRecord(bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
