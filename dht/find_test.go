package dht

import (
	"bufio"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	corenet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/celldnet/celld/cellproto"
)

func TestAnnounceAndFind(t *testing.T) {
	t.Parallel()
	net := join(t, "find", 8)
	c := cidOf(t, "a cell")
	announced(t, net[2], c)
	announced(t, net[5], c)

	found, progress := net[7].FindWithProgress(within(t), c)
	all := peersOf(found)
	for _, d := range []*DHT{net[2], net[5]} {
		p, ok := all[d.host.ID()]
		if !ok {
			t.Fatalf("provider %s was not found, only %v", d.host.ID(), all)
		}
		if len(p.Info.Addrs) == 0 || p.Source != SourceDHT {
			t.Errorf("provider = %+v, want addresses and source dht", p)
		}
	}
	if len(all) != 2 {
		t.Errorf("found %d peers, want 2: each once", len(all))
	}
	if progress.Keys < 4 || progress.Asked() == 0 || progress.Read() != 2 {
		t.Errorf("progress = %d keys, %d asked, %d read", progress.Keys, progress.Asked(), progress.Read())
	}
	// A provider leaves itself out.
	if all := peersOf(net[2].Find(within(t), c)); len(all) != 1 {
		t.Errorf("a provider found %d others, want 1", len(all))
	}
	if all := peersOf(net[7].Find(within(t), cidOf(t, "nobody's"))); len(all) != 0 {
		t.Errorf("found %v for what nobody announced", all)
	}
}

// A CID of another codec and version but the same hash has the same providers: records know only
// the hash.
func TestFindIgnoresCodec(t *testing.T) {
	t.Parallel()
	net := join(t, "codec", 3)
	c := cidOf(t, "a block")
	announced(t, net[1], c)
	all := peersOf(net[2].Find(within(t), cid.NewCidV1(cid.Raw, c.Hash())))
	if len(all) != 1 {
		t.Errorf("found %d providers, want 1", len(all))
	}
}

// Any IPFS node asks for the plain key alone, and a cell finds what an IPFS node announced.
func TestPlainKeyInterop(t *testing.T) {
	t.Parallel()
	net := join(t, "plain", 5)
	c := cidOf(t, "for everybody")
	announced(t, net[1], c)
	var ids []peer.ID
	for info := range net[3].Routing().FindProvidersAsync(within(t), c, 0) {
		ids = append(ids, info.ID)
	}
	if len(ids) != 1 || ids[0] != net[1].host.ID() {
		t.Errorf("the plain key gives %v, want the provider", ids)
	}
	other := cidOf(t, "of an IPFS node")
	if err := net[2].Routing().Provide(within(t), other, true); err != nil {
		t.Fatal(err)
	}
	if all := peersOf(net[4].Find(within(t), other)); len(all) != 1 {
		t.Errorf("found %d providers of what is announced under the plain key only, want 1", len(all))
	}
}

// The first provider is usable before the lookup ends: a peer that never answers holds the lookup
// up, not the provider.
func TestFindStreams(t *testing.T) {
	t.Parallel()
	net := join(t, "stream", 5)
	c := cidOf(t, "streamed")
	announced(t, net[1], c)
	silent, release := silentPeer(t, "stream", net[0].host)
	defer release()
	eventually(t, "silent peer in the table", func() bool {
		return net[4].tables.Load().wan.RoutingTable().Find(silent) != ""
	}, func() { connect(t, net[4].host, net[0], silent) })

	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	start := time.Now()
	found := net[4].Find(ctx, c)
	p, ok := <-found
	if !ok || p.Info.ID != net[1].host.ID() {
		t.Fatalf("first = %+v, %v", p, ok)
	}
	if took := time.Since(start); took > replyTimeout {
		t.Errorf("the first provider took %v: it waited for the silent peer", took)
	}
	select {
	case p, ok := <-found:
		t.Errorf("the lookup ended or went on with %+v, %v, although a peer has not answered", p, ok)
	default:
	}
	cancel()
	for range found { // it is closed soon, or the test's deadline says so
	}
}

func TestFindMDNSAndStaticFirst(t *testing.T) {
	t.Parallel()
	near, listed := newKey(t), newKey(t)
	nearID, _ := peer.IDFromPrivateKey(near)
	listedID, _ := peer.IDFromPrivateKey(listed)
	h := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	d := start(t, h, Config{
		Network: "first",
		Static:  []string{"/ip4/127.0.0.1/tcp/9/p2p/" + listedID.String()},
	})
	d.lan.add(peer.AddrInfo{ID: nearID, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/9")}}, time.Now())
	ctx, cancel := context.WithTimeout(t.Context(), patience/4)
	defer cancel()
	found := d.Find(ctx, cidOf(t, "anything")) // it looks on for as long as it may: there is nobody to ask
	first, second := <-found, <-found
	if first.Info.ID != listedID || first.Source != SourceStatic {
		t.Errorf("first = %+v", first)
	}
	if second.Info.ID != nearID || second.Source != SourceMDNS {
		t.Errorf("second = %+v", second)
	}
	if p, ok := <-found; ok {
		t.Errorf("then %+v", p)
	}
	if s := d.Status(); s.MDNSPeers != 1 {
		t.Errorf("status says %d mDNS peers", s.MDNSPeers)
	}
}

func TestFindNotRunning(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	d, err := New(Config{Network: "off"}, Deps{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		if _, ok := <-d.Find(t.Context(), cidOf(t, "x")); ok {
			t.Errorf("%s: found something", when)
		}
		if _, err := d.FindPeer(t.Context(), h.ID()); err == nil {
			t.Errorf("%s: FindPeer worked", when)
		}
		if _, err := d.ResolveName(t.Context(), "example.org"); err == nil {
			t.Errorf("%s: ResolveName worked", when)
		}
	}
	check("before Start")
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	d.Stop()
	d.Stop()
	check("after Stop")
	if err := d.Start(t.Context()); err == nil {
		t.Error("started after Stop")
	}
}

// Stop ends a Find that goes on, and what Announce does.
func TestStopEndsEverything(t *testing.T) {
	t.Parallel()
	net := join(t, "stop", 3)
	silent, release := silentPeer(t, "stop", net[0].host)
	defer release()
	eventually(t, "silent peer in the table", func() bool {
		return net[2].tables.Load().wan.RoutingTable().Find(silent) != ""
	}, func() { connect(t, net[2].host, net[0], silent) })
	net[2].Announce(cidOf(t, "never done"))
	found := net[2].Find(t.Context(), cidOf(t, "never found"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		net[2].Stop()
	}()
	select {
	case <-done:
	case <-within(t).Done():
		t.Fatal("Stop did not return")
	}
	for range found {
		t.Error("found something")
	}
}

// A peer that names providers without end: the first 64 are read, and the lookup ends.
func TestFindReadsSoManyProviders(t *testing.T) {
	t.Parallel()
	const name = "crowded"
	var all []peer.AddrInfo
	for n := range 4 * cellproto.MaxProviders {
		_, id := identity(t, "provider", n)
		all = append(all, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", 1000+n))}})
	}
	key, _ := identity(t, "crowd", 0)
	liar := newHost(t, key, "/ip4/127.0.0.1/tcp/0")
	liar.SetStreamHandler(privatePrefix+protocol.ID(name)+"/kad/1.0.0", func(s corenet.Stream) {
		defer s.Close() //nolint:errcheck // a peer that does not care
		var m pb.Message
		if protodelim.UnmarshalFrom(bufio.NewReader(s), &m) != nil {
			return
		}
		answer := pb.NewMessage(m.GetType(), m.GetKey(), 0)
		if m.GetType() == pb.Message_GET_PROVIDERS {
			answer.ProviderPeers = pb.RawPeerInfosToPBPeers(all)
		}
		_, _ = protodelim.MarshalTo(s, answer)
	})
	key, _ = identity(t, "crowd", 1)
	d := start(t, newHost(t, key, "/ip4/127.0.0.1/tcp/0"), Config{Network: name, Bootstrap: addrs(t, liar)})
	eventually(t, "the liar is in the table", func() bool { return d.Status().WANPeers == 1 })
	found, progress := d.FindWithProgress(within(t), cidOf(t, "a cell with many providers"))
	n := 0
	for range found {
		n++
	}
	if n != cellproto.MaxProviders || progress.Read() != cellproto.MaxProviders {
		t.Errorf("%d providers were given and %d read, the limit is %d", n, progress.Read(), cellproto.MaxProviders)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	id := func(n int) peer.ID { return peer.ID([]byte{0, 2, byte(n >> 8), byte(n)}) }
	t.Run("one key cannot hide the others", func(t *testing.T) {
		q := newQuota(4, 64)
		passed := 0
		for n := range 200 {
			passed += len(q.add(0, peer.AddrInfo{ID: id(n)}))
		}
		if passed != 16 {
			t.Errorf("a stuffed key gave %d while the others go on, want its share, 16", passed)
		}
		if got := q.add(1, peer.AddrInfo{ID: id(1000)}); len(got) != 1 {
			t.Error("no room for another key's first provider")
		}
		passed += len(q.end(1)) + len(q.end(2)) + len(q.end(3))
		if passed != 63 || !q.full() {
			t.Errorf("%d of the stuffed key in the end, want 63; total %d", passed, q.total)
		}
	})
	t.Run("a provider counts once", func(t *testing.T) {
		q := newQuota(2, 4)
		for key := range 2 {
			for range 3 {
				q.add(key, peer.AddrInfo{ID: id(1)})
			}
		}
		if q.total != 1 {
			t.Errorf("total = %d", q.total)
		}
	})
	t.Run("addresses that come later", func(t *testing.T) {
		q := newQuota(2, 4)
		q.add(0, peer.AddrInfo{ID: id(1)})
		with := peer.AddrInfo{ID: id(1), Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/1")}}
		if got := q.add(1, with); len(got) != 1 {
			t.Error("the addresses were lost")
		}
		if got := q.add(1, with); len(got) != 0 || q.total != 1 {
			t.Error("passed on twice")
		}
	})
}

func TestUsable(t *testing.T) {
	t.Parallel()
	id, _ := peer.IDFromPrivateKey(newKey(t))
	other, _ := peer.IDFromPrivateKey(newKey(t))
	a := ma.StringCast("/ip4/127.0.0.1/tcp/1")
	many := make([]ma.Multiaddr, 0, 40)
	for i := range 40 {
		many = append(many, ma.StringCast("/ip4/127.0.0.1/tcp/"+string(rune('1'+i%9))+string(rune('0'+i/9))))
	}
	for _, tt := range []struct {
		name string
		in   peer.AddrInfo
		want int // addresses; 0: not usable
	}{
		{"good", peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{a}}, 1},
		{"with its own peer ID", peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{a.Encapsulate(ma.StringCast("/p2p/" + id.String())), a}}, 1},
		{"of another peer", peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{a.Encapsulate(ma.StringCast("/p2p/" + other.String()))}}, 0},
		{"no address", peer.AddrInfo{ID: id}, 0},
		{"nil address", peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{nil}}, 0},
		{"no peer", peer.AddrInfo{Addrs: []ma.Multiaddr{a}}, 0},
		{"too many", peer.AddrInfo{ID: id, Addrs: many}, 16},
	} {
		got, ok := usable(tt.in)
		if ok != (tt.want > 0) || len(got.Addrs) != tt.want {
			t.Errorf("%s: %d addresses, usable %v, want %d", tt.name, len(got.Addrs), ok, tt.want)
		}
	}
}
