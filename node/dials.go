package node

import (
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/node/call"
)

// dials is in which order the addresses of a peer are dialed: where it was reached last comes first. Records of the DHT name
// addresses of anybody, eight are dialed at one time, and one that takes a connection and says nothing keeps its place for
// seconds.
//
// libp2p does not tell whoever ranks addresses whose they are. It asks the gater about each of them just before, though, and
// names the peer; they are told apart by their memory, so that an address that somebody else was reached at is another one.
type dials struct {
	*gater
	places *call.Places

	mu    sync.Mutex
	first map[*ma.Component]struct{} // of addresses at which their peers were reached, and that are not ranked yet
}

const (
	// alone is how long the address at which a peer was reached is dialed before all others are too.
	alone = 300 * time.Millisecond
	// maxFirst bounds those that were asked about for another reason than to be ranked.
	maxFirst = 256
)

func newDials(g *gater) *dials {
	return &dials{gater: g, places: call.NewPlaces(), first: map[*ma.Component]struct{}{}}
}

// InterceptAddrDial is the gater's.
func (d *dials) InterceptAddrDial(p peer.ID, a ma.Multiaddr) bool {
	if !d.gater.InterceptAddrDial(p, a) {
		return false
	}
	if at := d.places.At(p); at != nil && len(a) > 0 && at.Equal(a) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.first) >= maxFirst {
			clear(d.first)
		}
		d.first[&a[0]] = struct{}{}
	}
	return true
}

// rank is a network.DialRanker.
func (d *dials) rank(addrs []ma.Multiaddr) []network.AddrDelay {
	ranked := rankDials(addrs)
	first := d.known(addrs)
	if first == nil || len(ranked) == 1 {
		return ranked
	}
	for i := range ranked {
		if ranked[i].Addr.Equal(first) {
			ranked[i].Delay = 0
		} else {
			ranked[i].Delay += alone
		}
	}
	slices.SortStableFunc(ranked, func(a, b network.AddrDelay) int { return int(a.Delay - b.Delay) })
	return ranked
}

// known gives which of a peer's addresses it was reached at; nil: that is not known.
func (d *dials) known(addrs []ma.Multiaddr) (first ma.Multiaddr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range addrs {
		if len(a) == 0 {
			continue
		}
		if _, ok := d.first[&a[0]]; ok {
			delete(d.first, &a[0])
			first = a
		}
	}
	return first
}
