package call

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A quorum: a pure function is asked of several providers at once, and the reply that most of them give
// counts. Whoever gave another one has lied, or is broken: it is not asked for a while.

const (
	// maxVote bounds one reply of a quorum, in bytes.
	maxVote = 4 << 20
	// maxVoteBody bounds the body of a request that several are sent, in bytes.
	maxVoteBody = 1 << 20
	// Once enough agree the others have as long again to give theirs, within these bounds. When two replies
	// differ, all who are asked then have twice as long as it took, and maxLateVote at least.
	minLateVote, maxLateVote = 50 * time.Millisecond, time.Second
)

// Quorum is how a reply came about that several providers were asked for.
type Quorum struct {
	Want   cellproto.Quorum
	Asked  int      // who have answered
	Agreed int      // of these, with the reply that counts
	Liars  []string // peers that gave another one
	Silent []string // peers that were asked and gave none in time
	Note   string   // what weakens it; ""
}

// takeQuorum gives the quorum that a request asks for, and the request without that.
func takeQuorum(req *cellproto.Request) (*cellproto.Request, cellproto.Quorum, error) {
	text, ok := req.Header.Meta[cellproto.MetaQuorum]
	if !ok {
		return req, cellproto.Quorum{}, nil
	}
	q, err := cellproto.ParseQuorum(text)
	if err != nil {
		return nil, q, err
	}
	bare := *req
	bare.Header.Meta = maps.Clone(req.Header.Meta)
	delete(bare.Header.Meta, cellproto.MetaQuorum)
	if len(bare.Header.Meta) == 0 {
		bare.Header.Meta = nil
	}
	return &bare, q, nil
}

// callQuorum asks several providers of a published cell for the same.
func (c *Caller) callQuorum(ctx context.Context, target, made string, req *cellproto.Request, q cellproto.Quorum) (*Result, error) {
	op := "ask a quorum of " + target
	t, err := c.resolvePublished(ctx, target)
	if err != nil {
		return nil, err
	}
	if !t.cell.Defined() {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%s is a nucleus itself: there is nobody else to ask", t.where()).
			WithHint("Publish it first, or give the CID that cellctl publish printed.")
	}
	if made != "" {
		t.made = made
	}
	if t.newest.Defined() && t.made != "" {
		t.cell = c.versionFor(ctx, t.newest, t.made)
	}
	r := c.remote(t.cell)
	ctx = r.calledAs(ctx, t.made)
	res := &Result{}
	voters, err := c.voters(ctx, r, q, res)
	if err != nil {
		return nil, err
	}
	if err := c.mustBePure(ctx, r, op, req.Header.Func); err != nil {
		return nil, err
	}
	body, err := voteBody(op, req.Body)
	if err != nil {
		return nil, err
	}
	p := &poll{c: c, r: r, op: op, req: *req, body: body, want: q, waiting: draw(voters, newRand()), held: newVotesHeld(&c.votes)}
	defer p.held.release()
	if n := len(p.waiting); n < q.Agree {
		return nil, tooFew(op, q, len(voters), n)
	}
	winner, err := p.hold(ctx, q.Ask)
	if err != nil {
		return nil, err
	}
	res.Quorum = p.report()
	if winner.err != nil {
		return nil, winner.err
	}
	res.Reply, res.Provider, res.Source = winner.reply, string(winner.from.Peer), winner.from.Source
	res.Reply.Header.Meta = res.Quorum.meta()
	return res, nil
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

func tooFew(op string, q cellproto.Quorum, found, groups int) error {
	if found >= q.Agree {
		return cellproto.Errorf(op, cellproto.Unavailable, "%d providers answer, but they have addresses in %d networks only, and %d must agree", found, groups, q.Agree).
			WithHint("Providers within one /24 (IPv4), /48 (IPv6) or behind one relay count as one: they may be the same person's.")
	}
	return cellproto.Errorf(op, cellproto.Unavailable, "%d providers answer, and %d must agree", found, q.Agree).
		WithHint("See them with cellctl race; without --quorum one provider is enough.")
}

// mustBePure refuses functions that must not run several times.
func (c *Caller) mustBePure(ctx context.Context, r *remote, op, name string) error {
	_, schema, err := c.describeFound(ctx, r)
	if err != nil {
		return err
	}
	if schema == nil {
		return cellproto.Errorf(op, cellproto.Unsupported, "the cell was published without a schema, so that nobody knows whether %s is pure", name)
	}
	fn, err := schema.Function(name)
	if err == nil && !fn.Pure {
		return cellproto.Errorf(op, cellproto.BadInput, "%s is not pure: it would run several times", name).
			WithHint("Call it without --quorum; or declare it pure, if its reply follows from its arguments and it changes nothing.")
	}
	return err
}

// voteBody reads the body of a request into memory, since several are sent it.
func voteBody(op string, body io.Reader) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(body, maxVoteBody+1))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "cannot read the body: %w", err)
	}
	if len(data) > maxVoteBody {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "a body that several providers are sent has at most %d KiB", maxVoteBody>>10)
	}
	return slices.Clip(data), nil
}

// voters gives those who can be asked: the measured ones of the last race if they are enough, else of a
// race that takes its time.
func (c *Caller) voters(ctx context.Context, r *remote, q cellproto.Quorum, res *Result) ([]voter, error) {
	r.mu.Lock()
	before := r.decision
	r.mu.Unlock()
	if out := c.knownVoters(r); before != nil && (groups(out) >= q.Ask || groups(out) >= q.Agree && !before.Hurried) {
		res.Cached, res.Decided = true, before.At
		return out, nil
	}
	res.Raced, res.Decided = true, time.Now()
	for {
		d, err := c.raceNow(ctx, r, "use "+string(r.name), true)
		if err != nil {
			return nil, err
		}
		if out := c.knownVoters(r); !d.Hurried || groups(out) >= q.Ask {
			return out, nil
		} // a race that a call waited for was under way
	}
}

// knownVoters gives the measured providers of the last race, if that was not too long ago, but for those
// that have lied, and those of whom it is not known where they are.
func (c *Caller) knownVoters(r *remote) []voter {
	r.mu.Lock()
	d := r.decision
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	decided := race.Cached{Peer: d.Winner, Decided: d.At}
	if !decided.Serves(time.Now(), c.cfg.Policy) {
		return nil
	}
	var out []voter
	for _, k := range d.Ranking {
		if k.Out != "" || c.lied(k.Peer) {
			continue
		}
		v := voter{Ranked: k}
		if v.group, v.local = c.place(k.Peer); v.group != "" {
			out = append(out, v)
		}
	}
	return out
}

func groups(voters []voter) int {
	seen := map[string]bool{}
	for _, v := range voters {
		seen[v.group] = true
	}
	return len(seen)
}

// placeOf gives the group of a peer by the connection to it, which is where it really is. Without one it is not known: what
// it is said to have for an address may be anything. Whoever hung up is asked once a race has reached it again.
func (c *Caller) placeOf(p cellproto.PeerID) (group string, local bool) {
	id, err := peer.Decode(string(p))
	if err != nil || c.deps.Host == nil {
		return "", false
	}
	conns := c.deps.Host.Network().ConnsToPeer(id)
	for _, limited := range []bool{false, true} { // a direct one first
		for _, conn := range conns {
			if conn.Stat().Limited == limited {
				return groupOf(conn.RemoteMultiaddr(), p)
			}
		}
	}
	return "", false
}

// poll is one vote.
type poll struct {
	c    *Caller
	r    *remote
	op   string
	req  cellproto.Request // without a body
	body []byte            // of the request; nil: it has none
	want cellproto.Quorum

	beside  bool     // no call waits for it
	waiting []voter  // can be asked yet
	asked   []string // groups of those who were, and may not be again
	votes   []vote
	open    map[cellproto.PeerID]time.Time // who are asked, and when others are asked too if they are silent
	failed  []cellproto.PeerID
	last    error    // of those who failed
	trusts  []func() // end that others are called rather
	answers chan vote

	held *votesHeld // of its replies
	kept int64      // bytes of votes; only who takes them in looks at it
}

// hold asks so many, and further ones that a race finds where that is not clear. It gives the reply that
// counts, and holds it against the others that theirs is another one.
func (p *poll) hold(ctx context.Context, ask int) (attempt, error) {
	defer p.trust()
	half := time.Now().Add(untilHalf(ctx))
	p.round(ctx, ask)
	for races, idle := 0, 0; idle < maxIdleRecruits; races++ {
		if p.clear() || races >= p.recruits(half) || !p.recruit(ctx) {
			break
		}
		idle++
		if len(p.waiting) > 0 {
			idle = 0
			p.round(ctx, len(p.waiting))
		}
	}
	return p.judge(ctx)
}

// round asks so many, more in the place of those who fail or are silent, and all who are waiting once two
// replies differ.
func (p *poll) round(ctx context.Context, ask int) {
	voting, cancel := context.WithCancel(ctx)
	p.open, p.answers = map[cellproto.PeerID]time.Time{}, make(chan vote, len(p.waiting))
	defer func() {
		cancel()
		for len(p.open) > 0 { // they end at once
			v := <-p.answers
			if v.placed {
				p.held.leave()
			}
			late := v.Peer
			if time.Now().After(p.open[late]) && ctx.Err() == nil {
				p.c.outrun(p.r, late, p.req.Header.Func)
			}
			delete(p.open, late)
			p.failed = append(p.failed, late)
		}
		p.suspect()
	}()
	begin := time.Now()
	p.ask(voting, ask)
	patience := time.NewTimer(p.patience())
	defer patience.Stop()
	late := time.NewTimer(0)
	late.Stop()
	defer late.Stop()
	var stage tally // when late was set
	for len(p.open) > 0 {
		select {
		case v := <-p.answers:
			p.take(voting, v)
			p.suspect()
		case <-patience.C:
			if n := len(p.open); len(p.waiting) > 0 {
				p.ask(voting, n)
				patience.Reset(p.patience())
			}
		case <-late.C:
			return
		}
		took := time.Since(begin)
		switch t := count(p.votes); {
		case t.dissent && !stage.dissent: // everybody is asked now
			late.Reset(max(2*took, maxLateVote))
			stage = t
		case !t.dissent && t.agreed >= p.want.Agree && stage.votes == 0:
			late.Reset(min(max(took, minLateVote), maxLateVote))
			stage = t
		}
	}
}

// patience is how long the slowest of those who are asked may be silent before others are asked too.
func (p *poll) patience() (d time.Duration) {
	for _, until := range p.open {
		d = max(d, time.Until(until))
	}
	return d
}

// ask asks up to n more.
func (p *poll) ask(ctx context.Context, n int) {
	for ; n > 0 && len(p.waiting) > 0; n-- {
		v := p.waiting[0]
		p.waiting, p.asked = p.waiting[1:], append(p.asked, v.group)
		p.open[v.Peer] = time.Now().Add(lateAfter(ctx, v.Ranked))
		req := p.request()
		if !p.c.work.Go(func() { p.answers <- p.voteOf(ctx, v, &req) }) {
			p.answers <- vote{voter: v, a: attempt{from: v.Ranked, err: errStopping(p.op)}}
		}
	}
}

// voteOf gets the whole reply of one provider.
func (p *poll) voteOf(ctx context.Context, v voter, req *cellproto.Request) vote {
	out := vote{voter: v, a: p.c.callPeer(ctx, p.r, v.Ranked, req, time.Now())}
	if a := &out.a; a.err == nil {
		if out.placed, a.err = p.held.read(ctx, a.reply); a.err != nil {
			a.reply = nil
		}
	}
	if answers(&out.a) {
		out.digest = digestOf(&out.a)
	}
	return out
}

// take takes one answer in.
func (p *poll) take(ctx context.Context, v vote) {
	delete(p.open, v.Peer)
	if !answers(&v.a) {
		p.failed, p.last = append(p.failed, v.Peer), v.a.err
		p.ask(ctx, 1)
		return
	}
	p.votes = append(p.votes, v)
	p.keep(&p.votes[len(p.votes)-1])
	if count(p.votes).dissent {
		p.ask(ctx, len(p.waiting)) // somebody lies: the more are asked, the harder it is to be the most
	}
}

// judge gives the reply that counts, and lowers the reputation of those who gave another one.
func (p *poll) judge(ctx context.Context) (attempt, error) {
	t := count(p.votes)
	switch {
	case t.decided(p.want.Agree):
	case t.dissent:
		return attempt{}, cellproto.Errorf(p.op, cellproto.Corrupt, "the replies differ, and none has %d voices of %d and more than all others: %s", p.want.Agree, t.votes, p.described()).
			WithHint("Some of these providers lie or are broken; or the function is declared pure and is not. See them with cellctl race.")
	case ctx.Err() != nil:
		return attempt{}, cellproto.Errorf(p.op, cellproto.KindOf(ctx.Err()), "%d of the %d that must agree answered in time", t.votes, p.want.Agree)
	default:
		return attempt{}, cellproto.Errorf(p.op, cellproto.Unavailable, "%d of the %d that must agree answered; the last that did not: %w", t.votes, p.want.Agree, p.last).
			WithHint("See the providers with cellctl race; without --quorum one is enough.")
	}
	var winner *vote
	for i := range p.votes {
		v := &p.votes[i]
		if v.digest != t.winner {
			p.c.caught(p.r, v.Peer, t)
		} else if winner == nil || winner.dropped && !v.dropped {
			winner = v // the quickest
		}
	}
	if !winner.dropped {
		return winner.a, nil
	}
	return p.again(ctx, t)
}

// request gives the request for one more provider.
func (p *poll) request() cellproto.Request {
	req := p.req
	req.Header.Meta = maps.Clone(p.req.Header.Meta)
	if p.body != nil {
		req.Body = bytes.NewReader(p.body)
	}
	return req
}

// described says who gave which reply, for people: the replies by their hash.
func (p *poll) described() string {
	var parts []string
	for i := range p.votes {
		parts = append(parts, fmt.Sprintf("%s %x", p.votes[i].Peer, p.votes[i].digest[:4]))
	}
	return strings.Join(parts, ", ")
}

// report says how the vote went.
func (p *poll) report() *Quorum {
	t := count(p.votes)
	out := &Quorum{Want: p.want, Asked: t.votes, Agreed: t.agreed, Liars: []string{}, Silent: []string{}}
	local := 0
	for i := range p.votes {
		if v := &p.votes[i]; v.digest != t.winner {
			out.Liars = append(out.Liars, string(v.Peer))
		} else if v.local {
			local++
		}
	}
	for _, f := range p.failed {
		out.Silent = append(out.Silent, string(f))
	}
	slices.Sort(out.Silent)
	if local > 1 {
		out.Note = fmt.Sprintf("%d of those that agree have private addresses, which do not say whether they are different people's", local)
	}
	return out
}

// meta tells a program that asked for a quorum how it went.
func (q *Quorum) meta() map[string]string {
	out := map[string]string{cellproto.MetaAgreed: strconv.Itoa(q.Agreed), cellproto.MetaAsked: strconv.Itoa(q.Asked)}
	if len(q.Liars) > 0 {
		out[cellproto.MetaLiars] = strings.Join(q.Liars, " ")
	}
	return out
}

// caught notes that a provider gave another reply than most others.
func (c *Caller) caught(r *remote, p cellproto.PeerID, t tally) {
	now := time.Now()
	err := cellproto.Errorf("call "+string(p), cellproto.Corrupt, "it gave another reply than %d others", t.agreed)
	c.deps.Log.Warn("a provider gave a wrong reply, and is not asked for a while", zap.String("cell", string(r.name)), zap.Error(err))
	c.observe(now, p, err, 0)
	c.failed(now, r, p)
	r.unvouch(p)
	c.remember(0) // rare: who is banned is not asked
}

// lied says that a peer is banned for wrong answers.
func (c *Caller) lied(p cellproto.PeerID) bool {
	if !c.liars.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ban, _ := c.reputation.Banned(time.Now(), p)
	return ban == race.BanLying
}
