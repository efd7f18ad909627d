package content

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

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
