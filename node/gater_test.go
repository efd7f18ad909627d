package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/dht/content"
	"github.com/celldnet/celld/node/call"
)

func newPeer(t testing.TB) peer.ID {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestGaterOnThePublicNetwork(t *testing.T) {
	stranger, friend, boot, seen := newPeer(t), newPeer(t), newPeer(t), newPeer(t)
	g := newGater(false, []string{
		"/ip4/172.20.7.9/tcp/4001/p2p/" + friend.String(),
		"/ip4/8.8.8.8/tcp/4001/p2p/" + boot.String(),
		"/ip6/fd12:3456:789a:1::5/tcp/4001/p2p/" + friend.String(),
		"/run/cells/echo.sock",
	})
	g.allow(seen)
	relay := "/p2p/" + boot.String() + "/p2p-circuit"
	for _, c := range []struct {
		addr string
		who  peer.ID
		want bool
	}{
		{"/ip4/1.2.3.4/tcp/1", stranger, true},
		{"/ip4/1.2.3.4/udp/1/quic-v1", stranger, true},
		{"/ip6/2606:4700::1111/udp/1/quic-v1", stranger, true},
		{"/ip4/1.2.3.4/tcp/1" + relay, stranger, true},
		{"/dns4/example.org/tcp/1", stranger, true}, // asked about again when it is resolved
		{"/dnsaddr/bootstrap.example.org", stranger, true},

		{"/ip4/127.0.0.1/tcp/22", stranger, false},
		{"/ip4/127.0.0.1/udp/22/quic-v1", stranger, false},
		{"/ip4/0.0.0.0/tcp/22", stranger, false},
		{"/ip4/0.1.2.3/tcp/22", stranger, false},
		{"/ip4/10.0.0.1/tcp/80", stranger, false},
		{"/ip4/172.16.0.1/tcp/80", stranger, false},
		{"/ip4/192.168.1.1/tcp/80", stranger, false},
		{"/ip4/192.168.1.1/tcp/80/ws", stranger, false},
		{"/ip4/192.168.1.1/udp/1/quic-v1/webtransport", stranger, false},
		{"/ip4/192.168.1.1/tcp/80" + relay, stranger, false},
		{"/ip4/169.254.169.254/tcp/80", stranger, false},
		{"/ip4/100.64.0.1/tcp/80", stranger, false},
		{"/ip4/198.18.0.1/tcp/80", stranger, false},
		{"/ip4/224.0.0.251/udp/5353/quic-v1", stranger, false},
		{"/ip4/240.0.0.1/tcp/80", stranger, false},
		{"/ip4/255.255.255.255/tcp/80", stranger, false},
		{"/ip6/::1/tcp/22", stranger, false},
		{"/ip6/::/tcp/22", stranger, false},
		{"/ip6/::ffff:192.168.1.1/tcp/80", stranger, false},
		{"/ip6/::192.168.1.1/tcp/80", stranger, false},
		{"/ip6/64:ff9b::c0a8:101/tcp/80", stranger, false},
		{"/ip6/2002:c0a8:101::1/tcp/80", stranger, false},
		{"/ip6/fe80::1/tcp/80", stranger, false},
		{"/ip6zone/eth0/ip6/fe80::1/tcp/80", stranger, false},
		{"/ip6/fd00::1/tcp/80", stranger, false},
		{"/ip6/fec0::1/tcp/80", stranger, false},
		{"/ip6/ff02::fb/udp/5353/quic-v1", stranger, false},
		{"/unix/run/docker.sock", stranger, false},

		{"/ip4/10.0.0.1/tcp/80", friend, true},     // the owner named the peer
		{"/ip4/10.0.0.1/tcp/80", seen, true},       // mDNS has
		{"/ip4/172.20.3.4/tcp/80", stranger, true}, // the owner named somebody in that range
		{"/ip6/fd12:3456:789a:ffff::1/tcp/80", stranger, true},
		{"/ip6/fd12:3456:789b::1/tcp/80", stranger, false},
		{"/ip4/172.21.3.4/tcp/80", stranger, false},
	} {
		a, err := ma.NewMultiaddr(c.addr)
		if err != nil {
			t.Fatalf("%s: %v", c.addr, err)
		}
		if got := g.InterceptAddrDial(c.who, a); got != c.want {
			t.Errorf("dialing %s gives %t, want %t", c.addr, got, c.want)
		}
	}
	if a := ma.StringCast("/ip4/127.0.0.1/tcp/1"); !newGater(true, nil).InterceptAddrDial(stranger, a) {
		t.Error("a private network refuses an address")
	}
}

// Naming one loopback address opens loopback, as on a machine with several nuclei.
func TestGaterLoopback(t *testing.T) {
	stranger := newPeer(t)
	g := newGater(false, []string{"/ip4/127.0.0.1/tcp/4001/p2p/" + newPeer(t).String()})
	if !g.InterceptAddrDial(stranger, ma.StringCast("/ip4/127.9.9.9/tcp/1")) {
		t.Error("another loopback address is refused")
	}
	if g.InterceptAddrDial(stranger, ma.StringCast("/ip6/::1/tcp/1")) || g.InterceptAddrDial(stranger, ma.StringCast("/ip4/10.0.0.1/tcp/1")) {
		t.Error("more than that is open")
	}
}

// A donor says where its mirror is: that opens the donor's own address to it, and nothing else of the LAN.
func TestVouchedForAtOneAddress(t *testing.T) {
	donor, caller := plainHost(t), newGater(false, []string{"/ip4/127.0.0.1/tcp/1/p2p/" + newPeer(t).String()})
	h := plainHost(t, libp2p.ConnectionGater(caller))
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: donor.ID(), Addrs: donor.Addrs()}); err != nil {
		t.Fatal(err)
	}
	caller.ranges = nil // from now on no address of this machine is named
	n, mirror := &nucleus{host: h, gater: caller}, newPeer(t)
	lan, own := ma.StringCast("/ip4/192.168.1.1/tcp/80"), ma.StringCast("/ip4/127.0.0.1/tcp/4001")
	n.vouch(donor.ID(), peer.AddrInfo{ID: mirror, Addrs: []ma.Multiaddr{lan}})
	if caller.InterceptAddrDial(mirror, lan) || caller.InterceptAddrDial(mirror, own) {
		t.Error("an address that is not the donor's is opened")
	}
	n.vouch(donor.ID(), peer.AddrInfo{ID: mirror, Addrs: []ma.Multiaddr{lan, own}})
	if !caller.InterceptAddrDial(mirror, own) {
		t.Error("a mirror beside its donor is refused")
	}
	if caller.InterceptAddrDial(mirror, lan) || caller.InterceptAddrDial(newPeer(t), own) {
		t.Error("a donor opens the LAN")
	}
}

func TestGaterBoundsWhatMDNSNames(t *testing.T) {
	g := newGater(false, nil)
	for i := range maxNamed + 10 {
		g.allow(peer.ID(fmt.Sprint(i)))
	}
	if len(g.named) != maxNamed {
		t.Errorf("%d peers are named, the bound is %d", len(g.named), maxNamed)
	}
}

func TestOffences(t *testing.T) {
	g := newGater(true, nil)
	p, now := newPeer(t), time.Now()
	for i, c := range []struct {
		after time.Duration
		want  bool
	}{
		{0, false}, {10 * time.Second, false}, {offenceWindow + 5*time.Second, false}, // the first is forgotten
		{offenceWindow + 9*time.Second, true},
	} {
		if got := g.offend(p, now.Add(c.after)); got != c.want {
			t.Errorf("offence %d: cut off is %t", i, got)
		}
	}
	if g.InterceptPeerDial(p) || g.InterceptSecured(network.DirInbound, p, nil) {
		t.Error("who is cut off gets in")
	}
	other := newPeer(t)
	if !g.InterceptPeerDial(other) || !g.InterceptSecured(network.DirInbound, other, nil) {
		t.Error("others do not")
	}
	g.blocked[p] = time.Now().Add(-time.Second)
	if !g.InterceptPeerDial(p) {
		t.Error("it is not let in again")
	}
	for i := range 3 * maxOffenders { // no memory without bounds
		id := peer.ID(fmt.Sprint(i))
		for range offences {
			g.offend(id, now)
		}
		g.offend(peer.ID(fmt.Sprint("once", i)), now)
	}
	if len(g.blocked) > maxOffenders || len(g.broken) > maxOffenders {
		t.Errorf("%d blocked, %d broken", len(g.blocked), len(g.broken))
	}
}

// Who sends garbage three times in a minute, by whichever protocol, is cut off, and does not get in
// again. What did not arrive is no breach.
func TestOffendersAreCutOff(t *testing.T) {
	const bitswap = "/ipfs/bitswap/1.2.0"
	fetch, big := []byte("\x00\x0aGET / HTTP/1.1\r\n"), []byte("\xff\xff\xff\x7f")
	hello := questions(t, "", 0, 0)
	for name, c := range map[string]struct {
		protocols [offences]protocol.ID
		say       [offences][]byte
		cut       bool
	}{
		"call":    {[offences]protocol.ID{cellproto.ProtocolCall, cellproto.ProtocolCall, cellproto.ProtocolCall}, [offences][]byte{fetch, fetch, fetch}, true},
		"advert":  {[offences]protocol.ID{cellproto.ProtocolAdvert, cellproto.ProtocolAdvert, cellproto.ProtocolAdvert}, [offences][]byte{fetch, big, fetch}, true},
		"fetch":   {[offences]protocol.ID{cellproto.ProtocolFetch, cellproto.ProtocolFetch, cellproto.ProtocolFetch}, [offences][]byte{fetch, big, fetch}, true},
		"bitswap": {[offences]protocol.ID{bitswap, bitswap, bitswap}, [offences][]byte{big, []byte("\x04\xff\xff\xff\xff"), big}, true},
		"one of each": {[offences]protocol.ID{cellproto.ProtocolAdvert, cellproto.ProtocolFetch, bitswap},
			[offences][]byte{fetch, fetch, big}, true},
		"calls cut off": {[offences]protocol.ID{cellproto.ProtocolCall, cellproto.ProtocolCall, cellproto.ProtocolCall},
			[offences][]byte{[]byte("\x00"), hello[:len(hello)-1], append(slices.Clone(hello), "\x00\x00\x00\x00\x07\x00"...)}, false},
		"cut off": {[offences]protocol.ID{cellproto.ProtocolAdvert, cellproto.ProtocolFetch, bitswap},
			[offences][]byte{[]byte("\x24\x01"), []byte("\x00\x29\x01"), []byte("\x40\x0a")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := chargingNucleus(t)
			attacker := plainHost(t)
			info := peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()}
			for i, id := range c.protocols {
				if err := attacker.Connect(t.Context(), info); err != nil {
					t.Fatal(err)
				}
				s, err := attacker.NewStream(t.Context(), info.ID, id)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = s.Write(c.say[i]) // it may have been cut off already
				_ = s.CloseWrite()
				_, _ = io.Copy(io.Discard, s) // it ends about when the breach is charged
			}
			for until := time.Now().Add(5 * time.Second); c.cut && !n.gater.isBlocked(attacker.ID()) && time.Now().Before(until); {
				runtime.Gosched()
			}
			if got := n.gater.isBlocked(attacker.ID()); got != c.cut {
				t.Fatalf("it was cut off: %t, want %t", got, c.cut)
			}
			if !c.cut {
				return
			}
			_ = attacker.Network().ClosePeer(info.ID)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := attacker.Connect(ctx, info); err == nil {
				if _, err := attacker.NewStream(ctx, info.ID, cellproto.ProtocolCall); err == nil {
					t.Error("it got in again")
				}
			}
			if err := plainHost(t).Connect(t.Context(), info); err != nil {
				t.Errorf("others do not get in: %v", err)
			}
		})
	}
}

func plainHost(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append(opts, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// chargingNucleus has nothing but the protocols that strangers speak with it.
func chargingNucleus(t *testing.T) *nucleus {
	t.Helper()
	g := newGater(true, nil)
	n := &nucleus{log: zap.NewNop(), gater: g, host: plainHost(t, libp2p.ConnectionGater(g))}
	n.server = call.NewServer(call.ServerConfig{Name: "test"}, call.ServerDeps{Identity: call.Identity{Peer: n.host.ID()}, Log: zap.NewNop()})
	n.handle(cellproto.ProtocolCall, func(s network.Stream) error { return n.server.ServeStream(context.Background(), s) })
	n.handle(cellproto.ProtocolAdvert, func(s network.Stream) error {
		return call.ServeAdvert(s, func(cid.Cid) ([]byte, error) { return nil, cellproto.Errorf("advert", cellproto.NotFound, "no") })
	})
	store, err := content.New(content.Config{}, content.Deps{Host: n.host, Charge: n.charge})
	if err != nil {
		t.Fatal(err)
	}
	store.Start()
	t.Cleanup(store.Stop)
	return n
}

// What an advert of the static list names is dialed at private addresses: of a file wherever the peer is, of a URL at the
// one that is named there.
func TestGaterOfListedAdverts(t *testing.T) {
	addr := func(text string) ma.Multiaddr {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	here, elsewhere := addr("/ip4/192.168.7.1/tcp/4001"), addr("/ip4/10.1.2.3/tcp/4001")
	g := newGater(false, nil)
	const byFile, byURL, nobody = peer.ID("file"), peer.ID("url"), peer.ID("nobody")
	g.listed(peer.AddrInfo{ID: byFile, Addrs: []ma.Multiaddr{here}}, true)
	g.listed(peer.AddrInfo{ID: byURL, Addrs: []ma.Multiaddr{here}}, false)
	for _, c := range []struct {
		p    peer.ID
		a    ma.Multiaddr
		want bool
	}{
		{byFile, here, true}, {byFile, elsewhere, true}, {byURL, here, true}, {byURL, elsewhere, false},
		{nobody, here, false}, {nobody, elsewhere, false},
	} {
		if got := g.InterceptAddrDial(c.p, c.a); got != c.want {
			t.Errorf("%s at %s: %t, want %t", string(c.p), c.a, got, c.want)
		}
	}
}
