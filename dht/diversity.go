package dht

import (
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// unlimited is the address that stands for all those that are not limited, and unlimitedKey the
// group that kad-dht makes of it. No peer can be connected at it.
var (
	unlimited    = ma.StringCast("/ip4/0.0.0.0")
	unlimitedKey = keyOf(unlimited)
)

// diversity is kad-dht's filter of the routing table (at most 3 peers of a /16 or an AS, at most 2
// of them in one bucket) for a private network, where it must let in peers on a LAN or on loopback,
// and those next to this peer: ten servers of one data centre are a network too.
type diversity struct {
	peerdiversity.PeerIPGroupFilter
	host  host.Host
	group grouper
}

func newDiversity(h host.Host, group grouper) *diversity {
	return &diversity{
		PeerIPGroupFilter: kad.NewRTPeerDiversityFilter(h, amino.DefaultMaxPeersPerIPGroupPerCpl, amino.DefaultMaxPeersPerIPGroup),
		host:              h,
		group:             group,
	}
}

// Allow is called for each group of a peer that asks for a place in the table.
func (d *diversity) Allow(g peerdiversity.PeerGroupInfo) bool {
	if g.IPGroupKey == unlimitedKey {
		return true
	}
	for _, a := range d.host.Addrs() {
		if d.group(a) != "" && keyOf(a) == g.IPGroupKey {
			return true
		}
	}
	return d.PeerIPGroupFilter.Allow(g)
}

// PeerAddresses gives the addresses at which p is connected, all that are not limited as one.
func (d *diversity) PeerAddresses(p peer.ID) []ma.Multiaddr {
	addrs := remoteAddrs(d.host, p)
	for i, a := range addrs {
		if g := d.group(a); g == "" || g == dnsGroup {
			addrs[i] = unlimited
		}
	}
	return addrs
}

// keyOf gives kad-dht's group of an address, "" if it has no IP.
func keyOf(a ma.Multiaddr) peerdiversity.PeerIPGroupKey {
	ip, err := manet.ToIP(a)
	if err != nil {
		return ""
	}
	return peerdiversity.IPGroupKey(ip)
}
