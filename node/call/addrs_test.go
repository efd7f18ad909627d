package call

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
)

// Whoever names addresses of somebody else does not have those forgotten that work, however often.
func TestMergeKeepsWhatWorks(t *testing.T) {
	at := func(from, n int) (out []multiaddr.Multiaddr) {
		for i := range n {
			out = append(out, multiaddr.StringCast(fmt.Sprintf("/ip4/192.0.2.%d/tcp/4001", from+i)))
		}
		return out
	}
	good := at(1, 1)[0]
	known := merge(peer.AddrInfo{}, peer.AddrInfo{ID: "p", Addrs: append(at(20, 3), good)}, nil)
	for i := range 10 {
		known = merge(known, peer.AddrInfo{ID: "p", Addrs: at(30+20*i, cellproto.MaxAdvertAddrs)}, nil)
		if len(known.Addrs) > cellproto.MaxAdvertAddrs || !containsAddr(known.Addrs, good) {
			t.Fatalf("after %d floods: %v", i+1, known.Addrs)
		}
	}
	if moved := at(250, 1); !containsAddr(merge(known, peer.AddrInfo{ID: "p", Addrs: moved}, good).Addrs, moved[0]) {
		t.Error("a new address has no place")
	}
	if got := merge(known, peer.AddrInfo{ID: "p", Addrs: at(200, 5)}, good).Addrs; !got[0].Equal(good) {
		t.Errorf("where it was reached is not the first of %v", got)
	}
}

// Where a peer was reached by a call is known afterwards.
func TestReachedIsNoted(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	peers, places := &book{}, NewPlaces()
	peers.add(p.host)
	c := use(t, cell, peers, func(_ *CallerConfig, d *CallerDeps) { d.Places = places })
	call(t, c, cell, "echo")
	if at := places.At(p.host.ID()); at == nil || !containsAddr(p.host.Addrs(), at) {
		t.Errorf("it was reached at %v, and is at %v", at, p.host.Addrs())
	}
	for i := range 2 * maxPlaces {
		places.Reached(peer.ID(fmt.Sprint(i)), multiaddr.StringCast("/ip4/192.0.2.1/tcp/4001"))
	}
	if n := len(places.at); n != maxPlaces {
		t.Errorf("%d places are remembered, the bound is %d", n, maxPlaces)
	}
}
