package call

import (
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// seldomFew is seldom and few.
func seldomFew(cfg *CallerConfig, deps *CallerDeps) { seldom(cfg, deps); few(cfg, deps) }

// A first check that could not be begun is not one that was tried: the next reply is checked.
func TestFirstCheckIsTriedAgain(t *testing.T) {
	for name, is := range map[string]struct{ blocked, free func(c *Caller, r *remote) }{
		"too many go on":           {func(c *Caller, _ *remote) { c.checks.Store(maxChecks) }, func(c *Caller, _ *remote) { c.checks.Store(0) }},
		"the function is not pure": {func(_ *Caller, r *remote) { r.uncheck("echo") }, func(_ *Caller, r *remote) { delete(r.unchecked, "echo") }},
	} {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			c, _ := electorate(t, cell, 1, seldomFew)
			c.work.close() // so that none is under way, or over
			c.work.wait()
			r, req := c.remote(cell.id), request("echo", "x")
			a := attempt{from: r.decision.Ranking[0], reply: &cellproto.Reply{}}
			spent := r.hedges
			is.blocked(c, r)
			c.spotCheck(r, &policy{pure: true}, req, &a)
			if r.hedges != spent {
				t.Error("it was paid for")
			}
			is.free(c, r)
			if !r.unknown(a.from.Peer) {
				t.Error("it is not tried again")
			}
		})
	}
}

// A liar that is so near that the first race has measured nobody else is caught by its first reply too.
func TestFirstReplyOfTheOnlyOneMeasured(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 5, seldomFew)
	one := hurried(c.remote(cell.id), 1)
	for _, p := range all {
		if peerOf(p) == one.Winner {
			p.program.handle = lie("lie")
		}
	}
	call(t, c, cell, "echo")
	eventually(t, "the check is over", func() bool { return c.checks.Load() == 0 })
	for _, p := range all {
		if got := c.lied(peerOf(p)); got != (peerOf(p) == one.Winner) {
			t.Errorf("who lies is %v of %s; %s does", got, peerOf(p), one.Winner)
		}
	}
}

// One who was caught begins anew: its first replies are checked when it is called again.
func TestCaughtIsUnknown(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, seldomFew)
	r, liar := c.remote(cell.id), all[0]
	r.mu.Lock()
	r.vouched = map[cellproto.PeerID]vouched{peerOf(liar): {passed: firstChecks}}
	r.mu.Unlock()
	if r.unknown(peerOf(liar)) {
		t.Fatal("it is unknown before")
	}
	liar.program.handle = lie("lie")
	eventually(t, "it is caught", func() bool { // by the first one, if it is not late
		_, err := try(t, c, cell.id.String(), quorum("2of3", "echo", "hello"))
		return err == nil && c.lied(peerOf(liar))
	})
	if !r.unknown(peerOf(liar)) {
		t.Error("what it replies next is not checked")
	}
}
