package call

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// How long a pure call is silent before another provider is asked too. What is not worth the wait of three times
// the p99 is asked at the p99, as far as the budget goes: see race.Budget.
const (
	hedgeLeast = 10 * time.Millisecond // so short a silence is the scheduler's
	lateLeast  = 50 * time.Millisecond
)

// hedged calls who. When a pure function stays silent for longer than 99 of 100 calls are, an idempotent one for
// half of the time that is left, or either until its provider does not answer a ping, further candidates are
// asked too, one after the other, and the first answer counts.
func (c *Caller) hedged(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, p *policy, tried *peerSet, now time.Time) attempt {
	if p.idempotent && (req.Body == nil || sharedBody(req) != nil) {
		if _, ok := c.nextBest(r, tried); ok {
			return c.callHedged(ctx, r, who, req, p, tried)
		}
	}
	return c.callPeer(ctx, r, who, req, now)
}

// callHedged is hedged for a call that may be made elsewhere too. What its hedge shares with it is allocated here; what
// only the hedge needs, once somebody looks after the call.
func (c *Caller) callHedged(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, p *policy, tried *peerSet) attempt {
	first, cancelFirst := context.WithCancel(ctx)
	h := &hedge{c: c, r: r, req: *req, p: p, who: who, asked: time.Now(), cancelFirst: cancelFirst}
	h.tried.addAll(tried)
	if h.sent, _ = req.Body.(*attemptBody); h.sent != nil {
		h.body = h.sent.r
		h.sent.whenLost(cancelFirst)
	}
	timer := time.AfterFunc(p.look(ctx, who, h.body != nil), func() { h.lookAfter(ctx) })
	a := c.callPeer(first, r, who, req, time.Now())
	h.wasGone(ctx, &a)
	if timer.Stop() {
		return a.until(cancelFirst)
	}
	doubtful := p.doubts(&a)
	if h.ended(p.final(&a) && !doubtful) {
		h.tell(tried)
		h.contradicted(&a)
		return a.until(cancelFirst)
	}
	a.discard()
	cancelFirst()
	end(req) // what it would have read is for the others
	h.answers <- a
	b := <-h.outcome
	h.tell(tried)
	h.contradicted(&b)
	if !b.counts {
		h.cancel()
		a.agreed = b.agreed
		if errors.Is(a.err, errBodyLost) { // to the other one, which says more
			a.err = b.err
		}
		return a
	}
	switch {
	case doubtful: // so that it was not silent
		if b.err == nil {
			c.contradicted(r, &h.req, &a)
		}
	case b.mute: // the race that follows finds out whether it is gone
		c.dodged(r, who.Peer)
	case p.doubts(&b): // the others were waited for since
		c.outlasted(r, who.Peer, time.Since(h.asked))
	default:
		h.outrun(ctx, &b)
	}
	return b.until(h.cancel)
}

// hedge asks further candidates for one call. Whoever asked for the hedge goes on when its own attempt has been answered, though
// run may not have returned: so what both change each has for itself.
type hedge struct {
	c           *Caller
	r           *remote
	req         cellproto.Request
	body        *replay      // of req; nil: it has none
	sent        *attemptBody // of it, to who; nil: likewise
	gone        atomic.Bool  // who answers nothing any more, and nobody else can be asked
	p           *policy
	tried       peerSet     // what run adds it adds with mu held
	who         race.Ranked // who was asked first,
	asked       time.Time   // and when
	cancelFirst context.CancelFunc
	answers     chan attempt // of all, also of who if that is not final; made before others are asked
	blamers     []attempt    // who has said that a pure function fails, but for who; guarded by mu
	beside[attempt]
}

// lookAfter waits until others may be asked, and asks them. ctx is that of the call.
func (h *hedge) lookAfter(ctx context.Context) {
	if !h.c.work.begin() {
		return
	}
	defer h.c.work.end()
	ctx, ok := h.beside.begin(ctx)
	if !ok {
		return
	}
	mute := h.bide(ctx)
	for !mute && h.sends(ctx) && ctx.Err() == nil && !h.left() { // it is not silent: it takes what it is sent
		mute = h.awaitSilence(ctx, max(untilHalf(ctx), stuckTime))
	}
	if !h.canAsk() {
		if mute {
			h.giveUp(ctx)
		}
		return
	}
	h.answers = make(chan attempt, attempts)
	if !h.asks() {
		return
	}
	if mute && h.sent != nil {
		h.sent.yield()
	}
	b := h.run(ctx, mute)
	b.mute = mute
	if b.counts {
		h.cancelFirst()
	}
	h.outcome <- b
}

// tell adds who was tried.
func (h *hedge) tell(tried *peerSet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tried.addAll(&h.tried)
}

// bide waits until others may be asked, and says whether who was asked first was found to be silent.
func (h *hedge) bide(ctx context.Context) (mute bool) {
	for _, s := range h.p.stages(ctx, h.who, h.body != nil) {
		if h.awaitSilence(ctx, s.after-time.Since(h.asked)) {
			return true
		}
		if ctx.Err() != nil || s.free || h.left() || h.pays(s.early) {
			break
		}
	}
	if ctx.Err() == nil { // who does not answer a ping now is not worth the wait of the next call
		h.c.work.Go(func() { h.c.isMute(h.c.ctx, h.r, h.who) })
	}
	return false
}

// sends says that a file is on its way, and will be there in time.
func (h *hedge) sends(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && h.body != nil && h.body.busy(deadline)
}

// giveUp ends a call whose provider answers no pings, and whose body nobody else can be sent. That is only sure after a
// while; but so soon that half of the call's time is left to whoever can send the body again.
func (h *hedge) giveUp(ctx context.Context) {
	lk := h.c.links.live(h.who.Peer, string(h.r.name), h.r.madeFor(ctx))
	if lk != nil && mute(ctx, lk, min(watchPatience, untilHalf(ctx))) && ctx.Err() == nil {
		h.gone.Store(true)
		h.cancelFirst()
	}
}

// wasGone gives a call that giveUp has ended its error. ctx is that of the call.
func (h *hedge) wasGone(ctx context.Context, a *attempt) {
	if h.gone.Load() && cellproto.KindOf(a.err) == cellproto.Canceled && ctx.Err() == nil {
		a.err = cellproto.Errorf("call "+h.req.Header.Func, cellproto.MayHaveRun, "%s answers nothing any more, pings neither", h.who.Peer)
	}
}

// canAsk says whether another provider could have all of the request.
func (h *hedge) canAsk() bool {
	return h.body == nil || h.body.canShare()
}

// pays takes a token for asking one more provider.
func (h *hedge) pays(early bool) bool {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	return h.r.hedges.Take(early)
}

// left says that pure calls do not go any more to the winner that this one waits for.
func (h *hedge) left() bool {
	if !h.p.pure || !h.who.Winner {
		return false
	}
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	return h.r.winner.Peer != h.who.Peer || !h.r.winner.Serves(time.Now(), h.c.cfg.Policy)
}

// run asks one candidate after the other until one has given the answer that counts, all have failed, or ctx has ended. It
// returns that answer, or the last failure. That a pure function fails counts once a second provider says so, or nobody who was asked
// has said otherwise in time. mute: who was asked first is not waited for.
func (h *hedge) run(ctx context.Context, mute bool) attempt {
	s := hedging{free: true, waits: map[cellproto.PeerID]time.Duration{}, cancels: map[cellproto.PeerID]context.CancelFunc{}}
	s.last = attempt{err: cellproto.Errorf("call "+h.req.Header.Func, cellproto.Unavailable, "there is no further provider")}
	if !mute {
		s.waits[h.who.Peer] = opinionP99(h.who)
	}
	defer func() {
		for _, cancel := range s.cancels {
			cancel()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	for {
		select {
		case <-timer.C:
			if s.doubted > 0 { // long enough ago
				return h.settle(&s)
			}
			wait, ok := h.further(ctx, &s, done == nil)
			if ok {
				timer.Reset(wait)
			} else if !s.asks(h.who.Peer) {
				return s.last
			}
		case a := <-h.answers:
			delete(s.waits, a.from.Peer)
			switch {
			case a.counts:
				return s.answered(a)
			case h.p.doubts(&a):
				h.doubted(&s, a)
				timer.Reset(opinionTime(ctx, s.late()))
			case s.doubted == 0 && a.from.Peer != h.who.Peer:
				s.last, s.free = a, true
				timer.Reset(0)
			}
			if s.doubted > 1 || s.doubted > 0 && (done == nil || len(s.waits) == 0) {
				return h.settle(&s)
			}
		case <-done:
			if s.doubted > 0 {
				return h.settle(&s)
			}
			done, s.free = nil, true // those who were asked end now
			timer.Reset(0)
		}
	}
}

// hedging is how far run has got.
type hedging struct {
	waits   map[cellproto.PeerID]time.Duration // opinionP99 of those who were asked, also first, and are waited for
	free    bool                               // the next one takes no token
	doubted int                                // how many have said that a pure function fails
	last    attempt                            // the last failure; the last that is doubted, if one is
	cancels map[cellproto.PeerID]context.CancelFunc
}

// asks says whether somebody is waited for besides who was asked first.
func (s *hedging) asks(first cellproto.PeerID) bool {
	_, waits := s.waits[first]
	return len(s.waits) > 1 || len(s.waits) == 1 && !waits
}

// answered gives the answer that counts. Its call ends with its body.
func (s *hedging) answered(a attempt) attempt {
	cancel := s.cancels[a.from.Peer]
	delete(s.cancels, a.from.Peer)
	return a.until(cancel)
}

// late is the longest p99 of those who are waited for.
func (s *hedging) late() (p99 time.Duration) {
	for _, d := range s.waits {
		p99 = max(p99, d)
	}
	return p99
}

// further asks one more candidate, if it may now, and gives when to look again. over: nobody is to be asked any more.
func (h *hedge) further(ctx context.Context, s *hedging, over bool) (wait time.Duration, ok bool) {
	if !over && h.sends(ctx) {
		return stuckTime, true
	}
	if !s.free && !h.pays(false) {
		s.free = true
		return untilHalf(ctx), true
	}
	next, ok := h.c.nextBest(h.r, &h.tried)
	if !ok || over || len(h.tried.peers) >= attempts {
		return 0, false
	}
	h.mu.Lock()
	h.tried.add(next.Peer)
	h.mu.Unlock()
	s.waits[next.Peer] = opinionP99(next)
	s.cancels[next.Peer] = h.ask(ctx, next)
	s.free = !h.p.pure || h.body != nil
	return h.p.patience(ctx, next, h.body != nil), true
}

// doubted notes that somebody says that a pure function fails.
func (h *hedge) doubted(s *hedging, a attempt) {
	s.last = a
	s.doubted++
	if a.from.Peer == h.who.Peer {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blamers = append(h.blamers, a)
}

// settle gives the answer where that is an error that was doubted, unless somebody has given another one just now. If who was
// asked first says so, that is for its call to tell.
func (h *hedge) settle(s *hedging) attempt {
	a := s.last
	a.agreed = s.doubted > 1
	if h.settled.CompareAndSwap(false, true) {
		a.counts = a.from.Peer != h.who.Peer
		return a
	}
	h.mu.Lock()
	byFirst := h.over
	h.mu.Unlock()
	if byFirst {
		return a // which nobody waits for
	}
	for !a.counts { // it is in h.answers, or will be at once: see ask
		a = <-h.answers
	}
	return s.answered(a)
}

// contradicted notes which of the others have said that a pure function fails, if it does not.
func (h *hedge) contradicted(by *attempt) {
	if by.err != nil {
		return
	}
	h.mu.Lock()
	blamers := h.blamers
	h.mu.Unlock()
	for i := range blamers {
		h.c.contradicted(h.r, &h.req, &blamers[i])
	}
}

// ask calls one candidate. h.answers gets the outcome.
func (h *hedge) ask(ctx context.Context, who race.Ranked) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	req := h.req
	call := func() {
		if h.body != nil {
			body := h.body.beside(cancel)
			if body == nil {
				h.answers <- attempt{from: who, err: errBodyLost}
				return
			}
			req.Body = body
		}
		a := h.c.callPeer(ctx, h.r, who, &req, time.Now())
		if h.p.final(&a) && !h.p.doubts(&a) && cellproto.KindOf(a.err) != cellproto.Canceled {
			if a.counts = h.settled.CompareAndSwap(false, true); !a.counts {
				a.discard()
			}
		}
		if !a.counts {
			end(&req)
		}
		h.answers <- a
	}
	if !h.c.work.Go(call) {
		h.answers <- attempt{from: who, err: errStopping("call " + h.req.Header.Func)}
	}
	return cancel
}

// outrun notes that another provider has answered while who was asked first was silent. That happens to anybody
// for a call in a hundred. But who is behind by far, so that it would be even if the other one had been asked late,
// has failed: one success makes up for most of it, and who does so all the time is banned, however well it
// answers pings.
func (h *hedge) outrun(ctx context.Context, b *attempt) {
	silent := time.Since(h.asked)
	if h.who.Trial || h.p.pure && silent < lateAfter(ctx, h.who)+b.took {
		h.c.outlasted(h.r, h.who.Peer, silent)
		return
	}
	h.c.outrun(h.r, h.who.Peer, h.req.Header.Func)
}

// outlasted notes that a provider has not answered for so long, when it was not waited for any more.
func (c *Caller) outlasted(r *remote, p cellproto.PeerID, silent time.Duration) {
	now := time.Now()
	c.mu.Lock()
	c.reputation.Outlasted(now, p, silent)
	c.mu.Unlock()
	r.mu.Lock()
	if r.winner.Peer == p {
		r.winner.Late(silent)
	}
	r.mu.Unlock()
	c.raceAgain(now, r)
}

// outrun notes that a provider was silent for far too long.
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
	return c.next(r.decision, func(p cellproto.PeerID) bool { return tried.has(p) || c.lied(p) })
}

// stage is when others may be asked while a provider is silent.
type stage struct {
	after time.Duration // it was asked
	free  bool          // it takes no token
	early bool          // it could wait for the next one
}

// stages gives them, one after the other, some of them twice. What is idempotent is not pure: to have it run twice may cost more
// than time, and is the last resort. So is to send a body twice; and who is sent one is silent until it has it.
func (p *policy) stages(ctx context.Context, who race.Ranked, body bool) [3]stage {
	last := stage{after: untilHalf(ctx), free: true}
	if !p.pure || body {
		return [3]stage{last, last, last}
	}
	late := stage{after: lateAfter(ctx, who)}
	if !who.Own && !who.Trial { // only what the provider claims is known
		return [3]stage{late, late, last}
	}
	early := stage{after: min(max(who.CallP99.Duration(), hedgeLeast), late.after), early: true, free: who.Trial}
	return [3]stage{early, late, last}
}

// patience is how long the first of the stages lasts for one more provider, who may be asked late.
func (p *policy) patience(ctx context.Context, who race.Ranked, body bool) time.Duration {
	if p.pure && !body {
		return lateAfter(ctx, who)
	}
	return untilHalf(ctx)
}

// untilHalf is half of the time that is left.
func untilHalf(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok { // every call has one
		return cellproto.DefaultTimeout
	}
	return max(time.Until(deadline), 0) / 2
}

// lateAfter is when a pure call is late: after three times what 99 of 100 calls need, at least 50 ms, and never
// so late that the next one has less than half of the time left.
func lateAfter(ctx context.Context, who race.Ranked) time.Duration {
	return min(max(3*who.CallP99.Duration(), lateLeast), untilHalf(ctx))
}
