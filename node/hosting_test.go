package node

import (
	"os"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
	"github.com/celldnet/celld/node/give"
)

// The time in which a mirror cannot be called is not held against it.
func TestIdle(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(m int) time.Time { return now.Add(-time.Duration(m) * time.Minute) }
	for name, c := range map[string]struct {
		running           bool
		state             string
		used, up, resumed time.Time
		want              time.Duration
	}{
		"nobody calls it":                {true, stateRunning, ago(30), ago(60), ago(90), 30 * time.Minute},
		"the machine was in use":         {true, stateRunning, ago(600), ago(5), ago(5), 5 * time.Minute},
		"it did not run":                 {true, stateRunning, ago(600), ago(7), ago(90), 7 * time.Minute},
		"the machine is in use":          {false, statePaused, ago(600), ago(60), ago(90), 0},
		"it is just being taken up":      {true, stateTaking, ago(30), ago(30), ago(90), 0},
		"it was called just a while ago": {true, stateRunning, ago(1), ago(60), ago(90), time.Minute},
	} {
		h := &hosting{running: c.running, since: c.resumed}
		got := h.idle(&hostedCell{used: c.used, row: give.Row{State: c.state, Since: c.up}}, now)
		if got != c.want {
			t.Errorf("%s: it is idle for %v, want %v", name, got, c.want)
		}
	}
}

// Only calls keep a hosted mirror: that its nucleus ends and is started anew, as after each pause, is none.
func TestUnusedAcrossRestarts(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	h, c := &hosting{}, &hostedCell{used: begin}
	for _, s := range []struct {
		after  time.Duration
		served int64
		unused time.Duration
	}{
		{time.Minute, 0, time.Minute},
		{2 * time.Minute, 5, 0},
		{5 * time.Minute, 5, 3 * time.Minute},
		{time.Hour, 0, 58 * time.Minute}, // started anew
		{2 * time.Hour, 1, 0},
		{3 * time.Hour, 1, time.Hour},
	} {
		if got := h.note(c, &ctl.Metrics{Served: s.served}, 0, begin.Add(s.after)); got != s.unused {
			t.Errorf("after %v it was unused for %v, want %v", s.after, got, s.unused)
		}
	}
}

// What it reads and writes is told as a rate, for as long as it runs.
func TestHostedDisk(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	h, c := &hosting{}, &hostedCell{used: begin}
	for i, s := range []struct{ total, rate int64 }{{1000, 0}, {11_000, 2000}, {11_000, 0}, {500, 0}, {5500, 1000}} {
		h.note(c, &ctl.Metrics{}, s.total, begin.Add(time.Duration(i)*renewEvery))
		if got := c.row.DiskBPS; got != s.rate {
			t.Errorf("at %d bytes after %d times: %d a second, want %d", s.total, i, got, s.rate)
		}
	}
	h.note(c, &ctl.Metrics{}, 50_000, begin.Add(5*renewEvery))
	if h.set(c, statePaused, nil); c.row.DiskBPS != 0 {
		t.Errorf("paused it moves %d bytes a second", c.row.DiskBPS)
	}
}

// A mirror that nobody calls makes room for one that is to be started. If that runs it goes; if that never says hello it has
// its place again, and nothing of it is lost.
func TestRoomIsForWhatRuns(t *testing.T) {
	for _, runs := range []bool{true, false} {
		store, made := aMirror(t, true)
		n := &nucleus{log: zap.NewNop(), mirrors: &mirrors{store: store}}
		n.giver = give.New(give.Config{Dir: t.TempDir()}, give.Deps{Log: n.log})
		old := &hostedCell{row: give.Row{CID: made.CID, Dir: made.Dir, State: stateRunning}, leaving: true}
		newer := &hostedCell{row: give.Row{CID: "newer", State: stateTaking}, instead: made.CID}
		h := &hosting{
			n: n, log: n.log, ctx: t.Context(), running: true, kick: make(chan struct{}, 1),
			cells: map[string]*hostedCell{made.CID: old, "newer": newer},
		}
		n.giver.Attach(h)
		_ = h.place("newer", t.TempDir()) // what it gets is nothing, since nobody has looked at this machine
		if _, err := os.Stat(made.Dir); err != nil {
			t.Fatalf("before the other one runs: %v", err)
		}
		if rows := h.Rows(t.Context()); len(rows) != 2 || !h.resting(old) || old.row.State != statePaused {
			t.Errorf("meanwhile: %+v, resting %v", rows, h.resting(old))
		}
		again := offer.Offer{Cell: cid.MustParse(made.CID)}
		if _, _, err := h.admit(t.Context(), offer.Asker{}, again, &signed.Manifest{}); cellproto.KindOf(err) != cellproto.Overloaded {
			t.Errorf("meanwhile it is taken up again: %v", err)
		}
		if err := h.hold(old); cellproto.KindOf(err) != cellproto.Overloaded { // by who was admitted before
			t.Errorf("meanwhile it is started: %v", err)
		}
		h.mu.Lock()
		replaced := h.settle(newer, runs)
		h.mu.Unlock()
		if replaced != nil {
			h.replaced(replaced)
		}
		_, err := os.Stat(made.Dir)
		if gone := os.IsNotExist(err); gone != runs || err != nil && !gone {
			t.Errorf("the other one runs: %v; the old one: %v", runs, err)
		}
		if runs {
			if h.cells[made.CID] != nil {
				t.Error("it is gone, and hosted")
			}
			continue
		}
		if old.leaving || h.resting(old) || len(h.kick) != 1 {
			t.Errorf("leaving %v, resting %v; %d looks are to come", old.leaving, h.resting(old), len(h.kick))
		}
	}
}

// A copy that is its owner's own by the time that another one has its room stays.
func TestReplacedIsTheOwners(t *testing.T) {
	store, made := aMirror(t, false)
	n := &nucleus{log: zap.NewNop(), mirrors: &mirrors{store: store}}
	old := &hostedCell{row: give.Row{CID: made.CID, Dir: made.Dir, State: statePaused}, leaving: true, rests: true}
	h := &hosting{n: n, log: n.log, ctx: t.Context(), running: true, cells: map[string]*hostedCell{made.CID: old}}
	if err := h.makeRoom(t.Context(), made.CID); err != nil {
		t.Error(err)
	}
	h.cells[made.CID] = old
	h.replaced(old)
	if _, err := os.Stat(made.Dir); err != nil || h.cells[made.CID] != nil {
		t.Errorf("%v; still hosted: %v", err, h.cells[made.CID] != nil)
	}
}
