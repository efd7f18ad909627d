package call

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/addrgroup"
)

// firewall lets nobody dial the peer behind it but through a relay.
type firewall struct{ behind atomic.Pointer[peer.ID] }

func (f *firewall) InterceptAddrDial(p peer.ID, a ma.Multiaddr) bool {
	behind := f.behind.Load()
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return behind == nil || p != *behind || err == nil
}

func (*firewall) InterceptPeerDial(peer.ID) bool              { return true }
func (*firewall) InterceptAccept(network.ConnMultiaddrs) bool { return true }
func (*firewall) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}
func (*firewall) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func ptr[T any](v T) *T { return &v }

// relayedPair is a caller's links and a server that it reaches through a relay only, until direct says
// otherwise.
func relayedPair(t *testing.T) (l *links, at peer.AddrInfo, direct func()) {
	t.Helper()
	nat := &firewall{}
	open := func(g connmgr.ConnectionGater) host.Host {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics(), libp2p.NoTransports,
			libp2p.Transport(tcp.NewTCPTransport), libp2p.EnableRelay(), libp2p.ConnectionGater(g))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return h
	}
	middle, far, near := open(&firewall{}), open(&firewall{}), open(nat)
	nat.behind.Store(ptr(far.ID()))
	r, err := relay.New(middle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if err := far.Connect(t.Context(), infoOf(middle)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Reserve(t.Context(), far, infoOf(middle)); err != nil {
		t.Fatal(err)
	}
	far.SetStreamHandler(cellproto.ProtocolCall, HandleStream(zap.NewNop(), func(st network.Stream) error {
		c, err := cellproto.NewConn(stream{st}, cellproto.Config{Accept: func(*cellproto.Conn, *cellproto.Frame) {}}) // answers no call
		if err != nil {
			return err
		}
		return c.Run()
	}))
	l = newLinks(near, "test", zap.NewNop())
	t.Cleanup(l.close)
	via, err := ma.NewMultiaddr(middle.Addrs()[0].String() + "/p2p/" + middle.ID().String() + "/p2p-circuit")
	if err != nil {
		t.Fatal(err)
	}
	return l, peer.AddrInfo{ID: far.ID(), Addrs: []ma.Multiaddr{via}}, func() {
		nat.behind.Store(nil)
		ctx := network.WithForceDirectDial(t.Context(), "the hole has been punched")
		if err := near.Connect(ctx, infoOf(far)); err != nil {
			t.Fatal(err)
		}
	}
}

// age has a link be so old.
func (l *links) age(lk *link, by time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lk.made = time.Now().Add(-by)
}

func mustPeer(t *testing.T, l *links, at peer.AddrInfo) *link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	lk, err := l.peer(ctx, at, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lk.conn.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	return lk
}

// A relayed link gives way to a direct one as soon as there is one, and no large body goes over it.
func TestRelayedLinkGivesWay(t *testing.T) {
	l, at, direct := relayedPair(t)
	first := mustPeer(t, l, at)
	if !first.relayed {
		t.Fatal("the link is not relayed")
	}
	name := cellproto.PeerID(at.ID.String())
	if group, local := groupOf(l.host.Network().ConnsToPeer(at.ID)[0].RemoteMultiaddr(), name); group != addrgroup.Relayed || local {
		t.Errorf("the relay stands for a network: %q, %v", group, local)
	}
	if l.live(name, "", "") != first || !l.hopeful(name) {
		t.Error("a fresh relayed link is not used, or there is no hope")
	}
	ctx, cancel := context.WithTimeout(t.Context(), punchTime+punchTime/2)
	defer cancel()
	_, err := l.bulk(ctx, at, "", "")
	wantKind(t, err, cellproto.Timeout)
	second := mustPeer(t, l, at)
	direct()
	if lk := l.live(name, "", ""); lk != nil {
		t.Errorf("the relayed link is still used: %+v", lk.key)
	}
	third := mustPeer(t, l, at)
	if !second.relayed || third.relayed {
		t.Errorf("the links are relayed: %t, %t; want true, false", second.relayed, third.relayed)
	}
	lk, err := l.bulk(t.Context(), at, "", "")
	if err != nil || lk.relayed {
		t.Fatalf("a large body has no direct link: %v", err)
	}
	lk.conn.Close()
	if l.hopeful(name) {
		t.Error("a direct connection is still hoped for")
	}
}

// A link that stays relayed is made anew when it is old enough and idle, a few times and no more.
func TestRelayedLinkIsMadeAnew(t *testing.T) {
	l, at, _ := relayedPair(t)
	lk := mustPeer(t, l, at)
	if mustPeer(t, l, at) != lk {
		t.Error("a young link was made anew")
	}
	for n, wait := range []time.Duration{renewAfter, 10 * renewAfter, 100 * renewAfter} {
		l.age(lk, wait/2)
		if mustPeer(t, l, at) != lk {
			t.Errorf("attempt %d: made anew after %v", n, wait/2)
		}
		l.age(lk, wait)
		next := mustPeer(t, l, at)
		if next == lk || !next.relayed {
			t.Errorf("attempt %d: not made anew after %v", n, wait)
		}
		lk = next
	}
	l.age(lk, time.Hour)
	if mustPeer(t, l, at) != lk {
		t.Error("made anew more often than promised")
	}
	if l.hopeful(cellproto.PeerID(at.ID.String())) {
		t.Error("a direct connection is still hoped for")
	}
}

// Calls that are under way keep their link.
func TestBusyRelayedLinkStays(t *testing.T) {
	l, at, _ := relayedPair(t)
	lk := mustPeer(t, l, at)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := lk.conn.Call(ctx, request("echo", "x"))
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { _, out := lk.conn.InFlight(); return out == 1 })
	l.age(lk, time.Hour)
	l.renew(at.ID)
	if mustPeer(t, l, at) != lk {
		t.Error("the link was made anew beside a call")
	}
	cancel()
	wantKind(t, <-done, cellproto.Canceled)
}
