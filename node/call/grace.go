package call

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/celldnet/celld/cellproto"
)

// A cell that has just answered and whose providers are all gone is perhaps being restarted: its celld is
// replaced, or its machine reboots. And one whose providers all have no place has one again soon. A call that
// may be made again waits for that a little. So it does, for less, where nobody has answered lately: a provider may be
// there and not be usable for a moment, as when both sides connect to each other at once.

const (
	// graceSince is how long ago somebody must have answered, at most.
	graceSince = time.Minute
	// graceTime is how long one call waits in all, and half of its time at most.
	graceTime = 3 * time.Second
	// graceNew is how long after it was begun a call to a cell that nobody has answered for lately is tried anew.
	graceNew = time.Second
	// gracePause is the first wait, doubling up to graceMost.
	gracePause = 20 * time.Millisecond
	graceMost  = 250 * time.Millisecond
)

// grace is what one call has waited.
type grace struct {
	begun time.Time // the call was
	until time.Time // zero: it has not waited yet
	pause time.Duration
}

// again waits before the providers of r are asked once more, none of whom was there, and reports that
// they are to be. err is what the last one that was tried has failed with, or why none was.
func (g *grace) again(ctx context.Context, c *Caller, r *remote, tried *peerSet, err error) bool {
	kind, after := cellproto.KindOf(err), cellproto.RetryAfterOf(err)
	full := kind == cellproto.Overloaded
	if !full && (kind != cellproto.Unavailable && kind != cellproto.MayHaveRun || after > 0) {
		return false
	}
	now := time.Now()
	r.mu.Lock()
	answered := r.answered
	r.mu.Unlock()
	if g.until.IsZero() {
		wait := graceTime
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, deadline.Sub(now)/2)
		}
		g.until, g.pause = now.Add(wait), gracePause
	}
	until := g.until
	if late := g.begun.Add(graceNew); !full && now.Sub(answered) > graceSince && late.Before(until) {
		until = late
	}
	if now.Add(after).After(until) {
		return false
	}
	// Those who were told the same do not all come back at the same moment.
	timer := time.NewTimer(max(after, g.pause) + rand.N(g.pause))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	g.pause = min(2*g.pause, graceMost)
	r.mu.Lock()
	for p := range r.infos {
		c.links.forgive(p)
	}
	r.mu.Unlock()
	tried.peers = tried.peers[:0]
	return true
}

// forgive has a peer dialed at once that could not be reached a moment ago.
func (l *links) forgive(p cellproto.PeerID) {
	if l.host == nil {
		return
	}
	id, err := peer.Decode(string(p))
	if s, ok := l.host.Network().(interface{ Backoff() *swarm.DialBackoff }); ok && err == nil {
		s.Backoff().Clear(id)
	}
}
