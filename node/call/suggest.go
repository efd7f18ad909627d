package call

import (
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/node/race"
)

// maxSuggested bounds the providers of one cell that were suggested.
const maxSuggested = 4

// Suggest names a provider of a cell that the network perhaps does not know yet: a copy that was just
// made. It takes part in every race from now on, and one is held at once, while calls go on. What it says
// of itself is checked as of any other.
func (c *Caller) Suggest(cell cid.Cid, info peer.AddrInfo, source string) {
	r := c.remote(cell)
	r.mu.Lock()
	r.suggested = slices.DeleteFunc(r.suggested, func(f Found) bool { return f.Info.ID == info.ID })
	r.suggested = append(r.suggested, Found{Info: info, Source: source})
	r.suggested = r.suggested[max(len(r.suggested)-maxSuggested, 0):]
	run := r.racing
	if run == nil {
		c.beginRace(r, race.Missed, true)
	}
	r.mu.Unlock()
	if run == nil {
		return
	}
	c.work.Go(func() { // the race that goes on may not ask for it any more
		select {
		case <-run.done:
		case <-c.ctx.Done():
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.racing == nil {
			c.beginRace(r, race.Missed, true)
		}
	})
}

// remembered gives the providers that are to be asked before the network has answered: those suggested, and
// those of earlier races.
func (c *Caller) remembered(r *remote) []Found {
	r.mu.Lock()
	out := slices.Clone(r.suggested)
	r.mu.Unlock()
	return append(out, c.cache.candidates(r)...)
}
