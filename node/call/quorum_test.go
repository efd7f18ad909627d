package call

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// lie replies with something else than the function does.
func lie(text string) func(*cellproto.Inbound) {
	return func(in *cellproto.Inbound) {
		in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Appendf(nil, `{"text":%q}`, text))
	}
}

// electorate gives a caller and so many providers, all of which it has measured.
func electorate(t testing.TB, cell *published, n int, change func(*CallerConfig, *CallerDeps)) (*Caller, []*provider) {
	t.Helper()
	peers := &book{}
	var all []*provider
	for range n {
		p := provide(t, cell, nil)
		peers.add(p.host)
		all = append(all, p)
	}
	c := use(t, cell, peers, change)
	if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
		t.Fatal(err)
	}
	return c, all
}

func quorum(q, fn, text string) *cellproto.Request {
	req := request(fn, text)
	req.Header.Meta = map[string]string{cellproto.MetaQuorum: q}
	return req
}

func TestQuorumNamesTheLiar(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, nil)
	all[1].program.handle = lie("lie")
	liar := peerText(all[1].host)
	res, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	q := res.Quorum
	if string(res.Reply.Payload) != `{"text":"hello"}` || q == nil || q.Asked != 3 || q.Agreed != 2 || len(q.Liars) != 1 || q.Liars[0] != liar || len(q.Silent) > 0 {
		t.Fatalf("%s, %+v", res.Reply.Payload, q)
	}
	if m := res.Reply.Header.Meta; m[cellproto.MetaLiars] != liar || m[cellproto.MetaAgreed] != "2" || m[cellproto.MetaAsked] != "3" {
		t.Errorf("meta %v", m)
	}
	if !strings.Contains(q.Note, "private addresses") {
		t.Errorf("the note is %q: all of them are on loopback", q.Note)
	}
	if !c.lied(cellproto.PeerID(liar)) {
		t.Error("it is not banned")
	}
	// Nobody asks it while it is banned: no call, no race, no other quorum; and it is written down.
	before := all[1].program.begun.Load()
	for range 20 {
		call(t, c, cell, "echo")
	}
	if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
		t.Fatal(err)
	}
	res, err = try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
	if err != nil || res.Quorum.Asked != 2 || len(res.Quorum.Liars) > 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if n := all[1].program.begun.Load(); n != before {
		t.Errorf("it was called %d times more", n-before)
	}
	if ban, _ := openCache(c.cfg.Dir, c.deps.Log).reputation().Banned(time.Now(), cellproto.PeerID(liar)); ban != race.BanLying {
		t.Error("the ban is not written down")
	}
	for _, p := range all { // the programs have not seen how they were asked
		p.program.mu.Lock()
		for _, m := range p.program.metas {
			if m[cellproto.MetaQuorum] != "" {
				t.Errorf("meta %v", m)
			}
		}
		p.program.mu.Unlock()
	}
}

func TestQuorumRefuses(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, nil)
	for name, want := range map[string]struct {
		req  *cellproto.Request
		kind cellproto.Kind
		says string
	}{
		"idempotent":   {quorum("2of3", "count", "x"), cellproto.BadInput, "not pure"},
		"neither":      {quorum("2of3", "once", "x"), cellproto.BadInput, "not pure"},
		"unknown":      {quorum("2of3", "nothing", "x"), cellproto.NotFound, "nothing"},
		"no quorum":    {quorum("1of3", "echo", "x"), cellproto.BadInput, "1of3"},
		"too few":      {quorum("3of3", "echo", "x"), cellproto.Unavailable, "2 providers answer, and 3 must agree"},
		"a large body": {withBody(quorum("2of2", "total", "x"), maxVoteBody+1), cellproto.TooLarge, "body"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := try(t, c, cell.id.String(), want.req)
			wantKind(t, err, want.kind)
			if !strings.Contains(err.Error(), want.says) {
				t.Errorf("it says %v", err)
			}
			if want.kind == cellproto.BadInput && cellproto.HintOf(err) == "" {
				t.Error("without a hint")
			}
		})
	}
	for _, p := range all {
		if n := p.program.begun.Load(); n != 0 {
			t.Errorf("it was called %d times", n)
		}
	}
}

func withBody(req *cellproto.Request, n int) *cellproto.Request {
	req.Body = strings.NewReader(strings.Repeat("x", n))
	return req
}

// Bodies, both ways, and errors are replies like all others.
func TestQuorumOfEverySort(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, nil)
	all[2].program.handle = func(in *cellproto.Inbound) {
		in.ReplyBody(cellproto.Header{}, strings.NewReader(strings.Repeat("another ", 100_000)))
	}
	check := func(res *Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if res.Quorum.Agreed != 2 {
			t.Errorf("%+v", res.Quorum)
		}
	}
	res, err := try(t, c, cell.id.String(), quorum("2of3", "big", "x"))
	check(res, err)
	if n := len(res.Reply.Payload); n != 1_000_000 || len(res.Quorum.Liars) != 1 {
		t.Errorf("%d bytes, %+v", n, res.Quorum)
	}
	res, err = try(t, c, cell.id.String(), withBody(quorum("2of2", "total", "x"), 100_000))
	check(res, err)
	if string(res.Reply.Payload) != "100000" {
		t.Errorf("%s", res.Reply.Payload)
	}
	_, err = try(t, c, cell.id.String(), quorum("2of2", "fail", "x"))
	wantKind(t, err, cellproto.FuncError)
}

// Four different replies: none counts, and nobody is held to have lied.
func TestQuorumWithoutMajority(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 4, nil)
	for i, p := range all[1:] {
		p.program.handle = lie(fmt.Sprint("lie ", i))
	}
	_, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
	wantKind(t, err, cellproto.Corrupt)
	if !strings.Contains(err.Error(), "none has 2 voices of 4") || cellproto.HintOf(err) == "" {
		t.Errorf("it says %v", err)
	}
	for _, p := range all {
		if c.lied(cellproto.PeerID(peerText(p.host))) {
			t.Error("somebody is banned")
		}
	}
}

// Providers in the place of those who fail, and of those who are silent.
func TestQuorumAsksOthers(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 5, nil)
	all[0].program.places = 0
	all[1].program.handle = silent
	all[2].host.Close()
	for range 5 {
		res, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
		if err != nil {
			t.Fatal(err)
		}
		if res.Quorum.Agreed != 2 || len(res.Quorum.Liars) > 0 {
			t.Errorf("%+v", res.Quorum)
		}
	}
	eventually(t, "nobody is left waiting", func() bool { return all[1].server.Load().InFlight == 0 })
}

// Providers of one address prefix count as one.
func TestQuorumOfDistinctPrefixes(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 6, nil)
	farm := map[cellproto.PeerID]bool{}
	for _, p := range all[:3] { // three of six, and all say the same
		p.program.handle = lie("lie")
		farm[cellproto.PeerID(peerText(p.host))] = true
	}
	c.place = func(p cellproto.PeerID) (string, bool) {
		if farm[p] {
			return "192.0.2.0/24", false
		}
		return string(p), false
	}
	for range 10 {
		res, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
		if err != nil || string(res.Reply.Payload) != `{"text":"hello"}` || res.Quorum.Note != "" {
			t.Fatalf("%+v: %v", res, err)
		}
	}
	c.place = func(cellproto.PeerID) (string, bool) { return "192.0.2.0/24", false }
	_, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
	wantKind(t, err, cellproto.Unavailable)
	if !strings.Contains(err.Error(), "in 1 networks only") || !strings.Contains(cellproto.HintOf(err), "/24") {
		t.Errorf("it says %v", err)
	}
}

// Two of three who lie together are outvoted by all others, since somebody differs.
func TestQuorumAgainstCollusion(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 8, nil)
	for _, p := range all[:3] {
		p.program.handle = lie("lie")
	}
	wrong := 0
	for range 30 {
		res, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
		if err != nil {
			t.Fatal(err)
		}
		if string(res.Reply.Payload) != `{"text":"hello"}` {
			wrong++ // all three that were asked were of them: 1 of 56
		}
	}
	t.Logf("%d wrong replies of 30", wrong)
	if wrong > 3 {
		t.Errorf("%d wrong replies of 30", wrong)
	}
	for i, p := range all {
		if got := c.lied(cellproto.PeerID(peerText(p.host))); got != (i < 3) {
			t.Errorf("provider %d: banned is %v", i, got)
		}
	}
}

// Where those of one race are evenly split, others are looked for.
func TestQuorumRecruits(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 4, nil)
	for _, p := range all[:2] {
		p.program.handle = lie("lie")
	}
	book := c.deps.Finder.(*book)
	var late []*provider
	for range 2 {
		p := provide(t, cell, nil)
		late = append(late, p)
		book.add(p.host) // no race has seen it yet
	}
	res, err := try(t, c, cell.id.String(), quorum("3of4", "echo", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	if string(res.Reply.Payload) != `{"text":"hello"}` || res.Quorum.Asked != 6 || res.Quorum.Agreed != 4 || len(res.Quorum.Liars) != 2 {
		t.Errorf("%s, %+v", res.Reply.Payload, res.Quorum)
	}
	for _, p := range late {
		if n := p.program.begun.Load(); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
	}
}

// Who has voted is no further voice because it is met at an address of another network by now.
func TestVoterIsHeardOnce(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, nil)
	r := c.remote(cell.id)
	p := &poll{c: c, r: r, op: "ask", beside: true, asked: []string{"another network"}}
	voters := c.knownVoters(r)
	if len(voters) != len(all) {
		t.Fatalf("%d are known", len(voters))
	}
	p.votes, p.failed = []vote{{voter: voters[0]}}, []cellproto.PeerID{voters[1].Peer}
	if !p.recruit(t.Context()) || len(p.waiting) != 1 || p.waiting[0].Peer != voters[2].Peer {
		t.Errorf("%d can be asked: %+v", len(p.waiting), p.waiting)
	}
}

// growing is a book to which each search adds some.
type growing struct {
	*book
	mu   sync.Mutex
	next [][]host.Host
}

func (g *growing) Find(ctx context.Context, id cid.Cid) (<-chan Found, func() string) {
	g.mu.Lock()
	if len(g.next) > 0 {
		g.add(g.next[0]...)
		g.next = g.next[1:]
	}
	g.mu.Unlock()
	return g.book.Find(ctx, id)
}

// Where as many lie alike as do not, more races are held for somebody who decides.
func TestQuorumGoesOnWhileNothingIsDecided(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, nil)
	all[0].program.handle = lie("lie")
	finder := &growing{book: c.deps.Finder.(*book)}
	for range maxRecruits {
		liar, honest := provide(t, cell, nil), provide(t, cell, nil)
		liar.program.handle = lie("lie")
		finder.next = append(finder.next, []host.Host{liar.host, honest.host})
	}
	finder.next = append(finder.next, []host.Host{provide(t, cell, nil).host})
	c.deps.Finder = finder
	res, err := try(t, c, cell.id.String(), quorum("2of2", "echo", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	if q := res.Quorum; string(res.Reply.Payload) != `{"text":"hello"}` || q.Agreed != maxRecruits+2 || len(q.Liars) != maxRecruits+1 {
		t.Errorf("%s, %+v", res.Reply.Payload, q)
	}
}

// A target that is no published cell has nobody else to ask.
func TestQuorumOfANucleus(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := use(t, cell, &book{}, func(cfg *CallerConfig, _ *CallerDeps) {
		cfg.RemoteCells = map[string]string{"echo": l.Addr().String()}
	})
	_, err = try(t, c, "echo", quorum("2of3", "echo", "x"))
	wantKind(t, err, cellproto.BadInput)
	if n := p.program.begun.Load(); n != 0 {
		t.Errorf("called %d times", n)
	}
}

// Calls do not wait for the checks of their replies, and who is caught by one is not called any more.
func TestSpotCheck(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 4, func(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 1 })
	winner := call(t, c, cell, "once").Provider // not pure: not checked
	if n := c.checked.Load(); n != 0 {
		t.Fatalf("%d checks", n)
	}
	liar := slices.IndexFunc(all, func(p *provider) bool { return peerText(p.host) == winner })
	hold := make(chan struct{})
	for i, p := range all {
		p.program.handle = func(in *cellproto.Inbound) { <-hold; answer(in) }
		if i == liar {
			p.program.handle = lie("lie")
		}
	}
	res := call(t, c, cell, "echo") // the others do not answer yet
	if string(res.Reply.Payload) != `{"text":"lie"}` || res.Provider != winner {
		t.Fatalf("%s by %s", res.Reply.Payload, res.Provider)
	}
	close(hold)
	eventually(t, "it is caught", func() bool { return c.lied(cellproto.PeerID(winner)) })
	for range 10 {
		if res := call(t, c, cell, "echo"); res.Provider == winner {
			t.Fatal("it is called again")
		}
	}
	eventually(t, "the checks end", func() bool { return c.checks.Load() == 0 })
	if n := c.checked.Load(); n < 2 {
		t.Errorf("%d checks", n)
	}
	for i, p := range all {
		if got := c.lied(cellproto.PeerID(peerText(p.host))); got != (i == liar) {
			t.Errorf("provider %d: banned is %v", i, got)
		}
	}
}

// Whoever lies from the first reply on is caught by that one, however rarely replies are checked.
func TestFirstReplyIsChecked(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, seldom)
	winner := c.remote(cell.id).decision.Winner
	for _, p := range all {
		if peerOf(p) == winner {
			p.program.handle = lie("lie")
		}
	}
	if res := call(t, c, cell, "echo"); res.Provider != string(winner) {
		t.Fatalf("%s has answered, not the one who lies", res.Provider)
	}
	eventually(t, "it is caught", func() bool { return c.lied(winner) })
	wrong := 0
	for range 100 {
		if res := call(t, c, cell, "echo"); string(res.Reply.Payload) != `{"text":"hello"}` {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d replies were wrong after that", wrong)
	}
}

// As long as it is not clear yet who lies, calls go to others than those who differ from most.
func TestSuspectIsNotCalled(t *testing.T) {
	cell, peers := publish(t, testSchema()), &book{}
	var all []*provider
	for range 8 {
		all = append(all, provide(t, cell, nil))
		peers.add(all[len(all)-1].host)
	}
	c := use(t, cell, peers, seldom)
	if d := c.mustRace(t, cell); groups(c.knownVoters(c.remote(cell.id))) < len(all) {
		t.Fatalf("not all were measured: %+v", d.Ranking)
	}
	peers.mu.Lock()
	peers.hangs = true // so that a race for more voters takes its time
	peers.mu.Unlock()
	r := c.remote(cell.id)
	decided := func() *race.Decision { r.mu.Lock(); defer r.mu.Unlock(); return r.decision }
	first := decided()
	winner, liars := first.Winner, 0
	for i, p := range all {
		if peerOf(p) == winner || liars < 2 {
			p.program.handle = lie(fmt.Sprint("lie", i)) // three of eight do, so that less than two thirds agree
		}
		if peerOf(p) != winner {
			liars++
		}
	}
	elsewhere := 0
	call(t, c, cell, "echo")
	for decided() == first && !c.lied(winner) { // until that race is over
		if res := call(t, c, cell, "once"); res.Provider != string(winner) {
			elsewhere++
		}
	}
	if elsewhere == 0 {
		t.Error("all calls went to it")
	}
	eventually(t, "it is caught", func() bool { return c.lied(winner) })
	eventually(t, "the checks end", func() bool { return c.checks.Load() == 0 })
	for _, p := range all {
		if c.shuns(peerOf(p)) {
			t.Error("somebody is suspected after that")
		}
	}
}

// hurried has the last race be one that has measured the best n only.
func hurried(r *remote, n int) race.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := *r.decision
	d.Hurried, d.Ranking = true, d.Ranking[:n]
	r.decision = &d
	return d
}

// The first race is over as soon as there is somebody to be called. Those whom it has measured do not decide by themselves who lies.
func TestFewDoNotDecideWhoLies(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 8, seldom)
	r := c.remote(cell.id)
	few := hurried(r, 3)
	liars := few.Ranking[1:]
	lies := func(p *provider) bool {
		return slices.ContainsFunc(liars, func(k race.Ranked) bool { return k.Peer == peerOf(p) })
	}
	for _, p := range all {
		if lies(p) {
			p.program.handle = lie("lie")
		}
	}
	call(t, c, cell, "echo")
	eventually(t, "it is known who lies", func() bool { return c.checked.Load() == 1 && c.checks.Load() == 0 })
	for _, p := range all {
		if got := c.lied(peerOf(p)); got != lies(p) {
			t.Errorf("who lies is %v of one that lies: %v", got, lies(p))
		}
	}
}

// seldom has next to no reply be checked but the first ones.
func seldom(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 1e-12 }

// How many replies of one who always lies are given out depends on how long a check takes, not on how rare checks are.
func TestLiarsRepliesAreFew(t *testing.T) {
	const calls, tries = 300, 3
	least := calls
	for range tries { // of which one has to be made while this machine is not busy
		cell := publish(t, testSchema())
		c, all := electorate(t, cell, 5, func(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 0.01 })
		winner := c.remote(cell.id).decision.Winner
		for _, p := range all {
			if peerOf(p) == winner {
				p.program.handle = lie("lie")
			}
		}
		wrong := 0
		for range calls {
			if res := call(t, c, cell, "echo"); string(res.Reply.Payload) != `{"text":"hello"}` {
				wrong++
			}
		}
		t.Logf("%d of %d replies were wrong", wrong, calls)
		least = min(least, wrong)
	}
	if least > calls/20 {
		t.Errorf("%d of %d replies were wrong at least", least, calls)
	}
}

// Those who do not lie are checked a few times, within what hedges may cost, and then no more than others.
func TestFirstChecksAreFew(t *testing.T) {
	for name, providers := range map[string]int{"of two": 2, "of one": 1} {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			c, _ := electorate(t, cell, providers, func(cfg *CallerConfig, deps *CallerDeps) { seldom(cfg, deps); few(cfg, deps) })
			const calls = 200
			for range calls {
				call(t, c, cell, "echo")
				eventually(t, "the check is over", func() bool { return c.checks.Load() == 0 })
			}
			n, most := int(c.checked.Load()), providers*firstChecks // some calls may be answered by the other one
			if alone := providers == 1; n > most || alone != (n == 0) {
				t.Errorf("%d checks of %d replies of %d providers", n, calls, providers)
			}
		})
	}
}

// Of two who differ nobody knows who lies.
func TestSpotCheckOfTwo(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, func(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 1 })
	all[0].program.handle = lie("lie")
	call(t, c, cell, "echo")
	eventually(t, "it was checked", func() bool { return c.checked.Load() == 1 && c.checks.Load() == 0 })
	for _, p := range all {
		if c.lied(cellproto.PeerID(peerText(p.host))) {
			t.Error("somebody is banned")
		}
	}
}

// A function that gives another reply everywhere is not pure, whatever it says, and not checked each time.
func TestSpotCheckOfWhatIsNotPure(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 4, func(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 1 })
	for i, p := range all {
		p.program.handle = lie(fmt.Sprint(i))
	}
	for range 20 {
		call(t, c, cell, "echo")
		eventually(t, "the check is over", func() bool { return c.checks.Load() == 0 })
	}
	if n := c.checked.Load(); n != 1 {
		t.Errorf("%d checks", n)
	}
	for _, p := range all {
		if c.lied(cellproto.PeerID(peerText(p.host))) {
			t.Error("somebody is banned")
		}
	}
}

// The share is that of cell.toml.
func TestSpotCheckShare(t *testing.T) {
	cell := publish(t, testSchema())
	c, _ := electorate(t, cell, 2, func(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 0.1 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 1000 {
		if _, err := c.Call(ctx, cell.id.String(), request("echo", "x")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "there is room for a check", func() bool { return c.checks.Load() < maxChecks })
	}
	if n := c.checked.Load(); n < 50 || n > 170 { // 100 and five times the deviation of 9.5 above, or more
		t.Errorf("%d of 1000 were checked, at a share of 0.1", n)
	}
}

// A program asks for a quorum by the meta of its request, and reads in the reply's how it went; a provider
// cannot write there.
func TestProgramAsksAQuorum(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 4, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Deps = map[string]string{"math": cell.id.String()} })
	all[3].program.handle = func(in *cellproto.Inbound) {
		in.Reply(cellproto.Header{Codec: cellproto.JSON, Meta: map[string]string{cellproto.MetaLiars: "you"}}, []byte(`"lie"`))
	}
	mine := newFakeProgram(t)
	mine.accept = c.Accept
	if _, err := mine.Conn(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(fn, q string) (*cellproto.Reply, error) {
		req := quorum(q, fn, "x")
		req.Header.To = "math"
		return mine.far.Call(t.Context(), req)
	}
	reply, err := ask("echo", "3of4")
	if err != nil || string(reply.Payload) != `{"text":"x"}` {
		t.Fatalf("%+v, %v", reply, err)
	}
	if m := reply.Header.Meta; m[cellproto.MetaAgreed] != "3" || m[cellproto.MetaAsked] != "4" || m[cellproto.MetaLiars] != peerText(all[3].host) {
		t.Errorf("meta %v", m)
	}
	if reply, err = ask("big", "2of3"); err != nil {
		t.Fatal(err)
	}
	if body, err := reply.Bytes(4 << 20); err != nil || len(body) != 1_000_000 || reply.Header.Meta[cellproto.MetaAgreed] == "" {
		t.Errorf("%d bytes, %v, %v", len(body), reply.Header.Meta, err)
	}
	_, err = ask("once", "2of3")
	wantKind(t, err, cellproto.BadInput)
}

// Whoever has hung up since the race is nowhere, whatever addresses it is said to have: else those of one network could be in
// as many as they like. It takes part once it was reached again.
func TestVotersAreWhereTheyAreConnected(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, rare)
	r := c.remote(cell.id)
	gone := all[0].host.ID()
	r.mu.Lock()
	info := r.infos[cellproto.PeerID(gone.String())]
	info.Addrs = append([]multiaddr.Multiaddr{multiaddr.StringCast("/ip4/203.0.113.7/tcp/1")}, info.Addrs...)
	r.infos[cellproto.PeerID(gone.String())] = info
	r.mu.Unlock()
	if err := c.deps.Host.Network().ClosePeer(gone); err != nil {
		t.Fatal(err)
	}
	for _, v := range c.knownVoters(r) {
		if string(v.Peer) == gone.String() {
			t.Errorf("it is in %q", v.group)
		}
	}
	if n := len(c.knownVoters(r)); n != 2 {
		t.Errorf("%d can be asked", n)
	}
	res, err := try(t, c, cell.id.String(), quorum("3of3", "echo", "hello"))
	if err != nil || res.Quorum.Agreed != 3 || !res.Raced {
		t.Errorf("%+v, %v", res, err)
	}
}
