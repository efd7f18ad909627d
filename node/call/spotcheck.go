package call

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// maxChecks is how many replies are checked at one time; what is due beyond that is not.
const maxChecks = 4

// spotCheck has a share of the replies of pure functions, and the first ones of each provider, checked in the background: another
// provider is asked the same, and all that are known if it says something else. The call that got the reply does not
// wait for it; a provider that is caught is not asked for a while.
func (c *Caller) spotCheck(r *remote, p *policy, req *cellproto.Request, a *attempt) {
	if !p.pure || c.cfg.SpotCheck <= 0 || req.Body != nil || !answers(a) || a.err == nil && a.reply.Body != nil {
		return
	}
	first := rand.Float64() >= c.cfg.SpotCheck
	if !first || r.unknown(a.from.Peer) {
		c.checkBeside(r, req, a, first)
	}
}

// firstChecks is how many checks a provider passes before but the usual share of its replies is checked: whoever lies from the
// first reply on, and has won a race by being near, is caught by its first replies.
const firstChecks = 3

// vouched is what is known of the replies of a provider.
type vouched struct {
	passed int       // checks
	tried  time.Time // when the race was decided after which one was begun; what came to nothing is not tried again before the next
}

// unknown says whether a reply is checked because few of that provider's were: the first, of those after it one in two, of those
// after the second one in four.
func (r *remote) unknown(p cellproto.PeerID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vouched[p]
	return v.mayTry(r.decision) && rand.N(1<<v.passed) == 0
}

// mayTry says that a first check can be begun. d is the last decision, which may be nil.
func (v vouched) mayTry(d *race.Decision) bool {
	return v.passed < firstChecks && d != nil && !v.tried.Equal(d.At)
}

// tryFirst notes that a first check is begun, if it can be. It takes a token of hedges that could wait.
func (r *remote) tryFirst(p cellproto.PeerID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vouched[p]
	if !v.mayTry(r.decision) || !r.hedges.Take(true) {
		return false
	}
	if r.vouched == nil || len(r.vouched) >= maxInfos {
		r.vouched = map[cellproto.PeerID]vouched{}
	}
	v.tried = r.decision.At
	r.vouched[p] = v
	return true
}

// vouch notes that a provider has passed a check.
func (r *remote) vouch(p cellproto.PeerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.vouched[p]; ok {
		r.vouched[p] = vouched{passed: v.passed + 1}
	}
}

// unvouch forgets which checks a provider has passed.
func (r *remote) unvouch(p cellproto.PeerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.vouched, p)
}

// checkBeside has an answer to a call without bodies checked in the background. first says that it is one of the first checks of
// who gave it, which is noted and paid for once there is a place.
func (c *Caller) checkBeside(r *remote, req *cellproto.Request, a *attempt, first bool) {
	if r.isUnchecked(req.Header.Func) || a.err == nil && a.reply.Body != nil {
		return
	}
	if c.checks.Add(1) > maxChecks || first && !r.tryFirst(a.from.Peer) {
		c.checks.Add(-1)
		return
	}
	given := vote{voter: voter{Ranked: a.from}, digest: digestOf(a), a: attempt{from: a.from, err: a.err, sent: true}}
	again := *req // the reply is its receiver's, and the request may be changed by its sender
	again.Header.Token, again.Header.Meta, again.Payload = nil, maps.Clone(req.Header.Meta), bytes.Clone(req.Payload)
	check := func() {
		defer c.checks.Add(-1)
		c.check(r, &again, given)
	}
	if !c.work.Go(check) {
		c.checks.Add(-1)
	}
}

// check asks another provider, of another network, for what first replied. Where a hurried race has measured nobody else, a race
// finds it.
func (c *Caller) check(r *remote, req *cellproto.Request, first vote) {
	ctx, cancel := context.WithTimeout(c.ctx, cellproto.DefaultTimeout)
	defer cancel()
	first.group, first.local = c.place(first.Peer)
	p := &poll{
		c: c, r: r, op: "check a reply of " + string(r.name), req: *req, want: cellproto.Quorum{Agree: 2, Ask: 2}, beside: true,
		waiting: draw(c.knownVoters(r), newRand(), first.group),
		asked:   []string{first.group}, votes: []vote{first}, held: newVotesHeld(&c.votes),
	}
	defer p.held.release()
	if len(p.waiting) == 0 && r.hurried() {
		p.recruit(ctx)
	}
	if len(p.waiting) == 0 {
		return
	}
	c.checked.Add(1)
	_, err := p.hold(ctx, 1)
	if err == nil && !c.lied(first.Peer) {
		r.vouch(first.Peer)
	}
	if err == nil || ctx.Err() != nil && cellproto.KindOf(err) != cellproto.Corrupt {
		return
	}
	c.deps.Log.Info("a reply could not be checked", zap.Error(err), zap.String("hint", cellproto.HintOf(err)))
	if cellproto.KindOf(err) == cellproto.Corrupt {
		r.uncheck(req.Header.Func)
	}
}

// uncheckTime is for how long the replies of a function are not checked that gives another one everywhere:
// it is not as pure as it is said to be, and each check would ask everybody.
const uncheckTime = time.Minute

func (r *remote) uncheck(fn string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unchecked == nil || len(r.unchecked) >= cellproto.MaxFunctions {
		r.unchecked = map[string]time.Time{}
	}
	r.unchecked[fn] = time.Now().Add(uncheckTime)
}

func (r *remote) isUnchecked(fn string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.unchecked[fn])
}
