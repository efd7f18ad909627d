package call

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

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

// A peer that was reached once is reached again at once, though it is said to be at many places that swallow what is sent.
func TestReachedBeforeOthers(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	call(t, c, cell, "echo")
	if at := c.links.reachedAt(p.host.ID()); at == nil {
		t.Fatal("where it was reached is not known")
	}
	info := peer.AddrInfo{ID: p.host.ID()}
	for range cellproto.MaxAdvertAddrs {
		l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		info.Addrs = append(info.Addrs, multiaddr.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)))
	}
	h := c.deps.Host
	if err := h.Network().ClosePeer(p.host.ID()); err != nil {
		t.Fatal(err)
	}
	h.Peerstore().ClearAddrs(p.host.ID())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := c.links.connect(ctx, info); err != nil {
		t.Error(err)
	}
}
