package node

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
	"go.uber.org/zap"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
)

type onlyProgram []byte

func (p onlyProgram) Fetch(_ context.Context, _ signed.Artefact, _ []peer.AddrInfo, dst string, _ func(done, total int64)) error {
	return os.WriteFile(dst, p, 0o600)
}

// aMirror makes a mirror of a program, which nothing runs.
func aMirror(t *testing.T, hosted bool) (*mirror.Store, *mirror.Mirror) {
	t.Helper()
	program := onlyProgram("a program")
	id, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}.Sum(program)
	if err != nil {
		t.Fatal(err)
	}
	account, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, of, err := signed.SealManifest(signed.Manifest{
		Name: "calculator", Version: "1.0.0", Created: 1, Privacy: "public",
		Artefacts: []signed.Artefact{{OS: "linux", Arch: "any", CID: signed.Link{Cid: id}, Size: int64(len(program)), BLAKE3: blake3.Sum256(program)}},
	}, account)
	if err != nil {
		t.Fatal(err)
	}
	store, err := mirror.New(mirror.Config{Root: filepath.Join(t.TempDir(), "foreign"), OS: "linux", Arch: "any"}, mirror.Deps{Fetch: program})
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := store.Add(t.Context(), mirror.Want{
		CID: of, Block: block, Public: true, Hosted: hosted, Network: mirror.Network{Name: "lab"},
	}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return store, made
}

// What did not start has nothing of its program run before it is asked to end in good order, which a program may
// take its time for: its host may have come back.
func TestUndoStopsTheProgramFirst(t *testing.T) {
	for _, hosted := range []bool{true, false} {
		store, made := aMirror(t, hosted)
		l, err := ctl.Listen(made.Dir, ctl.ControlSocket)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var asked []string
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, r.URL.Path)
			mu.Unlock()
			w.Header().Set("Content-Type", ctl.ContentType)
			ctl.NewWriter(w, func() {}).Result(ctl.Yielded{})
		})}
		ended := make(chan struct{})
		go func() { defer close(ended); server.Serve(l) }()
		m := &mirrors{n: &nucleus{log: zap.NewNop()}, store: store}
		if err := m.undo(t.Context(), made); err != nil {
			t.Error(err)
		}
		server.Close()
		<-ended
		want := []string{ctl.RouteYield, ctl.RouteStop}
		if !hosted {
			want = want[1:]
		}
		if mu.Lock(); !slices.Equal(asked, want) {
			t.Errorf("hosted %v: its nucleus was told %v, want %v", hosted, asked, want)
		}
		mu.Unlock()
		if _, err := os.Stat(made.Dir); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
	}
}
