package dht

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	corenet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/protobuf/encoding/protodelim"
)

const (
	honestPeers = 12
	sybilPeers  = 25
	// closeBits is how many leading bits the attackers' identities share with the key, more than
	// those of any honest peer: 256 tries each.
	closeBits = 8
)

// ground are the numbers of the first identities with closeBits bits of the test's CID. Grinding
// them took 7,379 tries, a third of a second; they are kept here because it is 6 s under the race
// detector.
var ground = [sybilPeers]int{
	65, 191, 1038, 1257, 1723, 1781, 2140, 2159, 2344, 2900, 3400, 3518, 4685,
	4757, 5125, 5126, 5201, 5407, 6224, 6450, 6465, 6854, 6909, 7304, 7378,
}

// asPublic gives all of 127.0.0.0/8 but 127.0.0.0/24 the part of public addresses.
func asPublic(a ma.Multiaddr) string {
	ip, err := manet.ToIP(a)
	if err != nil || ip.To4() == nil || ip.Mask(net.CIDRMask(24, 32)).Equal(net.IPv4(127, 0, 0, 0)) {
		return ""
	}
	return ip.Mask(net.CIDRMask(24, 32)).String()
}

// identity gives a key that is the same in each run.
func identity(t testing.TB, label string, n int) (crypto.PrivKey, peer.ID) {
	t.Helper()
	seed := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(label), uint32(n)))
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

// cpl gives how many leading bits a peer shares with a CID in the key space.
func cpl(p peer.ID, c cid.Cid) int {
	return kb.CommonPrefixLen(kb.ConvertPeerID(p), kb.ConvertKey(string(c.Hash())))
}

// sybils starts peers that are the closest ones to c, all in one /24, and all under one hat: they
// take records and keep them, know no provider, and name only each other.
func sybils(t *testing.T, name string, c cid.Cid) []host.Host {
	t.Helper()
	var hosts []host.Host
	var all []*pb.Message_Peer
	for _, n := range ground {
		key, id := identity(t, "sybil", n)
		if got := cpl(id, c); got < closeBits {
			t.Fatalf("attacker %d shares %d bits with the key, not %d", n, got, closeBits)
		}
		h := newHost(t, key, fmt.Sprintf("/ip4/127.200.0.%d/tcp/0", len(hosts)+1))
		hosts = append(hosts, h)
		all = append(all, pb.RawPeerInfosToPBPeers([]peer.AddrInfo{{ID: id, Addrs: h.Addrs()}})...)
	}
	for _, h := range hosts {
		h.SetStreamHandler(privatePrefix+protocol.ID(name)+"/kad/1.0.0", func(s corenet.Stream) {
			defer s.Close() //nolint:errcheck // a peer that does not care
			var m pb.Message
			if protodelim.UnmarshalFrom(bufio.NewReader(s), &m) != nil || m.GetType() == pb.Message_ADD_PROVIDER {
				return
			}
			answer := pb.NewMessage(m.GetType(), m.GetKey(), 0)
			answer.CloserPeers = all
			_, _ = protodelim.MarshalTo(s, answer)
		})
	}
	return hosts
}

func TestSybilsDoNotCensor(t *testing.T) {
	t.Parallel()
	const name = "censored"
	c := cidOf(t, "a cell that somebody wants gone")
	began := time.Now()
	sameDay := func(d *DHT) {
		d.now = func() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC).Add(time.Since(began)) }
	}
	limited := func(d *DHT) { d.group = asPublic }
	open := func(d *DHT) { d.group = func(ma.Multiaddr) string { return "" } }

	var honest []*DHT
	var bootstrap []string
	peerAt := func(i int, mode string, tweak func(*DHT)) *DHT {
		key, id := identity(t, "honest", i)
		if cpl(id, c) >= closeBits {
			t.Fatalf("honest peer %d is as close as an attacker", i)
		}
		h := newHost(t, key, fmt.Sprintf("/ip4/127.%d.0.1/tcp/0", 10+i))
		return start(t, h, Config{Network: name, Bootstrap: bootstrap, ServerMode: mode}, sameDay, tweak)
	}
	for i := range honestPeers {
		honest = append(honest, peerAt(i, ModeServer, limited))
		if i == 0 {
			bootstrap = addrs(t, honest[0].host)
		}
	}
	// Two peers without any filter show what the attack does.
	// Providers are clients, so that nobody asks them themselves: what counts is who has the record.
	nakedProvider := peerAt(honestPeers, ModeClient, open)
	nakedFinder := peerAt(honestPeers+1, ModeServer, open)
	provider := peerAt(honestPeers+2, ModeClient, limited)
	finder := honest[9]

	bad := sybils(t, name, c)
	isBad := make(map[peer.ID]bool)
	for i, h := range bad {
		isBad[h.ID()] = true
		victims := []*DHT{honest[0], provider, finder, nakedProvider, nakedFinder}
		switch {
		case i > amino.DefaultConcurrency+2:
			victims = nil // the others bring these into play
		case i > maxPerGroup:
			victims = victims[3:]
		}
		for _, d := range victims {
			if err := h.Connect(t.Context(), peer.AddrInfo{ID: d.host.ID(), Addrs: d.host.Addrs()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	inTable := func(d *DHT) (good, evil int) {
		for _, p := range d.tables.Load().wan.RoutingTable().ListPeers() {
			if isBad[p] {
				evil++
			} else {
				good++
			}
		}
		return good, evil
	}
	// As many as a lookup asks at once: from their answers it learns of all.
	for _, d := range []*DHT{nakedProvider, nakedFinder} {
		eventually(t, "attackers in an unprotected table", func() bool { _, evil := inTable(d); return evil >= amino.DefaultConcurrency })
	}
	for _, d := range []*DHT{provider, finder} {
		eventually(t, "honest peers in a protected table", func() bool { good, _ := inTable(d); return good >= honestPeers/2 })
	}

	sybilLookups := honestPeers // of each kind
	if os.Getenv("CELL_LONG") != "" {
		sybilLookups = 60 // as in the measurements; a minute under the race detector
	}
	// success counts in how many lookups, made in turn by these peers, a provider was found.
	success := func(want peer.ID, by []*DHT, lookup func(*DHT) []peer.ID) (n int) {
		for i := range sybilLookups {
			if slices.Contains(lookup(by[i%len(by)]), want) {
				n++
			}
		}
		return n
	}
	plain := func(d *DHT) (found []peer.ID) {
		for info := range d.Routing().FindProvidersAsync(within(t), c, 0) {
			found = append(found, info.ID)
		}
		return found
	}
	salted := func(d *DHT) (found []peer.ID) {
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		for p := range d.Find(ctx, c) {
			found = append(found, p.Info.ID)
			cancel() // the first will do
		}
		return found
	}
	naked := []*DHT{nakedFinder}

	// Without filters the plain key is gone: the measurements had 1 of 60.
	if err := nakedProvider.Routing().Provide(within(t), c, true); err != nil {
		t.Fatal(err)
	}
	if n := success(nakedProvider.host.ID(), naked, plain); n > 1 {
		t.Fatalf("the attack does not work, so that this test shows nothing: found in %d of %d lookups", n, sybilLookups)
	}
	// Without filters, but with the salted keys, the provider is found.
	announced(t, nakedProvider, c)
	if n := success(nakedProvider.host.ID(), naked, salted); n != sybilLookups {
		t.Errorf("under the salted keys found in %d of %d lookups", n, sybilLookups)
	}
	// With filters it is found under the plain key too, whoever asks.
	if err := provider.Routing().Provide(within(t), c, true); err != nil {
		t.Fatal(err)
	}
	if n := success(provider.host.ID(), honest, plain); n != sybilLookups {
		t.Errorf("with the filters found in %d of %d lookups", n, sybilLookups)
	}
	for _, d := range honest {
		if _, evil := inTable(d); evil > maxPerGroup {
			t.Errorf("%d attackers of one /24 are in a protected table", evil)
		}
	}
}
