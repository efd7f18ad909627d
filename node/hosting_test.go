package node

import (
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
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
