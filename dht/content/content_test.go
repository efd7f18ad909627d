package content

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/routing"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/celldnet/celld/cellproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fastTiming waits little, so that a silent peer costs a test milliseconds.
var fastTiming = timing{
	header: 500 * time.Millisecond, stall: 500 * time.Millisecond, dial: 2 * time.Second,
	stagger: 20 * time.Millisecond, leaf: 50 * time.Millisecond, idle: time.Minute, retry: 20 * time.Millisecond,
}

func newHost(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// newStore starts a store on a host of its own.
func newStore(t testing.TB, cfg Config, routes routing.ContentDiscovery) *Store {
	t.Helper()
	deps := Deps{Host: newHost(t), Routing: routes}
	if tt, ok := t.(*testing.T); ok {
		deps.Log = zaptest.NewLogger(tt)
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	s.timing = fastTiming
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

func infoOf(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

func (s *Store) self() peer.AddrInfo { return infoOf(s.deps.Host) }

// know puts the addresses of peers into the store's peerstore and returns their IDs.
func (s *Store) know(infos ...peer.AddrInfo) (ids []peer.ID) {
	for _, info := range infos {
		s.deps.Host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.PermanentAddrTTL)
		ids = append(ids, info.ID)
	}
	return ids
}

func rawCID(t testing.TB, data []byte) cid.Cid {
	t.Helper()
	sum, err := mh.Sum(data, mh.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(cid.Raw, sum)
}

// noise gives n bytes that depend on seed only.
func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = src.Read(out)
	return out
}

// writeOld writes a file whose time is long past, so that its stamp is trusted at once.
func writeOld(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

// deadline gives a context that ends long before the test's own.
func deadline(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantKind(t testing.TB, err error, kind cellproto.Kind) {
	t.Helper()
	if got := cellproto.KindOf(err); got != kind {
		t.Fatalf("kind is %q, want %q: %v", got, kind, err)
	}
}

// silentHost accepts streams of bitswap and of fetch and never answers.
func silentHost(t testing.TB) host.Host {
	h := newHost(t)
	h.SetStreamHandler(protocolBitswap, func(network.Stream) {})
	h.SetStreamHandler(cellproto.ProtocolFetch, func(network.Stream) {})
	return h
}

// routes is a routing that knows these peers for every CID.
type routes []peer.AddrInfo

func (r routes) FindProvidersAsync(_ context.Context, _ cid.Cid, n int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo, len(r))
	for _, info := range r[:min(n, len(r))] {
		out <- info
	}
	close(out)
	return out
}

func TestBlockExchange(t *testing.T) {
	a, b := newStore(t, Config{Dir: t.TempDir()}, nil), newStore(t, Config{Dir: t.TempDir()}, nil)
	for _, size := range []int{0, 1, 900, 60 << 10, 2 << 20} {
		data := noise(uint64(size), size)
		c := rawCID(t, data)
		ctx := deadline(t, 10*time.Second)
		if err := a.PutBlock(ctx, c, data); err != nil {
			t.Fatal(err)
		}
		if b.Has(ctx, c) {
			t.Fatalf("%d bytes: b has the block already", size)
		}
		got, err := b.Block(ctx, c, size, b.know(a.self()))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("%d bytes: other bytes came", size)
		}
		if !b.Has(ctx, c) {
			t.Fatalf("%d bytes: b did not keep the block", size)
		}
		if _, err := b.Block(ctx, c, size, nil); err != nil {
			t.Fatalf("%d bytes, from the store: %v", size, err)
		}
	}
}

func TestBlockFromConnectedAndFromRouting(t *testing.T) {
	data := noise(1, 5000)
	c := rawCID(t, data)
	a := newStore(t, Config{}, nil)
	ctx := deadline(t, 10*time.Second)
	if err := a.PutBlock(ctx, c, data); err != nil {
		t.Fatal(err)
	}
	connected := newStore(t, Config{}, nil)
	if err := connected.deps.Host.Connect(ctx, a.self()); err != nil {
		t.Fatal(err)
	}
	if _, err := connected.Block(ctx, c, 5000, nil); err != nil {
		t.Fatal(err)
	}
	routed := newStore(t, Config{}, routes{a.self()})
	empty := newStore(t, Config{}, nil)
	if _, err := routed.Block(ctx, c, 5000, routed.know(empty.self())); err != nil {
		t.Fatal(err)
	}
}

func TestBlockLimit(t *testing.T) {
	a, b := newStore(t, Config{}, nil), newStore(t, Config{Dir: t.TempDir()}, nil)
	data := noise(2, 100<<10)
	c := rawCID(t, data)
	ctx := deadline(t, 10*time.Second)
	if err := a.PutBlock(ctx, c, data); err != nil {
		t.Fatal(err)
	}
	_, err := b.Block(ctx, c, 64<<10, b.know(a.self()))
	wantKind(t, err, cellproto.TooLarge)
	if b.Has(ctx, c) {
		t.Fatal("the block was kept")
	}
	_, err = a.Block(ctx, c, 64<<10, nil)
	wantKind(t, err, cellproto.TooLarge)
	wantKind(t, a.PutBlock(ctx, rawCID(t, make([]byte, maxBlock+1)), make([]byte, maxBlock+1)), cellproto.TooLarge)
}

func TestPutBlockChecks(t *testing.T) {
	s := newStore(t, Config{}, nil)
	ctx := context.Background()
	wantKind(t, s.PutBlock(ctx, rawCID(t, []byte("a")), []byte("b")), cellproto.Corrupt)
	wantKind(t, s.PutBlock(ctx, cid.Undef, []byte("b")), cellproto.BadInput)
	weak, err := mh.Sum([]byte("b"), mh.SHA1, -1)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.PutBlock(ctx, cid.NewCidV1(cid.Raw, weak), []byte("b")), cellproto.BadInput)
	self, err := mh.Sum([]byte("within"), mh.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Block(ctx, cid.NewCidV1(cid.Raw, self), 10, nil)
	if err != nil || string(got) != "within" {
		t.Fatalf("a CID that carries its block gave %q, %v", got, err)
	}
}

func TestCorruptBlockHeals(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"flipped":      func(path string) error { return os.WriteFile(path, noise(9, 4000), 0o600) },
		"half-written": func(path string) error { return os.Truncate(path, 17) },
		"empty":        func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a, b := newStore(t, Config{}, nil), newStore(t, Config{Dir: dir}, nil)
			data := noise(3, 4000)
			c := rawCID(t, data)
			ctx := deadline(t, 10*time.Second)
			for _, s := range []*Store{a, b} {
				if err := s.PutBlock(ctx, c, data); err != nil {
					t.Fatal(err)
				}
			}
			files, err := filepath.Glob(filepath.Join(dir, "store", "*", "*.data"))
			if err != nil || len(files) != 1 {
				t.Fatalf("block files: %v, %v", files, err)
			}
			if err := damage(files[0]); err != nil {
				t.Fatal(err)
			}
			_, err = b.Block(ctx, c, 4000, nil)
			wantKind(t, err, cellproto.NotFound)
			if b.Has(ctx, c) {
				t.Fatal("the corrupt block is still there")
			}
			got, err := b.Block(ctx, c, 4000, b.know(a.self()))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("not healed: %v", err)
			}
			if got, err = b.Block(ctx, c, 4000, nil); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("not kept: %v", err)
			}
		})
	}
}

func TestBlockKinds(t *testing.T) {
	silent, empty, good := silentHost(t), newStore(t, Config{}, nil), newStore(t, Config{}, nil)
	data := noise(4, 3000)
	c := rawCID(t, data)
	if err := good.PutBlock(context.Background(), c, data); err != nil {
		t.Fatal(err)
	}
	gone := infoOf(newHost(t))
	gone.Addrs = gone.Addrs[:0]

	t.Run("silent then good", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		got, err := s.Block(deadline(t, 5*time.Second), c, 3000, s.know(infoOf(silent), good.self()))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatal(err)
		}
	})
	t.Run("empty then good", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		if _, err := s.Block(deadline(t, 5*time.Second), c, 3000, s.know(gone, empty.self(), good.self())); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		_, err := s.Block(deadline(t, 200*time.Millisecond), c, 3000, s.know(infoOf(silent)))
		wantKind(t, err, cellproto.Timeout)
	})
	t.Run("not found", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		_, err := s.Block(deadline(t, 10*time.Second), c, 3000, s.know(empty.self()))
		wantKind(t, err, cellproto.NotFound)
		if cellproto.HintOf(err) == "" {
			t.Fatal("no hint")
		}
	})
	t.Run("nobody to ask", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		_, err := s.Block(deadline(t, 10*time.Second), c, 3000, nil)
		wantKind(t, err, cellproto.NotFound)
	})
	t.Run("unreachable", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		_, err := s.Block(deadline(t, 10*time.Second), c, 3000, s.know(gone))
		wantKind(t, err, cellproto.Unavailable)
	})
	t.Run("canceled", func(t *testing.T) {
		s := newStore(t, Config{}, nil)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := s.Block(ctx, c, 3000, s.know(infoOf(silent)))
		wantKind(t, err, cellproto.Canceled)
	})
}

// A store whose directory is damaged starts anew instead of failing.
func TestDamagedStoreIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "store", "X"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "store", "SHARDING"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, Config{Dir: dir}, nil)
	if err := s.PutBlock(context.Background(), rawCID(t, []byte("x")), []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	for _, max := range []int64{-1, DefaultMaxFile + 1} {
		_, err := New(Config{MaxFile: max}, Deps{Host: newHost(t)})
		wantKind(t, err, cellproto.BadInput)
	}
	_, err := New(Config{}, Deps{})
	wantKind(t, err, cellproto.BadInput)
	file := filepath.Join(t.TempDir(), "file")
	writeOld(t, file, nil)
	if _, err := New(Config{Dir: file}, Deps{Host: newHost(t)}); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatalf("a store within a file: %v", err)
	}
}
