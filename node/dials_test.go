package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/node/call"
)

// swallower takes connections on this machine and says nothing.
func swallower(t *testing.T) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
}

// dialer is a nucleus's host, and where it has reached peers.
func dialer(t *testing.T) (host.Host, *call.Places) {
	t.Helper()
	d := newDials(newGater(true, nil))
	cfg := &celltoml.Config{}
	cfg.Network.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHost(cfg, Ordinary, key, d, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, d.places
}

// A peer that was reached once is reached again at once, though it is said to be at many places that swallow what is sent,
// whoever has said so, and whoever dials. So is one of whom an address is named at which somebody else was reached.
func TestReachedBeforeOthers(t *testing.T) {
	good, liar := plainHost(t), plainHost(t)
	h, places := dialer(t)
	for _, p := range []host.Host{good, liar} {
		info := peer.AddrInfo{ID: p.ID(), Addrs: p.Addrs()}
		if err := h.Connect(t.Context(), info); err != nil {
			t.Fatal(err)
		}
		places.Reached(p.ID(), h.Network().ConnsToPeer(p.ID())[0].RemoteMultiaddr())
		if err := h.Network().ClosePeer(p.ID()); err != nil {
			t.Fatal(err)
		}
	}
	h.Peerstore().AddAddrs(good.ID(), liar.Addrs(), peerstore.PermanentAddrTTL)
	for range 8 * cellproto.MaxAdvertAddrs {
		h.Peerstore().AddAddr(good.ID(), swallower(t), peerstore.PermanentAddrTTL)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := h.Network().DialPeer(ctx, good.ID()); err != nil {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}
