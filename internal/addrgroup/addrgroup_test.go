package addrgroup

import (
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

func TestGroups(t *testing.T) {
	const relay = "/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC/p2p-circuit"
	for addr, want := range map[string][3]string{
		"/ip4/192.0.2.7/tcp/1":                  {"192.0.2.7", "192.0.2.0/24", "192.0.0.0/16"},
		"/ip4/192.0.3.200/udp/1/quic-v1":        {"192.0.3.200", "192.0.3.0/24", "192.0.0.0/16"},
		"/ip4/198.51.100.1/tcp/1" + relay:       {"198.51.100.1", Relayed, Relayed},
		"/ip4/203.0.113.1/tcp/1" + relay:        {"203.0.113.1", Relayed, Relayed},
		"/ip4/10.1.2.3/tcp/1" + relay:           {"10.1.2.3", Relayed, Relayed},
		"/ip6/2001:db8:1:2::1/tcp/1":            {"2001:db8:1:2::1", "2001:db8:1::/48", "2001:db8::/32"},
		"/ip6/2001:db8:1:ffff::1/udp/1/quic-v1": {"2001:db8:1:ffff::1", "2001:db8:1::/48", "2001:db8::/32"},
		"/ip6/::ffff:192.0.2.7/tcp/1":           {"192.0.2.7", "192.0.2.0/24", "192.0.0.0/16"},
		"/ip4/127.0.0.1/tcp/1":                  {"127.0.0.1", "127.0.0.0/24", "127.0.0.0/16"},
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":       {"fe80::1", "fe80::/48", "fe80::/32"},
		"/dns4/example.org/tcp/1":               {"invalid IP", "", ""},
		"/unix/run/x":                           {"invalid IP", "", ""},
		"":                                      {"invalid IP", "", ""},
	} {
		var a ma.Multiaddr
		if addr != "" {
			a = ma.StringCast(addr)
		}
		ip, ok := IP(a)
		if got := [3]string{ip.String(), Of(a), Wide(a)}; got != want || ok != (want[1] != "") {
			t.Errorf("%q: %q, %v, want %q", addr, got, ok, want)
		}
	}
}
