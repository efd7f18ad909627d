package node

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/sandbox"
)

// A crowd of identities in one network, or of peers that are no donors, leaves room for those behind it.
func TestAskList(t *testing.T) {
	add := func(l *askList, n int, addr string) {
		for i := range n {
			l.add(peer.AddrInfo{ID: peer.ID(fmt.Sprint(addr, i)), Addrs: []ma.Multiaddr{ma.StringCast(addr)}})
		}
	}
	take := func(l *askList) (asked []string) {
		for info, ok := l.next(); ok; info, ok = l.next() {
			asked = append(asked, string(info.ID))
		}
		return asked
	}
	l := newAskList("me")
	add(l, 100, "/ip4/8.8.8.8/tcp/1")
	add(l, 1, "/ip4/9.9.9.9/tcp/1")
	l.add(peer.AddrInfo{ID: "me", Addrs: []ma.Multiaddr{ma.StringCast("/ip4/9.9.9.9/tcp/1")}})
	if got := take(l); len(got) != maxAskedNear+1 || got[maxAskedNear] != "/ip4/9.9.9.9/tcp/10" {
		t.Errorf("%q", got)
	}

	l = newAskList("me")
	add(l, maxAsked+1, "/ip4/192.168.1.1/tcp/1") // the cells of a machine in this LAN, which gives nothing
	add(l, 2, "/ip4/192.168.1.2/tcp/1")
	if got := take(l); len(got) != maxAsked {
		t.Errorf("%d are asked at once", len(got))
	}
	for range 3 {
		l.heard(false)
	}
	if got := take(l); len(got) != 3 || got[2] != "/ip4/192.168.1.2/tcp/11" {
		t.Errorf("then %q", got)
	}
	for range maxAsked {
		l.heard(true)
	}
	add(l, 1, "/ip4/192.168.1.3/tcp/1")
	if got := take(l); len(got) != 0 || l.open != 0 {
		t.Errorf("%q are asked, though all places have answered; %d are open", got, l.open)
	}
}

// A copy that follows an older one is not tried at every race where it cannot run.
func TestFollowerThatCannotRun(t *testing.T) {
	t.Setenv(sandbox.EnvLauncher, "/nowhere")
	p := &placer{n: &nucleus{log: zap.NewNop()}}
	c := &placement{situation: mirror.Situation{Follows: true}}
	err := (&pursuit{p: p, c: c, log: zap.NewNop()}).run(context.Background())
	if cellproto.KindOf(err) != cellproto.Unavailable || errors.Is(err, errNotNeeded) {
		t.Errorf("it ends with %v, and is tried again at once", err)
	}
}
