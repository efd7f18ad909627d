package dht

import (
	"bufio"
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	corenet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protodelim"
)

// patience is how long a test waits for what happens by itself.
const patience = 45 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Started by the init functions of libraries, for the life of the process.
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreAnyFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"),
	)
}

// newHost makes a host on loopback that is closed after the test.
func newHost(t testing.TB, key crypto.PrivKey, addr string) host.Host {
	t.Helper()
	opts := []libp2p.Option{
		libp2p.ListenAddrStrings(addr), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport),
	}
	if key != nil {
		opts = append(opts, libp2p.Identity(key))
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// addrs gives the addresses of h as a bootstrap list.
func addrs(t testing.TB, h host.Host) []string {
	t.Helper()
	multiaddrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, a := range multiaddrs {
		texts = append(texts, a.String())
	}
	return texts
}

// start makes and starts a DHT on h that is stopped after the test. tweak may change what only tests
// change.
func start(t testing.TB, h host.Host, cfg Config, tweak ...func(*DHT)) *DHT {
	t.Helper()
	return startWith(t, cfg, Deps{Host: h, Log: zap.NewNop()}, tweak...)
}

func startWith(t testing.TB, cfg Config, deps Deps, tweak ...func(*DHT)) *DHT {
	t.Helper()
	d, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tweak {
		f(d)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	return d
}

// join starts n peers of a private network that all know the first, and waits until each has
// others in its table.
func join(t testing.TB, name string, n int, tweak ...func(*DHT)) []*DHT {
	t.Helper()
	all := make([]*DHT, n)
	var bootstrap []string
	for i := range all {
		h := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
		all[i] = start(t, h, Config{Network: name, Bootstrap: bootstrap}, tweak...)
		if i == 0 {
			bootstrap = addrs(t, h)
		}
	}
	if n > 1 {
		for _, d := range all {
			eventually(t, "peers in the routing table", func() bool { return d.Status().WANPeers > 0 })
		}
	}
	return all
}

// eventually waits until ok is true, for what has no event to wait for: kad-dht does not tell when
// its table changes, nor a record when it arrives.
// The optional functions are called before each look, to help it along.
func eventually(t testing.TB, what string, ok func() bool, help ...func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		for _, f := range help {
			f()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %s within %v", what, patience)
		case <-tick.C:
		}
	}
}

// announced waits until c is announced under all keys.
func announced(t testing.TB, d *DHT, c cid.Cid) {
	t.Helper()
	d.Announce(c)
	eventually(t, "announcement", func() bool {
		s := d.AnnounceState(c)
		return s.Keys > 0 && s.Done == s.Keys && s.Err == nil
	})
}

// within gives a context that ends with the test's patience.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// peersOf reads a Find to its end.
func peersOf(found <-chan Provider) map[peer.ID]Provider {
	all := make(map[peer.ID]Provider)
	for p := range found {
		all[p.Info.ID] = p
	}
	return all
}

func cidOf(t testing.TB, text string) cid.Cid {
	t.Helper()
	hash, err := mh.Sum([]byte(text), mh.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(cid.DagCBOR, hash)
}

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func memory() ds.Batching { return dssync.MutexWrap(ds.NewMapDatastore()) }

// silentPeer makes a peer of a private network that is let into tables, for it answers what a table
// asks about the peer itself, and then never answers again until release is called.
func silentPeer(t testing.TB, name string, via host.Host) (id peer.ID, release func()) {
	t.Helper()
	h := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	stop := make(chan struct{})
	h.SetStreamHandler(privatePrefix+protocol.ID(name)+"/kad/1.0.0", func(s corenet.Stream) {
		defer s.Reset() //nolint:errcheck // the test is over then
		var m pb.Message
		if protodelim.UnmarshalFrom(bufio.NewReader(s), &m) != nil {
			return
		}
		if m.GetType() == pb.Message_FIND_NODE && string(m.GetKey()) == string(h.ID()) {
			_, _ = protodelim.MarshalTo(s, pb.NewMessage(m.GetType(), m.GetKey(), 0))
			_ = s.Close()
			return
		}
		<-stop
	})
	if err := via.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	return h.ID(), sync.OnceFunc(func() { close(stop) })
}

// connect connects h to a peer that via knows.
func connect(t testing.TB, h host.Host, via *DHT, p peer.ID) {
	t.Helper()
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: p, Addrs: via.host.Peerstore().Addrs(p)}); err != nil {
		t.Fatal(err)
	}
}

// refuser makes a peer of a private network that answers queries, knows nobody, and takes no record.
func refuser(t testing.TB, name string, via host.Host) {
	t.Helper()
	h := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	h.SetStreamHandler(privatePrefix+protocol.ID(name)+"/kad/1.0.0", func(s corenet.Stream) {
		var m pb.Message
		if protodelim.UnmarshalFrom(bufio.NewReader(s), &m) != nil || m.GetType() == pb.Message_ADD_PROVIDER {
			_ = s.Reset()
			return
		}
		_, _ = protodelim.MarshalTo(s, pb.NewMessage(m.GetType(), m.GetKey(), 0))
		_ = s.Close()
	})
	if err := via.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
		t.Fatal(err)
	}
}
