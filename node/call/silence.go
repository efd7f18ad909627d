package call

import (
	"context"
	"sync"
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
	pongLeast = 40 * time.Millisecond // that its answer may take, whatever is known
	pongMost  = 150 * time.Millisecond
	pongDelay = 25 * time.Millisecond // as QUIC gives acknowledgements for what is not the network's (max_ack_delay, RFC 9000, 18.2)
	pongAgain = 20 * time.Millisecond // besides two round trips, in which what was lost is sent again
	// ownDelay is by how much this machine itself may be late with the clock: past it, it is too busy to
	// blame others, and pings once more. It looks at the clock so often, or ownLooks times where its patience is long.
	ownDelay = 10 * time.Millisecond
	ownLooks = 4
)

// rtts is what is known of the round trips of one link: smoothed, and by how much they differ from that. Zero: nothing.
type rtts struct{ smoothed, varied time.Duration }

// with takes one more round trip in, as TCP does (RFC 6298, 2).
func (r rtts) with(rtt time.Duration) rtts {
	if r == (rtts{}) {
		return rtts{rtt, rtt / 2}
	}
	off := max(rtt-r.smoothed, r.smoothed-rtt)
	return rtts{r.smoothed + (rtt-r.smoothed)/8, r.varied + (off-r.varied)/4}
}

// called takes in that a call was answered after so long: a pong would have taken no longer. Races are held, and pings sent,
// where something was slow: without this they would speak of bad moments only.
func (r rtts) called(took time.Duration) rtts {
	if took < r.smoothed {
		return r.with(took)
	}
	return r
}

// look is how long a call is silent before somebody looks after it: longer than 99 of 100 are.
func (p *policy) look(ctx context.Context, who race.Ranked, body bool) time.Duration {
	wait := max(who.CallP99.Duration(), lookLeast)
	return min(wait, max(2*who.Median.Duration(), lookMost), p.stages(ctx, who, body)[0].after)
}

// pong is how long the answer to a ping may take: as long as TCP or QUIC wait for an acknowledgement (RFC 9002, 6.2.1), two
// round trips and a bit, so that one lost packet can be sent again, or as long as its calls, whichever is the longest. Who is
// slow with pongs, but not in races, is given no more for it than for slow calls.
func pong(r rtts, who race.Ranked) time.Duration {
	median := who.Median.Duration()
	if r == (rtts{}) {
		r = r.with(median)
	}
	usual := max(r.smoothed+4*r.varied+pongDelay, 2*r.smoothed+pongAgain)
	return min(max(usual, who.CallP99.Duration(), pongLeast), 2*median+pongMost)
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
	if lk == nil || !c.findsMute(ctx, lk, pong(lk.pings(), who)) {
		return false
	}
	c.deps.Log.Debug("a provider is silent", zap.String("peer", string(who.Peer)))
	lk.doubt()
	c.failed(time.Now(), r, who.Peer)
	return true
}

// silentAgain is for how long it is remembered that a peer was silent while another one has answered.
const silentAgain = time.Minute

// dodged notes that a peer was silent on a call, and on pings meanwhile, and that another one has answered. A machine that was
// busy for a moment looks the same, and one that is gone takes part in no race. But who is silent again within a minute, though
// it has answered the pings of a race since, has failed: else who is silent whenever it is called would win each race.
func (c *Caller) dodged(r *remote, p cellproto.PeerID) {
	now := time.Now()
	r.mu.Lock()
	before, known := r.silent[p]
	if r.silent == nil || !known && len(r.silent) >= maxInfos {
		r.silent = map[cellproto.PeerID]time.Time{}
	}
	r.silent[p] = now
	again := known && now.Sub(before) < silentAgain && r.decision != nil && r.decision.At.After(before) && r.decision.Ranks(p)
	r.mu.Unlock()
	if again {
		c.mu.Lock()
		c.reputation.Failed(now, p)
		c.mu.Unlock()
	}
}

// looking is that a peer is pinged, for all calls that wait for it.
type looking struct {
	over chan struct{}
	mute bool // set when over is closed
}

// findsMute says that the other end of a link does not answer pings. Whoever looks while somebody else does waits for what
// comes of that; false once ctx has ended.
func (c *Caller) findsMute(ctx context.Context, lk *link, patience time.Duration) bool {
	lk.timing.Lock()
	l := lk.looking
	if l == nil {
		l = &looking{over: make(chan struct{})}
		begun := c.work.Go(func() {
			l.mute = mute(c.ctx, lk, patience)
			lk.timing.Lock()
			lk.looking = nil
			lk.timing.Unlock()
			close(l.over)
		})
		if !begun {
			lk.timing.Unlock()
			return false
		}
		lk.looking = l
	}
	lk.timing.Unlock()
	select {
	case <-l.over:
		return l.mute && ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// mute says that the other end of a link does not answer pings.
func mute(ctx context.Context, lk *link, patience time.Duration) bool {
	for range 3 {
		late, err := lk.pingTwice(ctx, patience)
		if kind := cellproto.KindOf(err); err == nil || kind != cellproto.Timeout && kind != cellproto.Canceled {
			return err != nil // the connection is lost
		}
		if ctx.Err() != nil {
			return false
		}
		if !late {
			return true
		}
	}
	return false
}

// pingTwice pings once, and once more if that is not answered while there is time for two round trips: a packet that arrives has
// one be sent again that was lost before it. One answer is enough. late is that this machine was at the end.
func (lk *link) pingTwice(ctx context.Context, patience time.Duration) (late bool, err error) {
	var pings sync.WaitGroup
	defer pings.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, 2)
	soon := max(patience-2*lk.pings().smoothed, pongAgain) / 2
	look := max(patience/ownLooks, ownDelay)
	for _, wait := range []time.Duration{soon, patience - soon} {
		pings.Go(func() { _, err := lk.ping(ctx); answers <- err })
		answered := false
		if answered, late, err = awaitPong(answers, wait, look); answered {
			return late, err
		}
	}
	return late, context.DeadlineExceeded
}

// awaitPong waits for the answer to a ping for so long as this machine has lived it: what a timer is late by does not count, for
// whoever is on a machine that stands still cannot answer. It looks at the clock so often; late is that the last look was late by
// ownDelay or more.
func awaitPong(answers <-chan error, patience, look time.Duration) (answered, late bool, err error) {
	timer := time.NewTimer(look)
	defer timer.Stop()
	for ; patience > 0; patience -= look {
		begin, step := time.Now(), min(patience, look)
		timer.Reset(step)
		select {
		case err := <-answers:
			return true, late, err
		case <-timer.C:
		}
		late = time.Since(begin) >= step+ownDelay
	}
	return false, late, nil
}
