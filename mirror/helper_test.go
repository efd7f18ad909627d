package mirror

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht/content"
)

const testOS, testArch = "linux", "amd64"

// fetcher is a block store on a host of its own.
type fetcher struct {
	host  host.Host
	store *content.Store
}

func newFetcher(t testing.TB) fetcher {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	s, err := content.New(content.Config{}, content.Deps{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Stop)
	return fetcher{h, s}
}

func (f fetcher) info() peer.AddrInfo { return peer.AddrInfo{ID: f.host.ID(), Addrs: f.host.Addrs()} }

func (f fetcher) Fetch(ctx context.Context, a signed.Artefact, from []peer.AddrInfo, dst string, progress func(done, total int64)) error {
	return f.store.FetchFile(ctx, content.File{CID: a.CID.Cid, Size: a.Size, BLAKE3: a.BLAKE3}, from, dst, 0o600, progress)
}

// serve has f serve a program, and gives its artefact.
func (f fetcher) serve(t testing.TB, data []byte) signed.Artefact {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := f.store.AddFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return signed.Artefact{OS: testOS, Arch: testArch, CID: signed.Link{Cid: file.CID}, Size: file.Size, BLAKE3: file.BLAKE3}
}

var account = func() crypto.PrivKey {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

func owner(t testing.TB) cellproto.PeerID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(account)
	if err != nil {
		t.Fatal(err)
	}
	return cellproto.PeerID(id.String())
}

// want seals a manifest of a program, and gives what Add takes.
func want(t testing.TB, a signed.Artefact, from []peer.AddrInfo, edit func(*signed.Manifest)) Want {
	t.Helper()
	m := signed.Manifest{
		Name: "calculator", Version: "1.2.3", Created: 1, Privacy: "public", Artefacts: []signed.Artefact{a},
		Resources: signed.Resources{CPUMilli: 500, MemoryBytes: 64 << 20, Concurrency: 10},
	}
	if edit != nil {
		edit(&m)
	}
	block, id, err := signed.SealManifest(m, account)
	if err != nil {
		t.Fatal(err)
	}
	return Want{CID: id, Block: block, From: from, Network: Network{
		Name: "lab", Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: []string{"/ip4/127.0.0.1/tcp/1"},
	}}
}

// clock is a time that the test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newTestStore(t testing.TB, f Fetcher, now func() time.Time) *Store {
	t.Helper()
	return storeAt(t, filepath.Join(t.TempDir(), "foreign"), f, now)
}

func storeAt(t testing.TB, root string, f Fetcher, now func() time.Time) *Store {
	t.Helper()
	s, err := New(Config{Root: root, OS: testOS, Arch: testArch}, Deps{Fetch: f, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func silent(string) {}

// left lists what is below a directory of foreign cells, but for the locks and the empty directories.
func left(t testing.TB, s *Store) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(s.cfg.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(s.cfg.Root, path)
		if !strings.HasPrefix(rel, locksDir) {
			out = append(out, rel)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out
}

func mustAdd(t testing.TB, s *Store, w Want) *Mirror {
	t.Helper()
	m, made, err := s.Add(t.Context(), w, silent)
	if err != nil || !made {
		t.Fatalf("made %v: %v", made, err)
	}
	return m
}

// refused has Add fail with a kind and leave nothing.
func refused(t testing.TB, s *Store, w Want, kind cellproto.Kind, says string) {
	t.Helper()
	m, made, err := s.Add(t.Context(), w, silent)
	if cellproto.KindOf(err) != kind || err != nil && !strings.Contains(err.Error(), says) || m != nil || made {
		t.Errorf("it gives %v, made %v, and the error %v; want one of kind %v with %q", m, made, err, kind, says)
	}
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("it has left %q", rest)
	}
}

func testCID(t testing.TB, text string) cid.Cid {
	t.Helper()
	id, err := cid.V1Builder{Codec: cid.Raw, MhType: 0x12}.Sum([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
