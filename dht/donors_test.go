package dht

import (
	"context"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func TestDonorPrefixes(t *testing.T) {
	for _, c := range []struct {
		network string
		addrs   []string
		want    [][]string
	}{
		{Public, []string{"/ip4/8.8.4.4/tcp/1", "/ip4/8.8.8.8/udp/1/quic-v1", "/ip4/10.1.2.3/tcp/1", "/ip4/127.0.0.1/tcp/1"},
			[][]string{{"8.8.0.0/16"}, {"8.0.0.0/8"}}},
		{Public, []string{"/ip4/192.168.1.2/tcp/1"}, nil},
		{Public, []string{"/ip6/2607:f8b0:4005::1/tcp/1"}, [][]string{{"2607:f8b0::/32"}, {"2607::/16"}}},
		{Public, []string{"/ip4/8.8.8.8/tcp/1/p2p/QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC/p2p-circuit"}, nil}, // the relay's
		{"lab", []string{"/ip4/127.0.0.1/tcp/1"}, [][]string{{"127.0.0.0/16"}, {"127.0.0.0/8"}, {everywhere}}},
		{"lab", []string{"/ip4/10.1.0.1/tcp/1", "/ip4/10.2.0.1/tcp/1"}, [][]string{{"10.1.0.0/16", "10.2.0.0/16"}, {"10.0.0.0/8"}, {everywhere}}},
		{"lab", []string{"/dns4/example.org/tcp/1"}, [][]string{{everywhere}}},
		{"lab", []string{"/ip4/10.1.0.1/tcp/1", "/ip4/11.1.0.1/tcp/1", "/ip4/12.1.0.1/tcp/1", "/ip4/13.1.0.1/tcp/1", "/ip4/14.1.0.1/tcp/1"},
			[][]string{{"10.1.0.0/16", "11.1.0.0/16", "12.1.0.0/16", "13.1.0.0/16"}, {"10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8", "13.0.0.0/8"}, {everywhere}}},
	} {
		var addrs []ma.Multiaddr
		for _, text := range c.addrs {
			addrs = append(addrs, ma.StringCast(text))
		}
		got := donorPrefixes(c.network, addrs)
		if !slices.EqualFunc(got, c.want, slices.Equal[[]string]) {
			t.Errorf("%s %v: %v, want %v", c.network, c.addrs, got, c.want)
		}
	}
}

// The key is part of the protocol.
func TestDonorKey(t *testing.T) {
	const want = "bafkreicci4aoa6v47ijjawdny2mk2vw2drhvhlmbomznt6grduxeiranw4"
	if got := DonorKey(Public, "8.8.0.0/16").String(); got != want {
		t.Errorf("%s", got)
	}
	if DonorKey("a", "b/16") == DonorKey("ab", "/16") {
		t.Error("a network and a prefix run together")
	}
}

// A LAN full of cells, or of one that pretends to be, leaves room for those that announce themselves.
func TestCrowdOfTheLAN(t *testing.T) {
	f := &donorSearch{d: join(t, "crowd", 1)[0], out: make(chan Provider, maxDonors), given: map[peer.ID]bool{}}
	give := func(n int, source string) {
		for range n {
			id, _ := peer.IDFromPrivateKey(newKey(t))
			f.give(Provider{Info: peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/tcp/1")}}, Source: source})
		}
	}
	give(2*maxDonors, SourceMDNS)
	give(3, SourceDHT)
	if f.found() != 3 || len(f.out) != maxUnannounced+3 {
		t.Errorf("%d of 3 that are announced are given, %d in all", f.found(), len(f.out))
	}
	give(2*maxDonors, SourceDHT)
	if len(f.out) != maxDonors {
		t.Errorf("%d are given", len(f.out))
	}
}

// Who takes cells up is found by its neighbours for as long as it does.
func TestFindDonors(t *testing.T) {
	all := join(t, "donors", 4)
	donor, caller := all[1], all[3]
	find := func() (n int) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for p := range caller.FindDonors(ctx) {
			if p.Source == SourceDHT && p.Info.ID == donor.host.ID() {
				n++
			}
		}
		return n
	}
	if find() != 0 {
		t.Fatal("a donor was found before there was one")
	}
	donor.AnnounceDonor(true)
	eventually(t, "the donor is found, once", func() bool { return find() == 1 })
	if got := donor.announcer.len(); got != 3 {
		t.Errorf("%d keys are announced, want those of 127.0.0.0/16, 127.0.0.0/8 and all", got)
	}
	donor.AnnounceDonor(false)
	if got := donor.announcer.len(); got != 0 {
		t.Errorf("%d keys are still announced", got)
	}
}

// Somebody whom the owner has listed is to be asked, whatever the network knows.
func TestStaticDonor(t *testing.T) {
	other := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	d := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "donors", Static: addrs(t, other)})
	p, ok := <-d.FindDonors(t.Context())
	if !ok || p.Info.ID != other.ID() || p.Source != SourceStatic {
		t.Errorf("%+v", p)
	}
}
