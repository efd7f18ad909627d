package dht

import (
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
)

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cfg  Config
		kind cellproto.Kind
	}{
		{"empty", Config{}, 0},
		{"public", Config{Network: Public, ServerMode: ModeClient}, 0},
		{"private", Config{Network: "my-net-1", Bootstrap: []string{someAddr}, Static: []string{someAddr, "https://example.org/advert.json", "../calc/cache/advert.json"}}, 0},
		{"DNS bootstrap", Config{Bootstrap: []string{"/dnsaddr/bootstrap.libp2p.io/p2p/" + somePeer}}, 0},
		{"capitals", Config{Network: "Home"}, cellproto.BadInput},
		{"a path", Config{Network: "a/b"}, cellproto.BadInput},
		{"long name", Config{Network: strings.Repeat("a", 64)}, cellproto.BadInput},
		{"mode", Config{ServerMode: "both"}, cellproto.BadInput},
		{"bootstrap without peer", Config{Bootstrap: []string{"/ip4/127.0.0.1/tcp/1"}}, cellproto.BadInput},
		{"bootstrap without address", Config{Bootstrap: []string{"/p2p/" + somePeer}}, cellproto.BadInput},
		{"bootstrap no multiaddr", Config{Bootstrap: []string{"127.0.0.1:1"}}, cellproto.BadInput},
		{"too many bootstraps", Config{Bootstrap: make([]string, 65)}, cellproto.TooLarge},
		{"static without peer", Config{Static: []string{"/ip4/127.0.0.1/tcp/1"}}, cellproto.BadInput},
		{"static without host", Config{Static: []string{"https:///advert.json"}}, cellproto.BadInput},
		{"static empty", Config{Static: []string{" "}}, cellproto.BadInput},
		{"too many static", Config{Static: make([]string, 65)}, cellproto.TooLarge},
	} {
		if err := tt.cfg.Validate(); cellproto.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, kind %v, want %v", tt.name, err, cellproto.KindOf(err), tt.kind)
		}
	}
	if _, err := New(Config{}, Deps{}); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("without a host: %v", err)
	}
}

func TestBootstrapAndStatus(t *testing.T) {
	t.Parallel()
	first := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "status"})
	gone := "/ip4/127.0.0.1/tcp/1/p2p/" + otherPeer
	bootstrap := append(addrs(t, first.host), gone)
	h := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	d := start(t, h, Config{Network: "status", Bootstrap: append(bootstrap, addrs(t, h)...)})
	eventually(t, "status", func() bool {
		s := d.Status()
		return s.Bootstrapped == 1 && s.WANPeers == 1 && s.Err != nil
	})
	s := d.Status()
	if s.Network != "status" || s.Mode != ModeServer || s.BootstrapTotal != 2 || s.LANPeers != 0 || s.Connected != 1 {
		t.Errorf("status = %+v; this peer itself is no bootstrap peer", s)
	}
	if cellproto.HintOf(s.Err) == "" || !strings.Contains(s.Err.Error(), otherPeer) {
		t.Errorf("err = %v, hint %q", s.Err, cellproto.HintOf(s.Err))
	}
	client := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "status", Bootstrap: addrs(t, first.host), ServerMode: ModeClient})
	eventually(t, "client", func() bool { return client.Status().WANPeers > 0 })
	if mode := client.Status().Mode; mode != ModeClient {
		t.Errorf("mode = %q", mode)
	}
	d.Stop()
	if s := d.Status(); s.Mode != "" || s.WANPeers != 0 {
		t.Errorf("after Stop: %+v", s)
	}
}

// When the first peer of a private network comes back, the others come back to it.
func TestBootstrapReconnects(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	first := newHost(t, key, "/ip4/127.0.0.1/tcp/0")
	where := first.Addrs()[0].String()
	bootstrap := addrs(t, first)
	d := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "again", Bootstrap: bootstrap})
	eventually(t, "connection", func() bool { return d.Status().Bootstrapped == 1 })
	_ = first.Close()
	eventually(t, "loss", func() bool { return d.Status().Bootstrapped == 0 })
	back := newHost(t, key, where)
	eventually(t, "connection again", func() bool { return back.Network().Connectedness(d.host.ID()) == network.Connected })
}

// New may be called while the host is being made, which then finds addresses through it.
func TestHostRoutesThroughDHT(t *testing.T) {
	t.Parallel()
	net := join(t, "route", 3)
	var d *DHT
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Routing(func(h host.Host) (routing.PeerRouting, error) {
			var err error
			d, err = New(Config{Network: "route", Bootstrap: addrs(t, net[0].host)}, Deps{Host: h})
			return d, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	eventually(t, "peers", func() bool { return d.Status().WANPeers > 0 })
	other := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	start(t, other, Config{Network: "route", Bootstrap: addrs(t, net[0].host)})
	eventually(t, "connection to a peer of which only the ID is known", func() bool {
		return h.Connect(within(t), peer.AddrInfo{ID: other.ID()}) == nil
	})
}

// Two peers of the public network that meet on loopback are on a LAN: they do not reach for the
// internet in this test, having bootstrap peers of their own.
func TestPublicNetworkOnLAN(t *testing.T) {
	t.Parallel()
	a := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	b := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	one := start(t, a, Config{Bootstrap: addrs(t, b)})
	two := start(t, b, Config{Bootstrap: addrs(t, a)})
	eventually(t, "LAN table", func() bool { return one.Status().LANPeers == 1 && two.Status().LANPeers == 1 })
	s := one.Status()
	if s.Network != Public || s.WANPeers != 0 || s.Mode != ModeClient {
		t.Errorf("status = %+v", s)
	}
	// Nobody can take a record with loopback addresses on a LAN; but whoever asks the provider
	// itself gets it.
	c := cidOf(t, "public")
	one.Announce(c)
	eventually(t, "reason", func() bool { return one.AnnounceState(c).Err != nil })
	if all := peersOf(two.Find(within(t), c)); len(all) != 1 || all[a.ID()].Source != SourceDHT {
		t.Errorf("found %v", all)
	}
	key := newKey(t)
	name, err := one.PublishName(within(t), key, c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := two.ResolveName(within(t), name); err != nil || got != c {
		t.Errorf("resolves to %v, %v", got, err)
	}
}

func TestWellKnownBootstrap(t *testing.T) {
	t.Parallel()
	d, err := New(Config{}, Deps{Host: newHost(t, nil, "/ip4/127.0.0.1/tcp/0")})
	if err != nil {
		t.Fatal(err)
	}
	if _, total, _ := d.boot.state(); total != len(kad.DefaultBootstrapPeers) || total == 0 || d.boot.keep {
		t.Errorf("%d bootstrap peers, keep %v", total, d.boot.keep)
	}
	if s := d.Status(); s.Network != Public || s.BootstrapTotal == 0 {
		t.Errorf("status = %+v", s)
	}
}

func TestServiceName(t *testing.T) {
	t.Parallel()
	if got := serviceName("public"); got != "_cell-public._udp" {
		t.Errorf("%q", got)
	}
	long := serviceName(strings.Repeat("a", 63))
	if label, _, _ := strings.Cut(long, "."); len(label) > 63 {
		t.Errorf("%q has a label of %d bytes", long, len(label))
	}
	if long == serviceName(strings.Repeat("a", 62)) {
		t.Error("two networks have one service")
	}
}

func TestLANPeers(t *testing.T) {
	t.Parallel()
	l := newLANPeers()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	info := func(n byte) peer.AddrInfo {
		return peer.AddrInfo{ID: peer.ID([]byte{0, 1, n}), Addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.168.1.1/tcp/1")}}
	}
	for n := range byte(2 * maxLANPeers) {
		l.add(info(n), now.Add(time.Duration(n)*time.Second))
	}
	list := l.list(now.Add(time.Minute))
	if len(list) != maxLANPeers {
		t.Errorf("%d peers are remembered, want %d", len(list), maxLANPeers)
	}
	for _, p := range list {
		if p.ID[2] < maxLANPeers {
			t.Errorf("%v, one of the oldest, is still there", []byte(p.ID))
		}
	}
	select {
	case <-l.news:
	default:
		t.Error("nobody was told")
	}
	l.add(info(40), now.Add(time.Hour))
	select {
	case <-l.news:
		t.Error("a peer that is known is news")
	default:
	}
	if list := l.list(now.Add(lanPeerTTL + time.Minute + 30*time.Second)); len(list) != 1 {
		t.Errorf("%d peers after an hour, want the one that was heard again", len(list))
	}
}

// A peer that is only known from the LAN is enough to join a private network by.
func TestJoinByLANPeer(t *testing.T) {
	t.Parallel()
	first := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "lan"})
	d := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "lan"})
	d.lan.add(peer.AddrInfo{ID: first.host.ID(), Addrs: first.host.Addrs()}, time.Now())
	eventually(t, "peer of the LAN in the table", func() bool { return d.Status().WANPeers == 1 })
}
