package call

import (
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto/signed"
)

// maxClocks bounds the peers whose clocks are remembered.
const maxClocks = 64

// clocks remembers by how much the clocks of peers are ahead of this machine's, as their adverts show
// it: an advert is made when it is asked for, or a few seconds before.
type clocks struct {
	mu    sync.Mutex
	ahead map[peer.ID]time.Duration
}

// note takes what came of asking a peer for its advert.
func (c *clocks) note(from peer.ID, ad *signed.Advert, err error, now time.Time) {
	var off *signed.ClockError
	var ahead time.Duration
	switch {
	case ad != nil && err == nil:
		ahead = ad.Issued.Sub(now)
	case errors.As(err, &off):
		ahead = off.Ahead
	default:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead == nil {
		c.ahead = make(map[peer.ID]time.Duration)
	}
	if _, known := c.ahead[from]; !known && len(c.ahead) >= maxClocks {
		for p := range c.ahead { // any of them
			delete(c.ahead, p)
			break
		}
	}
	c.ahead[from] = ahead
}

// Clocks gives by how much the clocks of the peers whose adverts were read are ahead of this machine's.
func (c *Caller) Clocks() []time.Duration {
	c.clocks.mu.Lock()
	defer c.clocks.mu.Unlock()
	out := make([]time.Duration, 0, len(c.clocks.ahead))
	for _, d := range c.clocks.ahead {
		out = append(out, d)
	}
	return out
}
