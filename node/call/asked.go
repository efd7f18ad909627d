package call

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// What was asked of whom, by function, so that prices can be compared; and who is left for others: too dear, or suspected to lie.

// Asked is what this host has asked of one function of a published cell at one provider, in all.
type Asked struct {
	Cell, Func string
	Calls      uint64
	Wall       uint64 // ns for which they were on their way
}

// maxAsked bounds what is counted apart; past it counting begins anew, and totals with it.
const maxAsked = 4096

// askedKey names what is counted.
type askedKey struct {
	peer cellproto.PeerID
	cell string
	fn   string
}

// asked counts calls.
type asked struct {
	mu sync.Mutex
	m  map[askedKey]*[2]uint64 // calls, ns

	shuns    atomic.Int32 // how many are in those below, read without the lock
	shunned  map[cellproto.PeerID]time.Time
	suspects map[cellproto.PeerID]int // by how many polls; see poll.suspect
}

func (a *asked) add(k askedKey, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.m[k]
	if n == nil {
		if a.m == nil || len(a.m) >= maxAsked {
			a.m = map[askedKey]*[2]uint64{}
		}
		n = &[2]uint64{}
		a.m[k] = n
	}
	n[0]++
	n[1] += uint64(max(took, 0))
}

// Asked gives what was asked of a peer, by function.
func (c *Caller) Asked(p peer.ID) (all []Asked) {
	who := cellproto.PeerID(p.String())
	c.asked.mu.Lock()
	defer c.asked.mu.Unlock()
	for k, n := range c.asked.m {
		if k.peer == who {
			all = append(all, Asked{k.cell, k.fn, n[0], n[1]})
		}
	}
	return all
}

// Shun has calls go to other providers for a while, as long as there are any: this one is too dear.
func (c *Caller) Shun(p peer.ID, until time.Time) {
	a := &c.asked
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shunned == nil || len(a.shunned) >= maxAsked {
		a.shunned = map[cellproto.PeerID]time.Time{}
	}
	a.shunned[cellproto.PeerID(p.String())] = until
	a.count()
}

// count sets shuns. a.mu is held.
func (a *asked) count() { a.shuns.Store(int32(len(a.shunned) + len(a.suspects))) }

// suspect has calls go to other providers, as long as there are any, until trust is called.
func (c *Caller) suspect(p cellproto.PeerID) (trust func()) {
	c.asked.doubt(p, 1)
	return func() { c.asked.doubt(p, -1) }
}

// doubt counts who suspects a peer.
func (a *asked) doubt(p cellproto.PeerID, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.suspects == nil {
		a.suspects = map[cellproto.PeerID]int{}
	}
	if a.suspects[p] += n; a.suspects[p] == 0 {
		delete(a.suspects, p)
	}
	a.count()
}

// shuns says whether a peer is left for others.
func (c *Caller) shuns(p cellproto.PeerID) bool {
	if c.asked.shuns.Load() == 0 {
		return false
	}
	c.asked.mu.Lock()
	defer c.asked.mu.Unlock()
	until, ok := c.asked.shunned[p]
	return c.asked.suspects[p] > 0 || ok && time.Now().Before(until)
}

// next gives the best candidate of a race that is not to be skipped; one that is shunned only if there is no
// other.
func (c *Caller) next(d *race.Decision, skip func(cellproto.PeerID) bool) (race.Ranked, bool) {
	if c.asked.shuns.Load() > 0 {
		if k, ok := d.Next(func(p cellproto.PeerID) bool { return skip(p) || c.shuns(p) }); ok {
			return k, true
		}
	}
	return d.Next(skip)
}
