package content

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"

	"github.com/celldnet/celld/cellproto"
)

// A store that withholds gives nobody anything, by either protocol, and fetches as any other.
func TestWithhold(t *testing.T) {
	ctx := deadline(t, 20*time.Second)
	closed, open := newStore(t, Config{Withhold: true}, nil), newStore(t, Config{}, nil)
	path := filepath.Join(t.TempDir(), "program")
	writeOld(t, path, noise(1, 300<<10))
	file, err := closed.AddFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	block := []byte("a manifest")
	if err := closed.PutBlock(ctx, rawCID(t, block), block); err != nil {
		t.Fatal(err)
	}
	_, err = open.Block(ctx, rawCID(t, block), 1<<10, open.know(closed.self()))
	wantKind(t, err, cellproto.NotFound)
	dst := filepath.Join(t.TempDir(), "program")
	wantKind(t, open.FetchFile(ctx, file, []peer.AddrInfo{closed.self()}, dst, 0o600, nil), cellproto.NotFound)

	theirs := []byte("a manifest of others")
	if err := open.PutBlock(ctx, rawCID(t, theirs), theirs); err != nil {
		t.Fatal(err)
	}
	if got, err := closed.Block(ctx, rawCID(t, theirs), 1<<10, closed.know(open.self())); err != nil || string(got) != string(theirs) {
		t.Errorf("%q: %v", got, err)
	}
}

// Artefacts that are for friends are given to these alone, by either protocol; all else to everybody.
func TestFriends(t *testing.T) {
	ctx := deadline(t, 20*time.Second)
	friend, stranger := newStore(t, Config{}, nil), newStore(t, Config{}, nil)
	open := newStore(t, Config{}, nil)
	open.x.friend = func(p peer.ID) bool { return p == friend.self().ID }
	open.deps.Friend = open.x.friend
	path := filepath.Join(t.TempDir(), "program")
	writeOld(t, path, noise(1, 900<<10)) // a tree with inner nodes
	file, err := open.AddFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	block := []byte("a manifest")
	if err := open.PutBlock(ctx, rawCID(t, block), block); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "program")
	wantKind(t, stranger.FetchFile(ctx, file, []peer.AddrInfo{open.self()}, dst, 0o600, nil), cellproto.NotFound)
	for _, c := range append(leavesOf(t, open, file), file.CID) {
		_, err := stranger.Block(ctx, c, maxBlock, stranger.know(open.self()))
		wantKind(t, err, cellproto.NotFound)
	}
	if got, err := stranger.Block(ctx, rawCID(t, block), 1<<10, stranger.know(open.self())); err != nil || string(got) != string(block) {
		t.Errorf("%q: %v", got, err)
	}
	if err := friend.FetchFile(ctx, file, []peer.AddrInfo{open.self()}, dst, 0o600, nil); err != nil {
		t.Error(err)
	}
	if _, err := friend.Block(ctx, file.CID, maxBlock, friend.know(open.self())); err != nil {
		t.Error(err)
	}
}

// leavesOf gives the CIDs of an artefact's leaves.
func leavesOf(t *testing.T, s *Store, file File) (out []cid.Cid) {
	t.Helper()
	for _, sum := range s.files.byCID(file.CID).leaves {
		hash, err := mh.Encode(sum, mh.SHA2_256)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, cid.NewCidV1(cid.Raw, hash))
	}
	if len(out) < 2 {
		t.Fatalf("%d leaves", len(out))
	}
	return out
}
