package call

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// attempts is how many providers one call may use up.
const attempts = 8

// connectTime is how long a provider may take to be connected to, to say hello and to admit us,
// before another one is tried. What the race has measured is connected already.
const connectTime = 3 * time.Second

// describeTime is how long a call waits for the schema that says how boldly it may be retried.
const describeTime = 2 * time.Second

// outgoing is one call to a published cell.
type outgoing struct {
	res   Result
	p     policy
	tried peerSet

	refused []cellproto.PeerID // have not taken it
	blamed  blamed
}

// callRemote calls a published cell: pick a provider, call it, and go on to the next while that is
// allowed.
func (c *Caller) callRemote(ctx context.Context, r *remote, req *cellproto.Request) (*Result, error) {
	out := &outgoing{} // one allocation for all of it
	res, p, tried := &out.res, &out.p, &out.tried
	var last error
	pause := grace{begun: time.Now()}
	for len(tried.peers) < attempts || out.blamed.err == nil && pause.again(ctx, c, r, tried, last) {
		now, described := time.Now(), r.described.Load() != nil
		who, err := c.pickFor(ctx, r, out, now)
		if err != nil {
			if out.blamed.err == nil && pause.again(ctx, c, r, tried, cmp.Or(last, err)) {
				continue
			}
			return nil, cmp.Or(out.blamed.err, r.worse(last, err))
		}
		if len(tried.peers) == 0 {
			who = c.onTrial(now, r, who, req)
		}
		if err := p.prepare(ctx, c, r, who, req); err != nil {
			c.tried(r, who, 0, cellproto.KindOf(err))
			return nil, r.worse(last, err)
		}
		if res.Raced || !described { // that took time
			now = time.Now()
		}
		tried.add(who.Peer)
		a := c.hedged(ctx, r, who, req, p, tried, now)
		c.tried(r, who, a.took, a.kindFrom(who))
		a = c.confirmed(ctx, r, out, req, a)
		c.spotCheck(r, p, req, &a)
		if a.err == nil {
			res.Reply, res.Provider, res.Source = a.reply, string(a.from.Peer), a.from.Source
			c.holdTo(r, out)
			return res, nil
		}
		last = a.err
		if !c.goesOn(ctx, r, out, &a) {
			return nil, cmp.Or(out.blamed.err, a.err)
		}
		if !rewind(req) {
			return nil, cmp.Or(out.blamed.err, notAgain(a.err))
		}
		c.deps.Log.Debug("trying the next provider", zap.String("failed", string(who.Peer)), zap.Error(a.err))
	}
	return nil, cmp.Or(out.blamed.err, last)
}

// goesOn says whether another provider is asked after one that has failed, which is noted.
func (c *Caller) goesOn(ctx context.Context, r *remote, out *outgoing, a *attempt) bool {
	kind := cellproto.KindOf(a.err)
	if refuses(kind) {
		out.refused = append(out.refused, a.from.Peer)
	}
	if out.p.final(a) {
		if kind == cellproto.FuncError { // it can be called: others have said that it cannot
			c.holdTo(r, out)
		}
		if kind != cellproto.BadInput {
			out.blamed.err = nil
		}
		return false
	}
	if ctx.Err() != nil {
		return false
	}
	return kind != cellproto.BadInput || !a.sent || c.blames(r, out, a)
}

// holdTo notes that providers have refused a call, or blamed its arguments, which another one has answered: that was not
// for the call. Who does so again, though it has taken part in a race since, has failed: else it would win each race, as
// long as it answers pings. Who serves another version by now is out of the next race by itself.
func (c *Caller) holdTo(r *remote, out *outgoing) {
	for _, p := range out.blamed.by {
		c.failed(time.Now(), r, p)
	}
	c.hold(r, append(out.refused, out.blamed.by...))
}

func (c *Caller) hold(r *remote, refused []cellproto.PeerID) {
	if len(refused) == 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	refused = slices.DeleteFunc(refused, func(p cellproto.PeerID) bool {
		before, ok := r.refused[p]
		if r.refused == nil || len(r.refused) >= maxInfos {
			r.refused = map[cellproto.PeerID]time.Time{}
		}
		r.refused[p] = now
		return !ok || r.decision == nil || r.decision.At.Before(before)
	})
	r.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range refused {
		c.reputation.Failed(now, p)
	}
}

// refuses says that a provider has not taken a call, and has given no reason that is looked at elsewhere.
func refuses(kind cellproto.Kind) bool {
	switch kind {
	case cellproto.Denied, cellproto.NotFound, cellproto.Incompatible, cellproto.Unsupported, cellproto.TooLarge:
		return true
	}
	return false
}

// worse gives the error that says more: that of the last provider before that of having no further one.
func (r *remote) worse(of, none error) error {
	if of == nil {
		return none
	}
	hint := cellproto.HintOf(of)
	if hint == "" {
		hint = "See all providers with cellctl race " + string(r.name) + "."
	}
	return &cellproto.Error{
		Op: "use " + string(r.name), Kind: cellproto.KindOf(of), RetryAfter: cellproto.RetryAfterOf(of), Hint: hint,
		Err: fmt.Errorf("there is no further provider after: %w", of),
	}
}

// policy is what may be done with one call when a provider fails; it follows from the schema.
type policy struct {
	known      bool
	pure       bool
	idempotent bool
}

// prepare learns from the schema how the function may be retried. Pings and the race do not wait
// for it; the call does, a little, since it should know what it may do before anything leaves.
func (p *policy) prepare(ctx context.Context, c *Caller, r *remote, who race.Ranked, req *cellproto.Request) error {
	if p.known {
		return nil
	}
	m, schema := r.description()
	if m == nil {
		wait := describeTime
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(deadline)/4)
		}
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		var err error
		if _, schema, err = c.describe(ctx, r, who.Peer); err != nil {
			if beyondHelp(err) {
				return err
			}
			return nil // it is only called less boldly
		}
	}
	return p.read(r.as(ctx, schema), req)
}

// read learns it from a schema that is at hand, which may be nil.
func (p *policy) read(schema *cellproto.Schema, req *cellproto.Request) error {
	p.known = true
	if schema == nil {
		return nil
	}
	fn, err := schema.Function(req.Header.Func)
	if err != nil {
		return err
	}
	p.pure, p.idempotent = fn.Pure, fn.Idempotent || fn.Pure
	if fn.Idempotent && len(req.Header.Key) == 0 {
		req.Header.Key = newKey()
	}
	return nil
}

// beyondHelp says that the manifest or the schema itself is bad: their hashes are right, so that
// every provider has the same.
func beyondHelp(err error) bool {
	switch cellproto.KindOf(err) {
	case cellproto.Corrupt, cellproto.BadInput, cellproto.TooLarge, cellproto.Unsupported:
		return true
	}
	return false
}

// final says that another provider is not to be asked after this one: it has answered, or the
// request may have run and must not run twice.
func (p *policy) final(a *attempt) bool {
	if a.err == nil {
		return true
	}
	kind := cellproto.KindOf(a.err)
	switch {
	case kind == cellproto.Canceled:
		return true
	case !a.sent:
		return false
	case kind == cellproto.FuncError:
		return true // the same anywhere
	case kind == cellproto.BadInput:
		return a.ours
	case kind.NeverRan():
		return false
	}
	return !p.idempotent
}

// pick gives whom to call: the cached winner, else the next of the last ranking, else the winner of
// a race that this call waits for. A ranking that is too old is not used until a race has confirmed it.
func (c *Caller) pick(ctx context.Context, r *remote, tried *peerSet, res *Result, now time.Time) (race.Ranked, error) {
	if who, ok := c.known(r, tried, res, now); ok {
		res.Cached = true
		return who, nil
	}
	res.Raced, res.Cached, res.Decided = true, false, time.Now()
	d, err := c.waitRace(ctx, r)
	if err != nil {
		return race.Ranked{}, err
	}
	if err := c.explain(r, "use "+string(r.name), d); err != nil {
		return race.Ranked{}, err
	}
	who, found := c.next(d, func(p cellproto.PeerID) bool { return tried.has(p) || c.lied(p) })
	if !found {
		return race.Ranked{}, cellproto.Errorf("use "+string(r.name), cellproto.Unavailable, "all %d providers failed", len(tried.peers))
	}
	return who, nil
}

// known picks from the last race, if that was not too long ago.
func (c *Caller) known(r *remote, tried *peerSet, res *Result, now time.Time) (race.Ranked, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.decision
	if d == nil {
		return race.Ranked{}, false
	}
	decided := race.Cached{Peer: d.Winner, Decided: d.At}
	if !decided.Serves(now, c.cfg.Policy) {
		return race.Ranked{}, false
	}
	res.Decided = d.At
	skip := func(p cellproto.PeerID) bool { return tried.has(p) || c.lied(p) }
	if r.winner.Serves(now, c.cfg.Policy) && !skip(r.winner.Peer) && !c.shuns(r.winner.Peer) {
		for i := range d.Ranking {
			if k := &d.Ranking[i]; k.Peer == r.winner.Peer {
				return *k, true
			}
		}
	}
	if k, ok := c.next(d, func(p cellproto.PeerID) bool { return skip(p) || p == r.winner.Peer }); ok {
		return k, true
	}
	if c.shuns(r.winner.Peer) { // there is nobody else
		return d.Next(skip)
	}
	return race.Ranked{}, false
}

// attempt is the outcome of calling one provider.
type attempt struct {
	reply  *cellproto.Reply
	from   race.Ranked
	err    error
	sent   bool // the request may have left; else it has not run, whatever err is
	counts bool // of a hedge: this is the answer
	mute   bool // of a hedge: who was asked first did not answer a ping either
	ours   bool // of BadInput: the arguments are not what the schema wants
	agreed bool // of an error of a pure function: two say so
	link   *link
	took   time.Duration // by from alone
}

// kindFrom is the kind of error that a call of who ended with: Timeout when somebody else was quicker.
func (a *attempt) kindFrom(who race.Ranked) cellproto.Kind {
	if a.from.Peer != who.Peer {
		return cellproto.Timeout
	}
	return cellproto.KindOf(a.err)
}

// discard drops a reply that nobody wants any more.
func (a *attempt) discard() {
	if a.err == nil && a.reply.Body != nil {
		a.reply.Body.Close()
	}
}

// until has then called when the attempt is over: now, or when its body was closed.
func (a attempt) until(then func()) attempt {
	if a.err != nil || a.reply.Body == nil {
		then()
		return a
	}
	a.reply.Body = &closer{ReadCloser: a.reply.Body, then: then}
	return a
}

// account notes the end of a call: now, or when its body was closed.
func (a attempt) account(now time.Time) attempt {
	switch lk := a.link; {
	case lk == nil:
	case a.err == nil && a.reply.Body != nil:
		return a.until(func() { lk.over(time.Now()) })
	default:
		lk.over(now)
	}
	return a
}

// callPeer makes one attempt with one provider, at begin, and notes what that says about it.
func (c *Caller) callPeer(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, begin time.Time) attempt {
	a := c.exchange(ctx, r, who, req, begin)
	a.fits(ctx, r, req)
	now := time.Now()
	a = a.account(now)
	if lostBody(req) {
		a.discard()
		a.reply, a.err = nil, errBodyLost
		return a // whatever it made of a part says nothing about the peer
	}
	if a.err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return a // we gave up: that says nothing about the peer
	}
	took := now.Sub(begin)
	a.took = took
	if a.sent {
		c.asked.add(askedKey{who.Peer, string(r.name), req.Header.Func}, took)
	}
	if a.cutShort(ctx) {
		c.cutShort(r, &a)
		return a
	}
	c.observe(now, who.Peer, a.err, took)
	switch cellproto.KindOf(a.err) {
	case cellproto.BadInput:
		a.ours = r.misfits(ctx, req)
		c.replied(now, r, who.Peer)
	case cellproto.FuncError:
		c.replied(now, r, who.Peer)
	case 0:
		if req.Body != nil || a.reply != nil && a.reply.Body != nil {
			took = 0
		} else {
			a.link.answered(took)
		}
		c.succeeded(now, r, who.Peer, took)
	case cellproto.Canceled:
	default:
		c.failed(now, r, who.Peer)
	}
	return a
}

// fits has a reply that its schema does not promise count as none. Bodies are not looked at.
func (a *attempt) fits(ctx context.Context, r *remote, req *cellproto.Request) {
	if a.err != nil || a.reply.Body != nil {
		return
	}
	if err := r.fit(ctx, req.Header.Func).Check(a.reply.Header.Codec, a.reply.Payload); err != nil {
		a.err = cellproto.Errorf("use "+string(r.name), cellproto.BadReply, "%s replied what its schema does not promise: %w", a.from.Peer, err).
			WithHint("The provider is not asked for a while; its function may have run.")
		a.reply = nil
	}
}

// exchange sends the request over the peer's link, or over one of its own when it has a body.
func (c *Caller) exchange(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, begin time.Time) attempt {
	a := attempt{from: who}
	bulk := req.Body != nil
	hoping := !bulk && r.givesBody(ctx, req.Header.Func) && c.links.hopeful(who.Peer)
	lk, err := c.connect(ctx, r, who.Peer, bulk || hoping)
	if hoping {
		bulk = err == nil
		if err != nil && ctx.Err() == nil {
			lk, err = c.connect(ctx, r, who.Peer, false) // the reply may be small enough for the relay
		}
	}
	if err != nil {
		a.err = err
		return a
	}
	a.sent, a.link = true, lk
	lk.began(begin)
	a.reply, a.err = c.send(ctx, lk, req, string(who.Peer), string(r.name))
	a.err = ownWord(ctx, req.Header.Func, a.err)
	if bulk {
		a = a.until(lk.conn.Close)
	}
	return a
}

// ownWord gives the error of a call that was sent. Whether its caller has given up is not for the other
// side to say: that a callee says so means only that it did not finish.
func ownWord(ctx context.Context, fn string, err error) error {
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		return cellproto.Errorf("call "+fn, cellproto.Timeout, "no answer in time; it may have run").
			WithHint("Give it more time (--timeout).")
	case cellproto.KindOf(err) == cellproto.Canceled && ctx.Err() == nil:
		return cellproto.Errorf("call "+fn, cellproto.MayHaveRun, "the callee broke it off: %w", err)
	case cellproto.KindOf(err) == cellproto.BadReply: // of a cell that it has called: no fault of its own
		return cellproto.Errorf("call "+fn, cellproto.FuncError, "%w", err)
	}
	return err
}

// connect gives a link over which a request may go at once: the provider is reached, serves what
// the manifest names, and knows who we are.
func (c *Caller) connect(ctx context.Context, r *remote, p cellproto.PeerID, bulk bool) (*link, error) {
	if !bulk {
		if lk := c.links.live(p, string(r.name), r.madeFor(ctx)); lk != nil {
			if hello, ok := lk.ready(); ok {
				return lk, r.vet(p, hello.Schema)
			}
		}
	}
	wait := connectTime
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	lk, err := c.reach(limited, r, p, bulk)
	if err == nil || ctx.Err() != nil || limited.Err() == nil {
		return lk, err
	}
	if wait < connectTime {
		err = fmt.Errorf("%w: %w", errHurried, err)
	}
	return nil, cellproto.Errorf("call "+string(p), cellproto.Unavailable, "not ready for a call after %v: %w", wait.Round(time.Millisecond), err)
}

func (c *Caller) reach(ctx context.Context, r *remote, p cellproto.PeerID, bulk bool) (lk *link, err error) {
	r.mu.Lock()
	info, ok := r.infos[p]
	r.mu.Unlock()
	if !ok {
		return nil, cellproto.Errorf("call "+string(p), cellproto.Unavailable, "no address of this peer is known")
	}
	if bulk {
		lk, err = c.links.bulk(ctx, info, string(r.name), r.madeFor(ctx))
	} else {
		lk, err = c.links.peer(ctx, info, string(r.name), r.madeFor(ctx))
	}
	if err != nil {
		return nil, err
	}
	hello, err := lk.greeted(ctx)
	if err == nil {
		err = r.vet(p, hello.Schema)
	}
	if err == nil {
		err = lk.authorise(ctx, c.deps.Identity, string(p), c.cache.tokens(string(r.name)))
	}
	if err != nil && bulk {
		lk.conn.Close()
	}
	return lk, err
}
