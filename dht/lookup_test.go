package dht

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func TestGroupOf(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"/ip4/8.8.8.8/tcp/1":                        "8.8.8.0/24",
		"/ip4/8.8.8.200/udp/1/quic-v1":              "8.8.8.0/24",
		"/ip4/8.8.9.8/tcp/1":                        "8.8.9.0/24",
		"/ip6/2a00:1450:4001:81b::200e/tcp/1":       "2a00:1450:4001::/48",
		"/ip6/2a00:1450:4001:ffff::1/udp/1/quic-v1": "2a00:1450:4001::/48",
		"/ip6/2a00:1450:4002::1/tcp/1":              "2a00:1450:4002::/48",
		"/dns4/a.example.org/tcp/1":                 dnsGroup,
		"/dnsaddr/b.example.org":                    dnsGroup,
		"/ip4/127.0.0.1/tcp/1":                      "",
		"/ip4/10.1.2.3/tcp/1":                       "",
		"/ip4/192.168.1.1/tcp/1":                    "",
		"/ip4/100.64.0.1/tcp/1":                     "",
		"/ip4/169.254.0.1/tcp/1":                    "",
		"/ip6/::1/tcp/1":                            "",
		"/ip6/fd00::1/tcp/1":                        "",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":           "",
		"/dns4/printer.local/tcp/1":                 "",
		"/ip4/8.8.8.8/tcp/1/p2p/12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA/p2p-circuit": "8.8.8.0/24",
	} {
		if got := groupOf(ma.StringCast(addr)); got != want {
			t.Errorf("groupOf(%s) = %q, want %q", addr, got, want)
		}
	}
	if groupOf(nil) != "" {
		t.Error("no address has a group")
	}
}

func TestLookupLimits(t *testing.T) {
	t.Parallel()
	id := func(n byte) peer.ID { return peer.ID([]byte{0, 1, n}) }
	at := func(s string) []ma.Multiaddr { return []ma.Multiaddr{ma.StringCast("/ip4/" + s + "/tcp/1")} }
	from := func(s string) ma.Multiaddr { return at(s)[0] }

	t.Run("three of a group from three sides", func(t *testing.T) {
		l := newLookup(groupOf, nil, 1)
		for i, responder := range []string{"1.1.1.1", "2.2.2.2", "3.3.3.3"} {
			if !l.hear(id(byte(i)), at("9.9.9."+string(rune('1'+i))), id(100), from(responder)) {
				t.Errorf("peer %d was refused", i)
			}
		}
		if l.hear(id(50), at("9.9.9.9"), id(103), from("4.4.4.4")) {
			t.Error("a fourth was let in")
		}
		if !l.hear(id(1), at("9.9.9.2"), id(104), from("5.5.5.5")) {
			t.Error("one that is in was refused")
		}
		if !l.hear(id(51), at("9.9.8.9"), id(103), from("4.4.4.4")) {
			t.Error("one of another group was refused")
		}
	})
	t.Run("one side cannot fill another's group", func(t *testing.T) {
		l := newLookup(groupOf, nil, 1)
		in := 0
		for n := range byte(20) {
			// 20 responders of one /24 invent peers where the honest one is.
			if l.hear(id(n), at("9.9.9.9"), id(100+n), from("6.6.6.6")) {
				in++
			}
		}
		if in != 1 {
			t.Errorf("%d invented peers were let in, want 1", in)
		}
		if !l.hear(id(200), at("9.9.9.10"), id(201), from("7.7.7.7")) {
			t.Error("the honest peer was crowded out")
		}
	})
	t.Run("any of its groups counts", func(t *testing.T) {
		l := newLookup(groupOf, nil, maxPerGroup)
		for n := range byte(3) {
			l.seed(id(n), at("9.9.9.9"))
		}
		both := append(at("8.8.8.8"), at("9.9.9.1")...)
		if l.hear(id(9), both, id(100), from("1.1.1.1")) {
			t.Error("an invented address got a peer of a full group in")
		}
	})
	t.Run("asked by the address of the connection", func(t *testing.T) {
		l := newLookup(groupOf, nil, 1)
		for n := range byte(5) {
			if got := l.ask(id(n), from("9.9.9.9")); got != (n < 3) {
				t.Errorf("asking peer %d: %v", n, got)
			}
		}
		if !l.ask(id(0), from("9.9.9.9")) {
			t.Error("a peer that was asked is not asked again")
		}
		if !l.ask(id(9), from("127.0.0.1")) {
			t.Error("loopback is limited")
		}
	})
	t.Run("private addresses and the own group are not limited", func(t *testing.T) {
		l := newLookup(groupOf, map[string]bool{"9.9.9.0/24": true}, 1)
		for n := range byte(20) {
			if !l.hear(id(n), at("10.0.0.1"), id(100), from("1.1.1.1")) || !l.hear(id(50+n), at("9.9.9.9"), id(100), from("1.1.1.1")) {
				t.Fatalf("peer %d was refused", n)
			}
			if !l.ask(id(n), from("10.0.0.1")) || !l.ask(id(50+n), from("9.9.9.9")) {
				t.Fatalf("peer %d is not asked", n)
			}
		}
	})
}

// Ten servers of one data centre are a network too: they are in each other's group.
func TestOwnGroupIsNotLimited(t *testing.T) {
	t.Parallel()
	group := func(d *DHT) { d.group = asPublic }
	var all []*DHT
	var bootstrap []string
	for i := range 6 {
		h := newHost(t, nil, "/ip4/127.77.7."+string(rune('1'+i))+"/tcp/0")
		all = append(all, start(t, h, Config{Network: "rack", Bootstrap: bootstrap}, group))
		if i == 0 {
			bootstrap = addrs(t, h)
		}
	}
	eventually(t, "whole data centre in the first one's table", func() bool { return all[0].Status().WANPeers == 5 })
	c := cidOf(t, "in the rack")
	announced(t, all[1], c)
	if found := peersOf(all[5].Find(within(t), c)); len(found) != 1 {
		t.Errorf("found %d", len(found))
	}
}
