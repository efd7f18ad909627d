package call

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A provider that is killed says nothing where QUIC is spoken: there is no connection that the system would
// end. Calls of pure and idempotent functions that are answered late have it pinged. One that answers is only
// slow, and is given its time; of one that does not, the next provider is asked, under the same key.

const (
	lookLeast = 20 * time.Millisecond // of silence before it is pinged
	lookMost  = 30 * time.Millisecond // or two round trips: a ping costs little
	pongLeast = 40 * time.Millisecond // that its answer may take, besides two round trips
	pongMost  = 150 * time.Millisecond
	// ownDelay is by how much this machine itself may be late with the clock: past it, it is too busy to
	// blame others, and pings once more.
	ownDelay = 10 * time.Millisecond
)

// look is how long a call is silent before somebody looks after it.
func (p *policy) look(ctx context.Context, who race.Ranked, body bool) time.Duration {
	wait := max(who.CallP99.Duration()*3/2, lookLeast)
	return min(wait, max(2*who.Median.Duration(), lookMost), p.stages(ctx, who, body)[0].after)
}

// pong is how long the answer to a ping may take: the more, the more its calls differ.
func pong(who race.Ranked) time.Duration {
	return 2*who.Median.Duration() + min(max(who.CallP99.Duration(), pongLeast), pongMost)
}

// awaitSilence returns true once the provider that a call waits for has been found silent, and false once
// patience is over though it is not, calls that may go elsewhere do, or ctx has ended.
func (h *hedge) awaitSilence(ctx context.Context, patience time.Duration) bool {
	if patience <= 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := max(h.who.CallP99.Duration(), lookLeast)
	again := time.NewTimer(pause)
	defer again.Stop()
	for !h.left() {
		if h.c.isMute(ctx, h.r, h.who) {
			return true
		}
		again.Reset(pause)
		select {
		case <-again.C:
			pause *= 2
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// isMute says that a provider does not answer a ping. New calls go elsewhere then.
func (c *Caller) isMute(ctx context.Context, r *remote, who race.Ranked) bool {
	lk := c.links.live(who.Peer, string(r.name), r.madeFor(ctx))
	if lk == nil || !mute(ctx, lk, pong(who)) || ctx.Err() != nil {
		return false
	}
	c.deps.Log.Debug("a provider is silent", zap.String("peer", string(who.Peer)))
	lk.doubt()
	c.failed(time.Now(), r, who.Peer)
	return true
}

// mute says that the other end of a link does not answer a ping.
func mute(ctx context.Context, lk *link, patience time.Duration) bool {
	for range 3 {
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, patience)
		_, err := lk.conn.Ping(limited)
		cancel()
		if kind := cellproto.KindOf(err); err == nil || kind != cellproto.Timeout && kind != cellproto.Canceled {
			return err != nil // the connection is lost
		}
		if ctx.Err() != nil {
			return false
		}
		if time.Since(begin) < patience+ownDelay {
			return true
		}
	}
	return false
}
