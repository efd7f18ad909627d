package call

import (
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// measured has the caller remember that calls to a provider took so long, some time ago.
func (c *Caller) measured(p *provider, took, ago time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 20 {
		c.reputation.Succeeded(time.Now().Add(-ago), cellproto.PeerID(peerText(p.host)), took)
	}
}

func (c *Caller) mustRace(t *testing.T, cell *published) *race.Decision {
	t.Helper()
	d, err := c.Race(t.Context(), cell.id.String())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// disconnect ends the connection to a provider, as its restart would.
func (c *Caller) disconnect(t *testing.T, cell *published, p *provider) {
	t.Helper()
	lk := c.links.live(cellproto.PeerID(peerText(p.host)), cell.id.String(), "")
	if err := c.deps.Host.Network().ClosePeer(p.host.ID()); err != nil {
		t.Fatal(err)
	}
	if lk != nil { // a race may have made the next one already
		<-lk.conn.Done()
	}
}

// few has races be held only for what happens.
func few(cfg *CallerConfig, _ *CallerDeps) {
	cfg.Policy = race.Policy{Keep: time.Hour, Stale: 2 * time.Hour, EveryCalls: 1 << 30, MinGap: time.Millisecond}
}

// A provider that was slow a while ago gets one call at a time, and is back when ten of them went well, without a race.
func TestTrialPassed(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, few)
	steady, well := all[0], all[1]
	c.measured(steady, 5*time.Second, 0)
	c.measured(well, 20*time.Second, 10*time.Second)
	if d := c.mustRace(t, cell); string(d.Winner) != peerText(steady.host) {
		t.Fatalf("%s wins with %+v", d.Winner, d.Ranking)
	}
	held := make(chan race.Log, 100)
	c.mu.Lock()
	c.watchers[held] = cell.id
	c.mu.Unlock()
	for range 10 {
		call(t, c, cell, "echo")
	}
	if n := well.program.begun.Load(); n != 10 {
		t.Errorf("it got %d calls of 10", n)
	}
	if res := call(t, c, cell, "echo"); res.Provider != peerText(well.host) || !res.Cached {
		t.Errorf("then %s answers, cached %t", res.Provider, res.Cached)
	}
	c.work.close()
	c.work.wait()
	for range len(held) {
		if why := (<-held).Why; why != race.Expired { // as those count that were asked for
			t.Errorf("a race was held: %q", why)
		}
	}
	if o := c.observed(cellproto.PeerID(peerText(well.host))); o.P99.Duration() > 5*time.Second || o.Failures != 0 {
		t.Errorf("what is remembered of it is %+v", o)
	}
}

// What a trial has shown is not undone by a race that had begun before.
func TestTrialPassedDuringRace(t *testing.T) {
	cell := publish(t, testSchema())
	steady, well := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(steady.host, well.host)
	c := use(t, cell, peers, few)
	c.measured(steady, 5*time.Second, 0)
	c.measured(well, 20*time.Second, 10*time.Second)
	c.mustRace(t, cell)
	peers.mu.Lock()
	peers.hangs = true // the race goes on for a second after the first has finished
	peers.mu.Unlock()
	raced := make(chan error, 1)
	go func() {
		_, err := c.Race(t.Context(), cell.id.String())
		raced <- err
	}()
	r := c.remote(cell.id)
	racing := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.racing != nil && len(r.asked.open) == 2 // both take part
	}
	eventually(t, "the race has begun", racing)
	for range 10 {
		call(t, c, cell, "echo")
	}
	if !racing() {
		t.Skip("this machine is so slow that the race is over already")
	}
	if err := <-raced; err != nil {
		t.Fatal(err)
	}
	if n := well.program.begun.Load(); n != 10 {
		t.Errorf("it got %d calls of 10", n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := peerText(well.host); string(r.winner.Peer) != id || string(r.decision.Winner) != id {
		t.Errorf("%s is the winner, of %+v", r.winner.Peer, r.decision.Ranking)
	}
}

// One that is still slow, whatever it says of itself, gets one call, which somebody else answers, and no other
// one. To be slow is no failure. Nor does it get one for connecting anew.
func TestTrialLost(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, few)
	steady, slow := all[0], all[1]
	c.measured(steady, 2*time.Second, 0)
	c.measured(slow, 20*time.Second, 10*time.Second)
	slow.program.handle = silent
	id := cellproto.PeerID(peerText(slow.host))
	for range 3 {
		if d := c.mustRace(t, cell); string(d.Winner) != peerText(steady.host) {
			t.Fatalf("%s wins with %+v", d.Winner, d.Ranking)
		}
		for range 200 {
			if res := call(t, c, cell, "echo"); res.Provider != peerText(steady.host) {
				t.Fatal("the slow one answered")
			}
		}
		c.disconnect(t, cell, slow)
	}
	if n := slow.program.begun.Load(); n != 1 {
		t.Errorf("it got %d calls", n)
	}
	if o := c.observed(id); o.Failures != 0 || o.P99.Duration() < 10*time.Second {
		t.Errorf("what is remembered of it is %+v", o)
	}
	if slow.server.Load().InFlight != 0 {
		eventually(t, "nothing is in flight", func() bool { return slow.server.Load().InFlight == 0 })
	}
}

// What is known of a provider that has come back on another connection is known to the race that finds it there.
func TestTrialAfterReconnecting(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, few)
	id := cellproto.PeerID(peerText(all[1].host))
	c.measured(all[1], 20*time.Second, 0)
	due := func() (wait time.Duration) {
		t.Helper()
		for _, k := range c.mustRace(t, cell).Ranking {
			if k.Peer == id {
				return time.Until(k.Due)
			}
		}
		t.Fatal("it is not in the race")
		return 0
	}
	if due() <= 0 {
		t.Error("it is tried at once on the connection on which it is slow")
	}
	all[1].cutLinks()
	eventually(t, "its link has ended", func() bool { return c.links.live(id, cell.id.String(), "") == nil })
	if due() <= 0 {
		t.Error("it is tried at once on another stream of that connection")
	}
	c.disconnect(t, cell, all[1])
	if wait := due(); wait > 0 {
		t.Errorf("on a new one it is tried after %v", wait)
	}
}

// What a provider tells of its load is of the last minutes.
func TestClaimFades(t *testing.T) {
	p := provide(t, publish(t, testSchema()), nil)
	for range 30 {
		p.server.Served(1, []time.Duration{time.Second})
	}
	if l := p.server.Load(); l.P99 == 0 {
		t.Error("nothing is measured")
	}
	p.server.mu.Lock()
	p.server.faded = p.server.faded.Add(-6 * claimHalf)
	p.server.mu.Unlock()
	if l := p.server.Load(); l.P50 != 0 || l.P99 != 0 {
		t.Errorf("minutes later it still says %v", l.P99.Duration())
	}
}
