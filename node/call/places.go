package call

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Places is where the peers that are called were connected to directly last. Its methods may be used concurrently.
type Places struct {
	mu sync.Mutex
	at map[peer.ID]multiaddr.Multiaddr // of at most maxPlaces
}

const maxPlaces = 1024

// NewPlaces makes one without any.
func NewPlaces() *Places { return &Places{at: map[peer.ID]multiaddr.Multiaddr{}} }

// At gives where a peer was reached last; nil: that is not known.
func (p *Places) At(id peer.ID) multiaddr.Multiaddr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at[id]
}

// Reached notes where a peer was reached.
func (p *Places) Reached(id peer.ID, at multiaddr.Multiaddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.at[id]; !ok && len(p.at) >= maxPlaces {
		for other := range p.at { // any: it is only dialed a little less well
			delete(p.at, other)
			break
		}
	}
	p.at[id] = at
}
