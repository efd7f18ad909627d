package call

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// hedged calls who. When a pure function stays silent for a few times its usual time, an idempotent one for
// half of the time that is left, or either until its provider does not answer a ping, further candidates are
// asked too, one after the other, and the first answer counts.
func (c *Caller) hedged(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, p *policy, tried *peerSet, now time.Time) attempt {
	if p.idempotent && req.Body == nil {
		if _, ok := c.nextBest(r, tried); ok {
			return c.callHedged(ctx, r, who, req, p, tried)
		}
	}
	return c.callPeer(ctx, r, who, req, now)
}

// callHedged is hedged for a call that may be made elsewhere too. What its hedge shares with it is allocated here.
func (c *Caller) callHedged(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, p *policy, tried *peerSet) attempt {
	first, cancelFirst := context.WithCancel(ctx)
	rest, cancelRest := context.WithCancel(ctx)
	h := &hedge{c: c, r: r, req: *req, p: p, tried: tried}
	over := make(chan attempt, 1)
	look, patience := p.look(ctx, who), p.patience(ctx, who)
	timer := time.AfterFunc(look, func() {
		if !c.work.begin() {
			over <- attempt{err: errStopping("call " + req.Header.Func)}
			return
		}
		defer c.work.end()
		mute := c.awaitSilence(rest, r, who, patience-look)
		if rest.Err() != nil { // the first has answered meanwhile
			over <- attempt{err: cellproto.Errorf("call "+req.Header.Func, cellproto.KindOf(rest.Err()), "%w", rest.Err())}
			return
		}
		b := h.run(rest)
		b.mute = mute
		if b.counts {
			cancelFirst()
		}
		over <- b
	})
	a := c.callPeer(first, r, who, req, time.Now())
	if timer.Stop() || p.final(&a) && h.settled.CompareAndSwap(false, true) {
		cancelRest() // the hedge, if it runs, ends and drops what it has
		return a.until(cancelFirst)
	}
	a.discard()
	cancelFirst()
	b := <-over
	if !b.counts {
		cancelRest()
		return a
	}
	if !b.mute { // else the race that follows finds out whether it is gone, or was busy for a moment
		c.outrun(r, who.Peer, req.Header.Func)
	}
	return b.until(cancelRest)
}

// hedge asks further candidates for one call. Whoever asked for the hedge leaves req and tried alone
// until run has returned.
type hedge struct {
	c       *Caller
	r       *remote
	req     cellproto.Request
	p       *policy
	tried   *peerSet
	settled atomic.Bool // there is an answer that counts, here or from the one who was asked first
}

// run asks one candidate after the other until one has given the answer that counts, all have failed,
// or ctx has ended. It returns that answer, or the last failure.
func (h *hedge) run(ctx context.Context) attempt {
	last := attempt{err: cellproto.Errorf("call "+h.req.Header.Func, cellproto.Unavailable, "there is no further provider")}
	answers := make(chan attempt, attempts)
	cancels := make(map[cellproto.PeerID]context.CancelFunc)
	defer func() {
		for _, cancel := range cancels {
			cancel()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	for open := 0; ; {
		select {
		case <-timer.C:
			next, ok := h.c.nextBest(h.r, h.tried)
			if ok = ok && done != nil && len(h.tried.peers) < attempts; !ok && open == 0 {
				return last
			}
			if ok {
				h.tried.add(next.Peer)
				open++
				cancels[next.Peer] = h.ask(ctx, next, answers)
				timer.Reset(h.p.patience(ctx, next))
			}
		case a := <-answers:
			open--
			if a.counts {
				cancel := cancels[a.from.Peer]
				delete(cancels, a.from.Peer)
				return a.until(cancel)
			}
			last = a
			timer.Reset(0)
		case <-done:
			done = nil // those who were asked end now
			timer.Reset(0)
		}
	}
}

// ask calls one candidate. answers gets the outcome.
func (h *hedge) ask(ctx context.Context, who race.Ranked, answers chan<- attempt) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	req := h.req
	call := func() {
		a := h.c.callPeer(ctx, h.r, who, &req, time.Now())
		if h.p.final(&a) && cellproto.KindOf(a.err) != cellproto.Canceled {
			if a.counts = h.settled.CompareAndSwap(false, true); !a.counts {
				a.discard()
			}
		}
		answers <- a
	}
	if !h.c.work.Go(call) {
		answers <- attempt{from: who, err: errStopping("call " + h.req.Header.Func)}
	}
	return cancel
}

// outrun notes that a provider was silent for so long that another one has answered meanwhile. Now and then
// that happens to anybody, and one success makes up for most of it; who does so all the time is banned,
// however well it answers pings.
func (c *Caller) outrun(r *remote, p cellproto.PeerID, fn string) {
	now := time.Now()
	c.observe(now, p, cellproto.Errorf("call "+fn, cellproto.Timeout, "another provider was quicker by far"), 0)
	r.mu.Lock()
	if r.winner.Peer == p {
		r.winner.Outrun()
	}
	if r.decision != nil {
		r.decision = r.decision.Demoted(p) // the next call goes elsewhere, without a race
	}
	r.mu.Unlock()
	c.raceAgain(now, r)
}

// nextBest is the best candidate that was not tried.
func (c *Caller) nextBest(r *remote, tried *peerSet) (race.Ranked, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.decision == nil {
		return race.Ranked{}, false
	}
	return r.decision.Next(func(p cellproto.PeerID) bool { return tried.has(p) || c.lied(p) })
}

// patience is how long a call may stay silent before somebody else is asked too. What is idempotent is not
// pure: to have it run twice may cost more than time, and is the last resort.
func (p *policy) patience(ctx context.Context, who race.Ranked) time.Duration {
	if p.pure {
		return hedgeAfter(ctx, who)
	}
	deadline, ok := ctx.Deadline()
	if !ok { // every call has one
		return cellproto.DefaultTimeout
	}
	return time.Until(deadline) / 2
}

// hedgeAfter is how long a pure call may stay silent: three times what 99 of 100 calls need, at
// least 50 ms, and never so long that the next one has less than half of the time left.
func hedgeAfter(ctx context.Context, who race.Ranked) time.Duration {
	wait := max(3*who.CallP99.Duration(), 50*time.Millisecond)
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	return wait
}
