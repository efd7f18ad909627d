package call

import (
	"context"
	"errors"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// An error that blames the call costs a provider nothing to make. That its arguments are bad is believed if they are not
// what the schema wants, or if a second provider says so; that a pure function fails with them, if a second one that is
// asked says so too. Where several are asked anyway, since one is silent, the others are waited for.

// blamed is what providers have said of the arguments of a call.
type blamed struct {
	err error              // what the first one said; nil: nobody did
	by  []cellproto.PeerID // who did
}

// blames notes that a provider says that the arguments are bad, and reports whether another one is asked.
func (c *Caller) blames(r *remote, out *outgoing, a *attempt) bool {
	b := &out.blamed
	if b.err == nil {
		b.err = a.err
	}
	b.by = append(b.by, a.from.Peer)
	return len(b.by) == 1 && c.anyLeft(r, &out.tried)
}

// anyLeft says that there is a provider that was not tried, or that a race may find one.
func (c *Caller) anyLeft(r *remote, tried *peerSet) bool {
	if _, ok := c.nextBest(r, tried); ok {
		return true
	}
	return r.hurried()
}

// hurried says that the last race has not waited for everyone.
func (r *remote) hurried() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.decision != nil && r.decision.Hurried
}

// pickFor is pick for a call, which a provider may have blamed already.
func (c *Caller) pickFor(ctx context.Context, r *remote, out *outgoing, now time.Time) (race.Ranked, error) {
	if out.blamed.err != nil {
		return c.pickSoon(ctx, r, &out.tried, &out.res, now)
	}
	return c.pick(ctx, r, &out.tried, &out.res, now)
}

// pickSoon is pick once there is an error to be told. A race that may find others is waited for no longer than for half of the
// time that is left: what was said has to be heard within all of it.
func (c *Caller) pickSoon(ctx context.Context, r *remote, tried *peerSet, res *Result, now time.Time) (race.Ranked, error) {
	ctx, cancel := context.WithTimeout(ctx, untilHalf(ctx))
	defer cancel()
	return c.pick(ctx, r, tried, res, now)
}

// misfits says that the arguments of a call are not what the schema wants. What is not known to be wrong fits.
func (r *remote) misfits(ctx context.Context, req *cellproto.Request) bool {
	_, schema := r.description()
	if schema = r.as(ctx, schema); schema == nil {
		return false
	}
	fn, known := schema.Functions[req.Header.Func]
	return known && fn.ArgumentsFit().Check(req.Header.Codec, req.Payload) != nil
}

// confirmed gives the outcome of a call, that of other providers if one says that a pure function has failed and they say
// otherwise. To ask them takes a token, as a hedge does that could wait, but for who was contradicted before.
func (c *Caller) confirmed(ctx context.Context, r *remote, out *outgoing, req *cellproto.Request, a attempt) attempt {
	if !out.p.doubts(&a) || a.agreed || req.Body != nil {
		return a
	}
	if !c.anyLeft(r, &out.tried) || !r.paysDoubt(a.from.Peer) {
		return a
	}
	second := c.opinion(ctx, r, out, req)
	if second.err != nil {
		return a
	}
	if _, ok := c.nextBest(r, &out.tried); ok { // two of three
		third := c.opinion(ctx, r, out, req)
		third.discard()
		if cellproto.KindOf(third.err) == cellproto.FuncError {
			c.checkBeside(r, req, &second, false)
			second.discard()
			return a
		}
	}
	c.contradicted(r, req, &a)
	return second
}

// doubts says that a provider claims that a pure function fails, which others may contradict.
func (p *policy) doubts(a *attempt) bool {
	return p.pure && a.sent && cellproto.KindOf(a.err) == cellproto.FuncError
}

// contradicted notes who has said that a pure function fails, while others say otherwise.
func (c *Caller) contradicted(r *remote, req *cellproto.Request, a *attempt) {
	if req.Body == nil {
		c.checkBeside(r, req, a, false)
	}
	c.failed(time.Now(), r, a.from.Peer)
	c.hold(r, []cellproto.PeerID{a.from.Peer})
}

// paysDoubt takes a token for doubting a provider, which one that was contradicted does not need.
func (r *remote) paysDoubt(p cellproto.PeerID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, before := r.refused[p]; before {
		return true
	}
	return r.hedges.Take(true)
}

// opinionLeast is how long a second opinion may take, if the call has twice that: it is asked for rarely, and whoever is busy for a
// moment leaves the word to one that may lie.
const opinionLeast = 250 * time.Millisecond

// opinionP99 is the p99 by which a provider's opinion is waited for. One that is only claimed counts up to opinionLeast: else whoever
// claims much, and is silent, delays an error by half of the time that is left.
func opinionP99(who race.Ranked) time.Duration {
	p99 := who.CallP99.Duration()
	if !who.Own {
		p99 = min(p99, opinionLeast)
	}
	return p99
}

// opinionTime is how long another opinion is waited for, of providers with that opinionP99: as long as is not late, or opinionLeast.
func opinionTime(ctx context.Context, p99 time.Duration) time.Duration {
	return min(max(3*p99, opinionLeast), untilHalf(ctx))
}

// opinion asks one more provider.
func (c *Caller) opinion(ctx context.Context, r *remote, out *outgoing, req *cellproto.Request) attempt {
	who, err := c.pickSoon(ctx, r, &out.tried, &Result{}, time.Now())
	if err != nil {
		return attempt{err: err}
	}
	out.tried.add(who.Peer)
	limited, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(opinionTime(ctx, opinionP99(who)), cancel)
	a := c.callPeer(limited, r, who, req, time.Now())
	if !timer.Stop() {
		a.discard()
		return attempt{from: who, err: limited.Err()}
	}
	return a.until(cancel)
}

// errHurried is that a provider had less time to be connected to than it is given, for its caller's sake.
var errHurried = errors.New("the call has little time")

// cutShort says that an attempt has ended because its caller's time was over, or will be soon.
func (a *attempt) cutShort(ctx context.Context) bool {
	if !a.sent {
		return errors.Is(a.err, errHurried) || a.err != nil && ctx.Err() != nil
	}
	return ctx.Err() != nil && cellproto.KindOf(a.err) == cellproto.Timeout
}

// cutShort notes that a provider had no more time. How much that is says its caller, so that to have been silent until
// then is no failure: as long as the other calls take it is nothing at all, and past that the time of a call, if it
// answers a ping. One that could not be connected to is for the next race to judge.
func (c *Caller) cutShort(r *remote, a *attempt) {
	who, silent := a.from, a.took
	if !a.sent {
		c.failed(time.Now(), r, who.Peer)
		return
	}
	if who.Own && silent < who.CallP99.Duration() {
		return
	}
	lk := a.link
	c.work.Go(func() {
		if !c.isMute(c.ctx, r, who) {
			c.unanswered(r, who, silent)
			return
		}
		select {
		case <-lk.conn.Done(): // it was lost meanwhile, as by a restart
		default:
			c.observe(time.Now(), who.Peer, context.DeadlineExceeded, silent)
		}
	})
}

// unanswered notes that a provider that answers pings was silent until its caller's time was over. Where that was long,
// the next calls go elsewhere until a race has compared it by that.
func (c *Caller) unanswered(r *remote, who race.Ranked, silent time.Duration) {
	if silent >= max(3*who.CallP99.Duration(), mirrorPatience) {
		r.mu.Lock()
		if r.winner.Peer == who.Peer {
			r.winner.Outrun()
		}
		if r.decision != nil {
			r.decision = r.decision.Demoted(who.Peer)
		}
		r.mu.Unlock()
	}
	c.outlasted(r, who.Peer, silent)
}
