package call

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// Found is a peer that may provide a cell.
type Found struct {
	Info   peer.AddrInfo
	Source string // dht, or sourceMDNS or sourceStatic: such a one is to be asked whether it provides the cell
}

// Sources of those who have announced nothing.
const (
	sourceMDNS   = "mdns"   // it is on this LAN
	sourceStatic = "static" // the owner listed it
)

// Finder tells who may provide a cell. The channel is closed when the search is over; ctx ends it.
// progress says, at any time, how far the search has got.
type Finder interface {
	Find(ctx context.Context, c cid.Cid) (found <-chan Found, progress func() string)
	ResolveName(ctx context.Context, name string) (cid.Cid, error)
}

// Blocks gives blocks by CID, verified: from here, from the named peers, or from the network.
type Blocks interface {
	Block(ctx context.Context, c cid.Cid, max int, from []peer.ID) ([]byte, error)
	// Checked is Block for what is kept, and passed on, only once good has said that it is what it should be.
	Checked(ctx context.Context, c cid.Cid, max int, from []peer.ID, good func([]byte) error) ([]byte, error)
}

// Mirrors knows the copies of published cells on this machine.
type Mirrors interface {
	Dir(id cid.Cid) (dir string, ok bool)
}

// Repos knows the copies of repositories under [deps] on this machine; ok is false for a name of something else.
// One that is not ready yet is Unavailable.
type Repos interface {
	Dir(ctx context.Context, name string) (dir string, ok bool, err error)
}

// CallerConfig says on whose behalf calls are made.
type CallerConfig struct {
	Dir         string            // of the calling cell; its memory of others is in Dir/.cell-cache
	Agent       string            // for hello
	Deps        map[string]string // of cell.toml
	RemoteCells map[string]string // of cell.toml
	Policy      race.Policy
	SpotCheck   float64 // share of the calls of pure functions that are checked; see spotCheck
}

// CallerDeps is what the client half stands on.
type CallerDeps struct {
	Host     host.Host // nil: local cells only
	Finder   Finder    // nil: the same
	Blocks   Blocks
	Identity Identity
	Wake     func(ctx context.Context, dir string) error // starts the nucleus of a local directory
	Own      *Server                                     // of the same nucleus, or nil
	Mirrors  Mirrors                                     // or nil
	Repos    Repos                                       // or nil
	MadeFor  func(target string) cellproto.SchemaHash    // what the cell was made for, zero: not known; or nil
	Heard    func(made, live cellproto.SchemaHash)       // a cell that was called as one with schema made has live; must not block; or nil
	Raced    func(Raced) (again time.Duration)           // see Raced; or nil
	Places   *Places                                     // where peers are reached is noted there; or nil
	Log      *zap.Logger
}

// Caller makes calls on behalf of one cell. Its methods may be used concurrently; Close ends what
// is in flight and waits.
type Caller struct {
	cfg    CallerConfig
	deps   CallerDeps
	links  *links
	cache  *cache
	newest *signed.Newest // adverts
	clocks clocks
	names  names
	ctx    context.Context
	cancel context.CancelFunc
	work   group

	forwards forwards

	mu         sync.Mutex
	remotes    map[cid.Cid]*remote
	cids       map[string]cid.Cid // decoded
	olders     map[olderKey]older
	badMirrors map[string]time.Time // by directory: until then they are not tried
	reputation *race.Reputation
	saved      time.Time                 // when reputation was written down
	watchers   map[chan race.Log]cid.Cid // of Watch, and what each watches

	asked   asked
	place   func(cellproto.PeerID) (group string, local bool) // placeOf, but in tests
	liars   atomic.Bool                                       // somebody may be banned for wrong answers
	checks  atomic.Int32                                      // of spotCheck, under way
	votes   atomic.Int64                                      // bytes of replies that quorums hold
	checked atomic.Int64                                      // of spotCheck, begun
}

// NewCaller makes the client half and reads what it remembers of others.
func NewCaller(cfg CallerConfig, deps CallerDeps) *Caller {
	c := &Caller{
		cfg: cfg, deps: deps, cache: openCache(cfg.Dir, deps.Log), newest: signed.NewNewest(maxAdverts),
		remotes: map[cid.Cid]*remote{}, names: names{m: map[string]*named{}}, cids: map[string]cid.Cid{}, olders: map[olderKey]older{}, badMirrors: map[string]time.Time{},
		watchers: map[chan race.Log]cid.Cid{},
	}
	c.reputation = c.cache.reputation()
	c.liars.Store(c.reputation.Liars())
	c.place = c.placeOf
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.forwards.next = make(chan forwarded)
	c.links = newLinks(deps.Host, cfg.Agent, deps.Log)
	c.links.heard = deps.Heard
	if deps.Places != nil {
		c.links.places = deps.Places
	}
	c.links.self = deps.Identity.Peer.String()
	return c
}

const maxAdverts = 1024 // that are remembered, each of one peer and cell

// Close ends all links and background races, and writes down what was learned of peers.
func (c *Caller) Close() {
	c.work.close()
	c.cancel()
	c.links.close()
	c.work.wait()
	c.forwards.tasks.Wait()
	c.remember(0)
}

// rememberEvery is how often what was learned of peers is written down, at most.
const rememberEvery = time.Minute

// remember writes down what was learned of peers, unless that was done less than gap ago.
func (c *Caller) remember(gap time.Duration) {
	c.mu.Lock()
	now := time.Now()
	if now.Sub(c.saved) < gap || c.reputation.Len() == 0 {
		c.mu.Unlock()
		return
	}
	c.saved = now
	data, err := json.Marshal(c.reputation)
	c.mu.Unlock()
	if err == nil {
		c.cache.setReputation(data)
	}
}

// AvoidDonor has a donor that has not kept its word not be asked for a place for so long. It is remembered like all
// that is learned of peers.
func (c *Caller) AvoidDonor(p cellproto.PeerID, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reputation.AvoidDonor(time.Now(), p, d)
	c.saved = time.Time{} // by the next race, not a minute later
}

// AvoidsDonor says whether a donor is not to be asked now.
func (c *Caller) AvoidsDonor(p cellproto.PeerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reputation.AvoidsDonor(time.Now(), p)
}

// Result is a reply and how it came about.
type Result struct {
	Reply    *cellproto.Reply
	Provider string    // peer ID; of a local cell its directory or socket
	Source   string    // local, mirror, dht, mdns or static
	Raced    bool      // a race was held for this call
	Cached   bool      // the winner of an earlier race answered
	Decided  time.Time // when that race was decided
	Quorum   *Quorum   // of a call that asked for one; nil: it did not
}

// Call makes one call to a target: a directory, a name under [deps] or [remote_cells], a CID, an
// IPNS name or a domain. The context's deadline is the deadline of all of it. A function that is
// pure or idempotent is tried elsewhere when a provider fails; any other only if its request
// never left, or its provider says that it did not run. A body that is an io.Seeker and an io.ReaderAt is sent again whole,
// where that is needed, and beside itself; of any other as much as replayable. With cellproto.MetaQuorum in the request's meta
// several providers are asked. The
// caller closes the reply's body.
func (c *Caller) Call(ctx context.Context, target string, req *cellproto.Request) (*Result, error) {
	req, quorum, err := takeQuorum(req)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ctx, cancel := withTimeoutAt(ctx, now)
	if quorum.Ask > 0 {
		defer cancel()
		req, made := takeMade(req)
		return c.callQuorum(ctx, target, made, req, quorum)
	}
	req, made := takeMade(req)
	t, err := c.resolve(ctx, target)
	if err != nil {
		cancel()
		return nil, err
	}
	if made != "" {
		t.made = made
	}
	if req.Body != nil {
		again := *req
		again.Body, req = repeatable(req.Body), &again
	}
	var res *Result
	if t.newest.Defined() && t.made != "" {
		res, err = c.callNamed(ctx, t, req, now)
	} else {
		res, err = c.callResolved(ctx, t, req, now)
	}
	return res.until(cancel), err
}

func (c *Caller) callResolved(ctx context.Context, t resolved, req *cellproto.Request, now time.Time) (*Result, error) {
	switch {
	case t.mirrorOf.Defined():
		return c.callMirror(ctx, t, req)
	case t.cell.Defined():
		r := c.remoteAt(t.cell, now)
		res, err := c.callRemote(r.calledAs(ctx, t.made), r, req)
		kind := cellproto.KindOf(err)
		if t.failing != "" && (kind == cellproto.NotFound || kind == cellproto.Unavailable) && rewind(req) {
			return c.lastMirror(ctx, t.failing, r, req)
		}
		return res, err
	}
	return c.callDirect(ctx, t, req)
}

// takeMade takes out of a request which schema its caller says that it was made for: the hash as bytes, "" if it
// does not say.
func takeMade(req *cellproto.Request) (*cellproto.Request, string) {
	text, ok := req.Header.Meta[cellproto.MetaMadeFor]
	if !ok {
		return req, ""
	}
	bare := *req
	bare.Header.Meta = nil
	if len(req.Header.Meta) > 1 {
		bare.Header.Meta = maps.Clone(req.Header.Meta)
		delete(bare.Header.Meta, cellproto.MetaMadeFor)
	}
	hash, err := cellproto.ParseSchemaHash(text)
	if err != nil {
		return &bare, "" // it is only not known
	}
	return &bare, string(hash[:])
}

// withTimeout sees to it that ctx has a deadline.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return withTimeoutAt(ctx, time.Now())
}

func withTimeoutAt(ctx context.Context, now time.Time) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {} // a call leaves nothing behind that would have to be canceled
	}
	return cellproto.WithTimeout(ctx, now, cellproto.DefaultTimeout)
}

// closer runs then when the body is closed for the first time. Close may be called from several goroutines.
type closer struct {
	io.ReadCloser
	then func()
	once sync.Once
}

func (b *closer) Close() error {
	defer b.once.Do(b.then)
	return b.ReadCloser.Close()
}

// callDirect calls a nucleus that was named, not found: a local directory, a socket, a multiaddr.
func (c *Caller) callDirect(ctx context.Context, t resolved, req *cellproto.Request) (*Result, error) {
	dial := func(ctx context.Context) (*link, error) { return c.direct(ctx, t) }
	res := &Result{Source: "local", Provider: t.where()}
	if t.info != nil {
		res.Source = "static"
	}
	for try := 0; ; try++ {
		lk, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		a := attempt{link: lk}
		lk.began(lk.clock())
		a.reply, a.err = c.send(ctx, lk, req, t.where(), t.where())
		a = a.account(lk.clock())
		res.Reply, err = a.reply, a.err
		if err = ownWord(ctx, req.Header.Func, err); err == nil {
			return res, nil
		}
		// The nucleus may just have been restarted: a request that never left is sent once more.
		if try > 0 || cellproto.KindOf(err) != cellproto.Unavailable || cellproto.RetryAfterOf(err) > 0 {
			return nil, err
		}
		if !rewind(req) {
			return nil, notAgain(err)
		}
	}
}

// send sends a request over a link, and proves who we are where that is asked for: once more if the
// other side says that we have not.
func (c *Caller) send(ctx context.Context, lk *link, req *cellproto.Request, server, cell string) (*cellproto.Reply, error) {
	req.Header.Token = lk.takeToken()
	reply, err := lk.call(ctx, req)
	if cellproto.KindOf(err) != cellproto.Denied || !lk.asked(ctx) {
		if req.Header.Token != nil {
			lk.accepted()
		}
		return reply, err
	}
	saved := c.cache.tokens(cell)
	lk.forget(server, req.Header.Token, saved)
	req.Header.Token = nil
	if perr := lk.authorise(ctx, c.deps.Identity, server, saved); perr != nil {
		if cellproto.KindOf(perr) == cellproto.Denied {
			return nil, perr
		}
		return nil, err
	}
	if !rewind(req) {
		return nil, notAgain(err)
	}
	return lk.call(ctx, req)
}

// call makes a call. Whether it may be made again with its body is not for the callee to say.
func (lk *link) call(ctx context.Context, req *cellproto.Request) (*cellproto.Reply, error) {
	reply, err := lk.conn.Call(ctx, req)
	if err != nil {
		err = notToSay(err)
	}
	return reply, err
}

// notToSay is apart from call so that nothing is allocated for no error.
func notToSay(err error) error {
	var said *cellproto.Error
	if !errors.As(err, &said) || !said.Again {
		return err
	}
	bare := *said
	bare.Again = false
	return &bare
}

// newKey makes an idempotency key.
func newKey() []byte {
	key := make([]byte, 16)
	rand.Read(key) // never fails
	return key
}

// observe notes what became of a call to a peer.
func (c *Caller) observe(now time.Time, p cellproto.PeerID, err error, took time.Duration) {
	kind := cellproto.KindOf(err)
	if kind == cellproto.Corrupt || kind == cellproto.BadReply {
		c.liars.Store(true)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reputation.Called(now, p, kind, took, cellproto.RetryAfterOf(err))
}

func (c *Caller) observed(p cellproto.PeerID) race.Observed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reputation.Observed(time.Now(), p)
}
