package node

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/ledger"
)

// hostAt makes a host that speaks the ledger's protocol, at an address.
func hostAt(t *testing.T, ip string) host.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/"+ip+"/tcp/0"), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport))
	if err != nil {
		t.Skipf("no host at %s: %v", ip, err) // not every system has all of 127/8
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) { s.Reset() })
	return h
}

// A host that is connected to many peers of one network looks for others until it hears eight networks.
func TestNeighboursOfDiverseNetworks(t *testing.T) {
	h := hostAt(t, "127.0.0.1")
	files, err := ledger.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	led, _, err := ledger.Open(ledger.Config{Net: ledger.NetOf("test"), Self: ledger.Key{1}}, files, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	a := &accounts{n: &nucleus{host: h, cfg: &celltoml.Config{}}, led: led, self: ledger.Key{1}}
	a.n.cfg.Network.Name = "test"
	for range 5 { // an attacker with many hosts at one place
		other := hostAt(t, "127.0.0.1")
		if err := h.Connect(t.Context(), peer.AddrInfo{ID: other.ID(), Addrs: other.Addrs()}); err != nil {
			t.Fatal(err)
		}
	}
	if peers, groups := a.groups(); peers != 5 || groups != 1 {
		t.Fatalf("%d neighbours in %d networks", peers, groups)
	}
	for i := 1; i <= 10; i++ {
		other := hostAt(t, fmt.Sprintf("127.%d.0.1", i))
		h.Peerstore().AddAddrs(other.ID(), other.Addrs(), peerstore.PermanentAddrTTL)
	}
	met := map[peer.ID]time.Time{}
	for range 3 {
		a.seek(t.Context(), met, time.Now())
	}
	if peers, groups := a.groups(); groups < minNeighbours || peers < minNeighbours || len(met) > 3*meetAtOnce {
		t.Errorf("%d neighbours in %d networks after %d were dialed", peers, groups, len(met))
	}
	if kept := a.keepNeighbours(nil); len(kept) < minNeighbours {
		t.Errorf("%d connections are kept", len(kept))
	}
}
