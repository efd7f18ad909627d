package call

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// remote is what the caller knows of one published cell.
type remote struct {
	id   cid.Cid
	name cellproto.CellID

	mu       sync.Mutex
	winner   race.Cached
	decision *race.Decision // the last one with a winner
	infos    map[cellproto.PeerID]peer.AddrInfo
	racing   *running      // nil when no race runs
	searched func() string // how far the search of the last race got; nil: none was
	manifest *signed.Manifest
	schema   *cellproto.Schema

	describing chan struct{} // capacity 1: taken while manifest and schema are fetched
}

// running is a race that others can wait for.
type running struct {
	done     chan struct{}
	decision *race.Decision
	err      error
}

func (c *Caller) remote(id cid.Cid) *remote {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.remotes[id]
	if r == nil {
		r = &remote{
			id: id, name: cellproto.CellID(id.String()), infos: map[cellproto.PeerID]peer.AddrInfo{},
			describing: make(chan struct{}, 1),
		}
		c.cache.load(r)
		c.remotes[id] = r
	}
	return r
}

// attempts is how many providers one call may use up.
const attempts = 8

// callRemote calls a published cell: pick a provider, call it, and go on to the next while that is
// allowed.
func (c *Caller) callRemote(ctx context.Context, r *remote, req *cellproto.Request) (*Result, error) {
	p := &policy{}
	tried := map[cellproto.PeerID]bool{}
	res := &Result{}
	var last error
	for len(tried) < attempts {
		who, err := c.pick(ctx, r, tried, res)
		if err != nil {
			return nil, worse(last, err)
		}
		if err := p.prepare(ctx, c, r, who, req); err != nil {
			return nil, worse(last, err)
		}
		tried[who.Peer] = true
		reply, from, err := c.hedged(ctx, r, who, req, p, tried)
		if err == nil {
			res.Reply, res.Provider, res.Source = reply, string(from.Peer), from.Source
			return res, nil
		}
		last = err
		if !p.mayRetry(err) || ctx.Err() != nil || !rewind(req) {
			return nil, err
		}
		c.deps.Log.Debug("trying the next provider", zap.String("failed", string(who.Peer)), zap.Error(err))
	}
	return nil, last
}

// worse gives the error that says more: that of a provider before that of having no further one.
func worse(of, none error) error {
	if of != nil {
		return of
	}
	return none
}

// policy is what may be done with one call when a provider fails; it follows from the schema.
type policy struct {
	known      bool
	pure       bool
	idempotent bool
}

// prepare learns from the schema how the function may be retried. Pings and the race do not wait
// for it; the call does, since it must know what it may do before anything leaves.
func (p *policy) prepare(ctx context.Context, c *Caller, r *remote, who race.Ranked, req *cellproto.Request) error {
	if p.known {
		return nil
	}
	_, schema, err := c.describe(ctx, r, who.Peer)
	if err != nil {
		if cellproto.KindOf(err) == cellproto.Corrupt {
			return err
		}
		return nil // it is only called less boldly
	}
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

// mayRetry says whether a call that ended so may be sent to another provider.
func (p *policy) mayRetry(err error) bool {
	kind := cellproto.KindOf(err)
	switch kind {
	case cellproto.BadInput, cellproto.FuncError, cellproto.Canceled:
		return false // the same anywhere
	case cellproto.Failed, cellproto.MayHaveRun, cellproto.Timeout, cellproto.Corrupt:
		return p.idempotent
	}
	return kind.NeverRan()
}

// pick gives whom to call: the cached winner, else the next of the last ranking, else the winner of
// a race that this call waits for.
func (c *Caller) pick(ctx context.Context, r *remote, tried map[cellproto.PeerID]bool, res *Result) (race.Ranked, error) {
	r.mu.Lock()
	now := time.Now()
	var who race.Ranked
	found := false
	if d := r.decision; d != nil {
		res.Decided = d.At
		if r.winner.Serves(now, c.cfg.Policy) && !tried[r.winner.Peer] {
			for _, k := range d.Ranking {
				if k.Peer == r.winner.Peer {
					who, found = k, true
				}
			}
		}
		if !found {
			who, found = d.Next(func(p cellproto.PeerID) bool { return tried[p] || p == r.winner.Peer })
		}
	}
	r.mu.Unlock()
	if found {
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
	who, found = d.Next(func(p cellproto.PeerID) bool { return tried[p] })
	if !found {
		return race.Ranked{}, cellproto.Errorf("use "+string(r.name), cellproto.Unavailable, "all %d providers failed", len(tried))
	}
	return who, nil
}

// attempt is the outcome of calling one provider.
type attempt struct {
	reply *cellproto.Reply
	from  race.Ranked
	err   error
}

// hedged calls who; when a pure function stays silent for a few times its usual time, the next
// candidate is asked too, and the first answer counts.
func (c *Caller) hedged(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request, p *policy, tried map[cellproto.PeerID]bool) (*cellproto.Reply, race.Ranked, error) {
	if !p.pure || req.Body != nil {
		reply, err := c.callPeer(ctx, r, who, req)
		return reply, who, err
	}
	second, ok := c.nextBest(r, who, tried)
	if !ok {
		reply, err := c.callPeer(ctx, r, who, req)
		return reply, who, err
	}
	first, cancelFirst := context.WithCancel(ctx)
	defer cancelFirst()
	other, cancelOther := context.WithCancel(ctx)
	answered := make(chan attempt, 1)
	copied := *req
	timer := time.AfterFunc(hedgeAfter(ctx, who), func() {
		reply, err := c.callPeer(other, r, second, &copied)
		if err == nil {
			cancelFirst()
		}
		answered <- attempt{reply, second, err}
	})
	reply, err := c.callPeer(first, r, who, req)
	if timer.Stop() {
		cancelOther()
		return reply, who, err
	}
	if err == nil { // the other one is asked in vain
		cancelOther()
		return reply, who, nil
	}
	a := <-answered
	if a.err != nil || a.reply.Body == nil {
		cancelOther()
	} else {
		a.reply.Body = &closer{ReadCloser: a.reply.Body, then: cancelOther}
	}
	if a.err == nil {
		c.failed(r, who.Peer)
		return a.reply, a.from, nil
	}
	tried[second.Peer] = true
	return nil, who, err
}

// nextBest is the candidate after who.
func (c *Caller) nextBest(r *remote, who race.Ranked, tried map[cellproto.PeerID]bool) (race.Ranked, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.decision == nil {
		return race.Ranked{}, false
	}
	return r.decision.Next(func(p cellproto.PeerID) bool { return tried[p] || p == who.Peer })
}

// hedgeAfter is how long a pure call may stay silent: three times what 99 of 100 calls need, at
// least 50 ms, and never so long that the second one has less than half of the time left.
func hedgeAfter(ctx context.Context, who race.Ranked) time.Duration {
	wait := max(3*who.CallP99.Duration(), 50*time.Millisecond)
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	return wait
}

// callPeer makes one attempt with one provider.
func (c *Caller) callPeer(ctx context.Context, r *remote, who race.Ranked, req *cellproto.Request) (*cellproto.Reply, error) {
	begin := time.Now()
	reply, err := c.exchange(ctx, r, who.Peer, req)
	if err != nil && ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil, err // we gave up: that says nothing about the peer
	}
	took := time.Since(begin)
	c.observe(who.Peer, err, took)
	switch cellproto.KindOf(err) {
	case 0, cellproto.FuncError, cellproto.BadInput:
		if req.Body != nil || reply != nil && reply.Body != nil {
			took = 0
		}
		c.succeeded(r, who.Peer, took)
	case cellproto.Canceled:
	default:
		c.failed(r, who.Peer)
	}
	return reply, err
}

// exchange sends the request over the peer's link, or over one of its own when it has a body.
func (c *Caller) exchange(ctx context.Context, r *remote, p cellproto.PeerID, req *cellproto.Request) (*cellproto.Reply, error) {
	r.mu.Lock()
	info, ok := r.infos[p]
	r.mu.Unlock()
	if !ok {
		return nil, cellproto.Errorf("call "+string(p), cellproto.Unavailable, "no address of this peer is known")
	}
	if req.Body == nil {
		lk, err := c.links.peer(ctx, info, string(r.name))
		if err != nil {
			return nil, err
		}
		return c.checked(ctx, r, lk, p, req)
	}
	lk, err := c.links.bulk(ctx, info, string(r.name))
	if err != nil {
		return nil, err
	}
	reply, err := c.checked(ctx, r, lk, p, req)
	if err != nil || reply.Body == nil {
		lk.conn.Close()
		return reply, err
	}
	reply.Body = &closer{ReadCloser: reply.Body, then: lk.conn.Close}
	return reply, nil
}

// checked makes sure that the peer serves the schema that the manifest names, and that we have
// proven what it asks for.
func (c *Caller) checked(ctx context.Context, r *remote, lk *link, p cellproto.PeerID, req *cellproto.Request) (*cellproto.Reply, error) {
	hello, err := lk.conn.PeerHello(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.fits(hello.Schema); err != nil {
		return nil, err
	}
	if err := lk.authorise(ctx, c.deps.Identity, string(p), c.cache.tokens(string(r.name))); err != nil {
		return nil, err
	}
	return c.send(ctx, lk, req, string(p), string(r.name))
}

// fits compares the schema that a peer serves with the manifest's.
func (r *remote) fits(schema []byte) error {
	r.mu.Lock()
	m := r.manifest
	r.mu.Unlock()
	if m == nil || m.SchemaHash.IsZero() || len(schema) == 0 || string(schema) == string(m.SchemaHash[:]) {
		return nil
	}
	return cellproto.Errorf("call "+string(r.name), cellproto.Incompatible, "the provider serves another schema than the manifest names")
}

// runs checks that the program that a provider names is one of the manifest's.
func (r *remote) runs(binary signed.Digest) error {
	r.mu.Lock()
	m := r.manifest
	r.mu.Unlock()
	if m == nil || binary == (signed.Digest{}) || slices.ContainsFunc(m.Artefacts, func(a signed.Artefact) bool { return a.BLAKE3 == binary }) {
		return nil
	}
	return cellproto.Errorf("call "+string(r.name), cellproto.Corrupt, "the provider runs another program than the manifest names")
}

func (c *Caller) succeeded(r *remote, p cellproto.PeerID, took time.Duration) {
	r.mu.Lock()
	if r.winner.Peer == p {
		r.winner.Called(took)
	}
	r.mu.Unlock()
	c.raceAgain(r)
}

func (c *Caller) failed(r *remote, p cellproto.PeerID) {
	r.mu.Lock()
	if r.winner.Peer == p {
		r.winner.Failed()
	}
	r.mu.Unlock()
	c.raceAgain(r)
}
