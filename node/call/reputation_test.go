package call

import (
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A peer that is banned for failures is asked when nobody else is left, and takes part again as soon as
// the ban is over: whoever was restarted and is well comes back. What it did well ends the ban.
func TestBannedPeerComesBack(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, nil)
	bad := cellproto.PeerID(peerText(all[0].host))
	fail := func(ago time.Duration) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range 3 {
			c.reputation.Failed(time.Now().Add(-ago+time.Duration(i)*time.Second), bad)
		}
	}
	inRace := func() bool {
		t.Helper()
		d, err := c.Race(t.Context(), cell.id.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range d.Ranking {
			if k.Peer == bad {
				return k.Out == ""
			}
		}
		return false
	}
	fail(10 * time.Second)
	if c.observed(bad).Ban != race.BanFailing || inRace() {
		t.Error("it is raced while it is banned")
	}
	before := all[0].program.begun.Load()
	all[1].stop()
	for range 3 {
		if res := call(t, c, cell, "count"); res.Provider != string(bad) {
			t.Fatal("who else?")
		}
	}
	if all[0].program.begun.Load() == before || c.observed(bad).Ban != race.BanNone {
		t.Error("it served, and is banned still")
	}
	c.mu.Lock()
	c.reputation = race.NewReputation()
	c.mu.Unlock()
	fail(race.FirstBan + 10*time.Second)
	if c.observed(bad).Ban != race.BanNone || !inRace() {
		t.Error("its ban is over, and it is not raced")
	}
}

// What was learned of peers outlives the nucleus.
func TestReputationIsKept(t *testing.T) {
	cell := publish(t, testSchema())
	dir := t.TempDir()
	c, _ := electorate(t, cell, 2, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Dir = dir })
	id := cellproto.PeerID(call(t, c, cell, "once").Provider)
	for range 20 {
		call(t, c, cell, "once")
	}
	now := time.Now()
	c.observe(now, id, cellproto.Errorf("call", cellproto.Unavailable, "gone"), 0)
	want := c.observed(id)
	c.Close()
	again := use(t, cell, &book{}, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Dir = dir })
	got := again.observed(id)
	if got.Calls != want.Calls || got.P99 != want.P99 || got.P50 != want.P50 || got.Failures != 1 || got.Penalty == 0 {
		t.Errorf("%+v is remembered as %+v", want, got)
	}
}

// A provider that refuses each call, and answers pings as quickly as nobody else, is not asked first for long.
func TestRefuser(t *testing.T) {
	const far, calls = 40 * time.Millisecond, 20
	for _, kind := range []cellproto.Kind{
		cellproto.Denied, cellproto.NotFound, cellproto.Incompatible, cellproto.TooLarge, cellproto.Unsupported,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			cell := publish(t, testSchema())
			c, all := electorate(t, cell, 2, nil)
			refuser, other := all[0], all[1]
			c.measured(refuser, time.Millisecond, 0)
			c.measured(other, far, 0)
			if d := c.mustRace(t, cell); string(d.Winner) != peerText(refuser.host) {
				t.Fatalf("%s wins with %+v", d.Winner, d.Ranking)
			}
			refuser.program.handle = func(in *cellproto.Inbound) {
				in.ReplyError(cellproto.Errorf("call", kind, "it is not taken"))
			}
			other.program.handle = func(in *cellproto.Inbound) {
				time.Sleep(far) // that is where it is
				answer(in)
			}
			before := refuser.program.begun.Load()
			for range calls {
				call(t, c, cell, "once")
			}
			if n := refuser.program.begun.Load() - before; n > calls/3 {
				t.Errorf("it was asked for %d of %d calls", n, calls)
			}
		})
	}
}
