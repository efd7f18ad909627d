package content

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestRefusedBlocksAreNotKept: what has the right hash and is not what it should be is neither kept nor passed on, and
// removed where it was kept.
func TestRefusedBlocksAreNotKept(t *testing.T) {
	liar, s, other := newStore(t, Config{}, nil), newStore(t, Config{Dir: t.TempDir()}, nil), newStore(t, Config{}, nil)
	data := []byte("a manifest that is not its owner's")
	c := rawCID(t, data)
	if err := liar.PutBlock(t.Context(), c, data); err != nil {
		t.Fatal(err)
	}
	no := errors.New("a false signature")
	refuse := func(block []byte) error {
		if !bytes.Equal(block, data) {
			t.Errorf("it is shown %q", block)
		}
		return no
	}
	gone := func(when string) {
		t.Helper()
		if s.Has(t.Context(), c) {
			t.Errorf("%s: it is kept", when)
		}
		if _, err := other.Block(t.Context(), c, 1<<10, other.know(s.self())); err == nil {
			t.Errorf("%s: it is passed on", when)
		}
	}
	for range 2 {
		if _, err := s.Checked(t.Context(), c, 1<<10, s.know(liar.self()), refuse); !errors.Is(err, no) {
			t.Fatalf("the error is %v", err)
		}
		gone("fetched")
	}
	if err := s.PutBlock(t.Context(), c, data); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Checked(t.Context(), c, 1<<10, []peer.ID{}, refuse); !errors.Is(err, no) {
		t.Fatalf("the error is %v", err)
	}
	gone("found here")
	yes := func([]byte) error { return nil }
	if got, err := s.Checked(t.Context(), c, 1<<10, s.know(liar.self()), yes); err != nil || !bytes.Equal(got, data) || !s.Has(t.Context(), c) {
		t.Errorf("what is good gives %q, %v", got, err)
	}
}

// TestRefusedArtefactsStay: what is wanted as something else, and is of an artefact, goes on being offered as that.
func TestRefusedArtefactsStay(t *testing.T) {
	for _, size := range []int{100, 2*chunkBytes + 1} { // of one leaf, and of a tree
		s, other := newStore(t, Config{Dir: t.TempDir()}, nil), newStore(t, Config{}, nil)
		path := filepath.Join(t.TempDir(), "program")
		writeOld(t, path, noise(uint64(size), size))
		f, err := s.AddFile(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		no := errors.New("no manifest")
		for _, c := range []cid.Cid{f.CID, cid.NewCidV1(cid.DagCBOR, f.CID.Hash())} {
			if _, err := s.Checked(t.Context(), c, maxBlock, nil, func([]byte) error { return no }); !errors.Is(err, no) {
				t.Fatalf("the error is %v", err)
			}
		}
		if s.files.byCID(f.CID) == nil {
			t.Errorf("the artefact of %d bytes is forgotten", size)
		}
		if _, err := other.Block(t.Context(), f.CID, maxBlock, other.know(s.self())); err != nil {
			t.Errorf("nobody gets the artefact of %d bytes: %v", size, err)
		}
	}
}
