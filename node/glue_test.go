package node

import (
	"testing"

	"github.com/celldnet/celld/dht"
)

func TestHowFar(t *testing.T) {
	for _, c := range []struct {
		st                       dht.Status
		answers, keys, providers int
		want                     string
	}{
		{dht.Status{Network: "lab"}, 0, 4, 0, "no peer of the network lab can be reached (it has no bootstrap peer)"},
		{dht.Status{Network: "lab", Bootstrapped: 1, BootstrapTotal: 3, MDNSPeers: 2}, 0, 4, 0,
			"no peer of the network lab can be reached (1 of 3 bootstrap peers connected); mDNS shows 2 peers on this LAN"},
		{dht.Status{Network: "lab", WANPeers: 1}, 4, 4, 0,
			"the DHT of the network lab, of which 1 peer is known, gave 4 answers under 4 keys and named 0 providers"},
		{dht.Status{Network: "lab", WANPeers: 7, LANPeers: 2, MDNSPeers: 1}, 1, 4, 1,
			"the DHT of the network lab, of which 9 peers are known, gave 1 answer under 4 keys and named 1 provider; mDNS shows 1 peer on this LAN"},
		{dht.Status{Network: "lab"}, 3, 4, 2, "the DHT of the network lab, of which 0 peers are known, gave 3 answers under 4 keys and named 2 providers"},
	} {
		if got := howFar(c.st, c.answers, c.keys, c.providers); got != c.want {
			t.Errorf("%+v:\n%s, want\n%s", c.st, got, c.want)
		}
	}
}
