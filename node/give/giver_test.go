package give

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// fakeSensors see a quiet server, unless a test says otherwise.
type fakeSensors struct {
	mu      sync.Mutex
	snap    Snapshot
	looks   int
	glances int
	patient bool // it may take long to glance
}

func (f *fakeSensors) Look(context.Context, Usage) Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	s := f.snap
	s.At = time.Now()
	return s
}

func (f *fakeSensors) Glance(ctx context.Context, ours func() Usage, s Snapshot) Snapshot {
	ours()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.glances++
	_, f.patient = ctx.Deadline()
	s.Input, s.Load.Others = f.snap.Input, f.snap.Load.Others
	return s
}

func (f *fakeSensors) Close() {}

func (f *fakeSensors) touch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snap.Input = Input{State: Yes, Last: time.Now()}
}

// busy has others use so many percent of the processors.
func (f *fakeSensors) busy(percent float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snap.Load.Others = percent
}

// waits says whether the last glance might have taken long.
func (f *fakeSensors) waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.patient
}

func (f *fakeSensors) counts() (looks, glances int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks, f.glances
}

// fakeHosted notes what it is told, and when.
type fakeHosted struct {
	mu   sync.Mutex
	log  []string
	rows []Row
	err  error
	from time.Time
}

func (f *fakeHosted) note(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := fmt.Sprintf("%v %s", time.Since(f.from), what)
	if n := len(f.log); n == 0 || !strings.HasSuffix(f.log[n-1], " "+what) { // repeats are no news
		f.log = append(f.log, line)
	}
	return f.err
}

func (f *fakeHosted) Pause(_ context.Context, why string) error { return f.note("pause: " + why) }
func (f *fakeHosted) Resume(context.Context) error              { return f.note("resume") }
func (f *fakeHosted) Clear(context.Context) error {
	f.mu.Lock()
	f.rows = nil
	f.mu.Unlock()
	return f.note("clear")
}

func (f *fakeHosted) Rows(context.Context) []Row {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rows
}

func (f *fakeHosted) host(rows ...Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows = rows
}

func (f *fakeHosted) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

type fakeLimiter struct {
	mu     sync.Mutex
	caps   Caps
	err    error
	used   Usage
	groups map[string]string
	leaves int
}

func (f *fakeLimiter) Set(c Caps) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caps = c
	return f.err
}

func (f *fakeLimiter) Leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaves++
}

func (f *fakeLimiter) Used([]Row) Usage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}
func (f *fakeLimiter) Groups() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups
}

func (f *fakeLimiter) be(groups map[string]string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups, f.err = groups, err
}

func (f *fakeLimiter) at() Caps {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.caps
}

func (f *fakeLimiter) By() string { return "a fake" }
func (f *fakeLimiter) Close()     {}

type rig struct {
	*Giver
	t       *testing.T
	dir     string
	sensors *fakeSensors
	hosted  *fakeHosted
	limiter *fakeLimiter
}

func newRig(t *testing.T, dir string) *rig {
	r := &rig{
		t: t, dir: dir, sensors: &fakeSensors{snap: quietServer()},
		hosted: &fakeHosted{from: time.Now()}, limiter: &fakeLimiter{},
	}
	r.Giver = New(Config{Dir: dir}, Deps{Sensors: r.sensors, Limiter: r.limiter, Log: zap.NewNop()})
	r.Attach(r.hosted)
	r.Start()
	return r
}

func (r *rig) change(f func(*Settings)) {
	r.t.Helper()
	if err := r.Change(context.Background(), f); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) status() Report {
	r.t.Helper()
	report, err := r.Status(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

func (r *rig) expect(want ...string) {
	r.t.Helper()
	if got := r.hosted.said(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		r.t.Errorf("what is hosted was told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Somebody comes: what is hosted is paused within a second, and goes on after a quiet minute.
func TestGiverPausesForInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On = true })
		r.hosted.host(Row{CID: someCell})
		r.Changed()
		time.Sleep(5250 * time.Millisecond)
		r.sensors.touch()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.expect("0s clear", "0s pause: giving is off", "0s resume", "5.5s pause: somebody is at this machine", "1m5.25s resume")
	})
}

// Others need the machine: what is hosted is paused at the next glance, once, and goes on after a minute in which
// they did not, however short their load was.
func TestGiverPausesForLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On = true })
		r.hosted.host(Row{CID: someCell})
		r.Changed()
		time.Sleep(7100 * time.Millisecond)
		r.sensors.busy(71)
		time.Sleep(10 * time.Second)
		r.sensors.busy(3)
		time.Sleep(30 * time.Second) // a moment's load begins the minute anew
		r.sensors.busy(90)
		time.Sleep(1500 * time.Millisecond)
		if d := r.status().Decision; d.Why != "others use 90 % of the processors" {
			t.Errorf("it says %q", d.Why)
		}
		r.sensors.busy(3)
		time.Sleep(10 * time.Second)
		if d := r.status().Decision; d.Why != "waiting for a quiet minute: others use 90 % of the processors" {
			t.Errorf("it says %q", d.Why)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.expect("0s clear", "0s pause: giving is off", "0s resume", "7.5s pause: others use 71 % of the processors",
			"37.5s pause: waiting for a quiet minute: others use 71 % of the processors", // at each look
			"1m7.5s pause: waiting for a quiet minute: others use 90 % of the processors", "1m48.5s resume")
		if r.limiter.leaves < 2 {
			t.Error("what is hosted has to wait for its turn to leave")
		}
	})
}

// While others come and go nobody is told anything, and everything is looked at no less often.
func TestGiverGlances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On = true })
		r.hosted.host(Row{CID: someCell})
		r.Changed()
		time.Sleep(time.Second)
		synctest.Wait()
		before, _ := r.sensors.counts()
		for i := range 60 {
			r.sensors.busy(float64(i))
			time.Sleep(5 * time.Second)
			r.status()
		}
		if r.sensors.waits() {
			t.Error("somebody who comes has to wait for who is slow to answer")
		}
		looks, glances := r.sensors.counts()
		if looks-before < 9 || looks-before > 11 || glances < 550 || glances > 610 {
			t.Errorf("in five minutes it looked %d times at everything, and glanced %d times", looks-before, glances)
		}
		r.expect("0s clear", "0s pause: giving is off", "0s resume")
	})
}

// With --max, what others take up is theirs at once; what they leave is given at the next look.
func TestGiverMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.limiter.be(map[string]string{"": "/sys/fs/cgroup/x"}, nil)
		r.change(func(s *Settings) { s.On, s.Max = true, true })
		r.hosted.host(Row{CID: someCell})
		r.Changed()
		for _, c := range []struct {
			others float64
			after  time.Duration
			cpu    float64
		}{{0, time.Second, 95}, {50, time.Second, 45}, {58, time.Second, 45}, {20, time.Second, 45}, {20, LookEvery, 75}} {
			r.sensors.busy(c.others)
			time.Sleep(c.after)
			synctest.Wait()
			if got := r.limiter.at().CPU; got != c.cpu {
				t.Errorf("others use %v %%: %v %% are given, want %v", c.others, got, c.cpu)
			}
		}
	})
}

// Without a group around all that is hosted --max would be what nobody used when a cell was started: nothing runs.
func TestGiverMaxNeedsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On, s.Max = true, true })
		if d := r.status().Decision; d.Run || !strings.Contains(d.Why, "no control group") {
			t.Errorf("%+v", d)
		}
		r.change(func(s *Settings) { s.Max = false })
		if d := r.status().Decision; !d.Run {
			t.Errorf("without --max: %+v", d)
		}
	})
}

// While nothing is hosted nobody watches: an offer has input looked at.
func TestGiverLooksForAnOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On = true })
		time.Sleep(10 * time.Minute)
		if looks, glances := r.sensors.counts(); glances != 0 || looks > 22 {
			t.Errorf("in ten idle minutes it looked %d times at everything, and glanced %d times", looks, glances)
		}
		time.Sleep(time.Second)
		if a := r.Take(context.Background(), Need{CID: someCell}); !a.OK {
			t.Errorf("refused: %+v", a)
		}
		if !r.sensors.waits() {
			t.Error("with nothing to pause who is slow to answer is not waited for")
		}
		r.sensors.touch()
		time.Sleep(time.Second)
		if a := r.Take(context.Background(), Need{CID: someCell}); a.OK || a.When < 50*time.Second || a.When > time.Minute || strings.Contains(a.Why, "somebody") {
			t.Errorf("with somebody at the machine: %+v", a)
		}
	})
}

// Whoever asks more often than it looks does not keep it from looking: it goes on after the quiet minute.
func TestGiverLooksBesideOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On = true })
		time.Sleep(10 * time.Second)
		r.sensors.touch()
		var a Answer
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(900 * time.Millisecond) {
			a = r.Take(context.Background(), Need{CID: someCell})
		}
		if !a.OK {
			t.Errorf("after two minutes of offers: %+v", a)
		}
	})
}

// Nor while it is paused: who asks how it stands is told how it stands, not how it stood half a minute ago.
func TestGiverLooksForTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On = true })
		time.Sleep(10 * time.Second)
		r.sensors.touch()
		time.Sleep(5 * time.Second)
		if s := r.status(); s.Decision.Run || s.Snapshot.Input.State != Yes {
			t.Errorf("with somebody at the machine: %+v, %+v", s.Decision, s.Snapshot.Input)
		}
		for range 10 { // whoever asks again and again does not have it look again and again
			r.status()
		}
		if looks, glances := r.sensors.counts(); looks != 1 || glances != 1 {
			t.Errorf("it looked %d times at everything, and glanced %d times", looks, glances)
		}
		r.change(func(s *Settings) { s.On = false })
		time.Sleep(time.Minute)
		r.status()
		if _, glances := r.sensors.counts(); glances != 1 {
			t.Errorf("it looks although giving is off")
		}
	})
}

func TestGiverStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := newRig(t, dir)
		r.change(func(s *Settings) { s.On, s.Until = true, time.Now().Add(time.Hour) })
		until := r.status().Settings.Until.Format("15:04")
		r.hosted.host(Row{CID: someCell})
		r.Changed()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		r.expect("0s clear", "0s pause: giving is off", "0s resume", "1h0m0s pause: the time to give is over: until "+until, "1h0m0s clear")
		if s, err := LoadSettings(dir); err != nil || s.On {
			t.Errorf("it would go on: %+v, %v", s, err)
		}
		r.change(func(s *Settings) { s.On = true })
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := r.status(); !s.Settings.On || !s.Decision.Run {
			t.Errorf("given again, it is %+v", s.Settings)
		}
		r.Stop()
	})
}

// The nucleus ends, by a signal or without one: what is hosted does not run on, and giving goes on with the
// next nucleus.
func TestGiverComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := newRig(t, dir)
		r.change(func(s *Settings) { s.On, s.CPU = true, 33 })
		r.Stop()
		r.expect("0s clear", "0s pause: giving is off", "0s resume", "0s pause: the nucleus stops")
		if _, err := r.Status(context.Background()); cellproto.KindOf(err) != cellproto.Unavailable {
			t.Errorf("after it has stopped: %v", err)
		}
		r = newRig(t, dir)
		defer r.Stop()
		synctest.Wait()
		r.expect("0s resume")
		if s := r.status(); !s.Decision.Run || s.Settings.CPU != 33 || r.limiter.caps.CPU != 33 {
			t.Errorf("%+v, limits %+v", s, r.limiter.caps)
		}
	})
}

func TestGiverRefusesNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		err := r.Change(context.Background(), func(s *Settings) { s.On, s.CPU = true, 101 })
		if cellproto.KindOf(err) != cellproto.BadInput || r.On() {
			t.Errorf("%v, on %v", err, r.On())
		}
	})
}

// Settings that cannot be read give nothing, and say why, until they are set anew.
func TestGiverBrokenSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		os.MkdirAll(filepath.Join(dir, "data"), 0o700)
		os.WriteFile(filepath.Join(dir, SettingsFile), []byte(`{"on": true, "what": 1}`), 0o600)
		r := newRig(t, dir)
		defer r.Stop()
		if s := r.status(); s.Settings.On || s.Err == nil {
			t.Errorf("%+v", s)
		}
		r.change(func(s *Settings) { s.On = true })
		if s := r.status(); !s.Settings.On || s.Err != nil {
			t.Errorf("%+v", s)
		}
	})
}

// What has a share of its own keeps it as long as it runs: with less to give it has to go.
func TestGiverGivesLess(t *testing.T) {
	for groups, want := range map[bool]int{true: 1, false: 2} { // the first is that at the beginning
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			defer r.Stop()
			if groups {
				r.limiter.be(map[string]string{"": "/sys/fs/cgroup/x"}, nil)
			}
			r.change(func(s *Settings) { s.On = true })
			r.change(func(s *Settings) { s.CPU = 20 })
			r.change(func(s *Settings) { s.CPU = 5 })
			if got := strings.Count(strings.Join(r.hosted.said(), "\n"), "clear"); got != want {
				t.Errorf("with groups %v: cleared %d times, want %d", groups, got, want)
			}
		})
	}
}

// Without limits nothing runs.
func TestGiverWithoutLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.limiter.be(nil, errors.New("read-only"))
		r.change(func(s *Settings) { s.On = true })
		r.expect("0s clear", "0s pause: giving is off", "0s pause: the limits cannot be held")
		if s := r.status(); s.Err == nil {
			t.Error("status does not say so")
		}
		if a := r.Take(context.Background(), Need{}); a.OK {
			t.Error("it takes more up")
		}
	})
}

func TestRates(t *testing.T) {
	var m meter
	m.add(epoch, Usage{CPU: time.Second, Disk: 100}, 4)
	got := m.add(epoch.Add(10*time.Second), Usage{CPU: 5 * time.Second, RSS: 7, Disk: 1100}, 4)
	if want := (Rates{CPUPercent: 10, RSS: 7, DiskBPS: 100}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := m.add(epoch.Add(10*time.Second+time.Millisecond), Usage{CPU: time.Minute, RSS: 8, Disk: 1100}, 4); got.CPUPercent != 10 || got.RSS != 8 {
		t.Errorf("over a millisecond: %+v", got)
	}
	if got := m.add(epoch.Add(20*time.Second), Usage{}, 4); got != (Rates{}) {
		t.Errorf("counters that began anew: %+v", got)
	}
}

func TestAdmit(t *testing.T) {
	set, run := onSettings(), Decision{Run: true, Caps: Caps{CPU: 10, Memory: 400 << 20}}
	load := Load{Known: true, Cores: 4, Total: 4000 << 20, Free: 4000 << 20}
	for name, c := range map[string]struct {
		change func(*Settings, *Decision, *Need)
		rows   int
		ok     bool
		again  bool
	}{
		"as it is":         {nil, 0, true, false},
		"one less":         {func(_ *Settings, d *Decision, _ *Need) { d.Caps.Memory = 4 << 30 }, DefaultHosts - 1, true, false},
		"full":             {nil, DefaultHosts, false, true},
		"denied":           {func(s *Settings, _ *Decision, _ *Need) { s.Policy.Deny = []string{someCell} }, 0, false, false},
		"denied publisher": {func(s *Settings, _ *Decision, _ *Need) { s.Policy.Deny = []string{somePeer} }, 0, false, false},
		"not allowed":      {func(s *Settings, _ *Decision, _ *Need) { s.Policy.Allow = []string{"other"} }, 0, false, false},
		"allowed":          {func(s *Settings, _ *Decision, _ *Need) { s.Policy.Allow = []string{"other", somePeer} }, 0, true, false},
		"GPU":              {func(_ *Settings, _ *Decision, n *Need) { n.GPU = true }, 0, false, false},
		"given GPU":        {func(s *Settings, _ *Decision, n *Need) { n.GPU, s.Policy.GPU = true, true }, 0, false, false},
		"source":           {func(_ *Settings, _ *Decision, n *Need) { n.Source = true }, 0, false, false},
		"wanted source":    {func(s *Settings, _ *Decision, n *Need) { n.Source, s.Policy.BuildFromSource = true, true }, 0, true, false},
		"off":              {func(s *Settings, _ *Decision, _ *Need) { s.On = false }, 0, false, true},
		"paused":           {func(_ *Settings, d *Decision, _ *Need) { d.Run = false }, 0, false, true},
		"large":            {func(_ *Settings, _ *Decision, n *Need) { n.Memory = 137 << 20 }, 0, false, false},
		"just fits":        {func(_ *Settings, _ *Decision, n *Need) { n.Memory = 136 << 20 }, 0, true, false},
		"not now":          {func(_ *Settings, d *Decision, n *Need) { d.Caps.Memory, n.Memory = 300<<20, 100<<20 }, 0, false, true},
		"no room left":     {func(_ *Settings, _ *Decision, n *Need) { n.Memory = 136 << 20 }, 2, false, true},
		"not said":         {nil, 2, true, false},
		"none is left":     {nil, 3, false, true},
	} {
		s, d, n := set, run, Need{CID: someCell, Publisher: somePeer}
		if c.change != nil {
			c.change(&s, &d, &n)
		}
		rows := make([]Row, c.rows)
		for i := range rows {
			rows[i] = Row{Memory: 64 << 20, ForWhom: fmt.Sprint("asker ", i), Publisher: fmt.Sprint("publisher ", i), Network: fmt.Sprint("network ", i)}
		}
		a := admit(epoch, s, d, load, rows, n)
		if a.OK != c.ok || (a.When > 0) != c.again || a.OK == (a.Why != "") || a.OK != (a.Memory > 0) {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// Where all places are taken the cell makes room that nobody has called for the longest time, if that is long.
func TestAdmitInstead(t *testing.T) {
	set, run := onSettings(), Decision{Run: true, Caps: Caps{CPU: 10, Memory: 4 << 30}}
	load := Load{Known: true, Cores: 4, Total: 40 << 30, Free: 40 << 30}
	set.Policy.Hosts = 3
	n := Need{CID: someCell, Publisher: somePeer, ForWhom: "somebody"}
	for name, c := range map[string]struct {
		idle [3]time.Duration
		want Answer
	}{
		"all are called":    {[3]time.Duration{}, Answer{Why: "this machine hosts as many cells as it may", When: IdleRoom}},
		"not long enough":   {[3]time.Duration{time.Minute, IdleRoom - 3*time.Minute, 0}, Answer{Why: "this machine hosts as many cells as it may", When: 3 * time.Minute}},
		"soon":              {[3]time.Duration{IdleRoom - time.Second, 0, 0}, Answer{Why: "this machine hosts as many cells as it may", When: whenFull}},
		"long enough":       {[3]time.Duration{0, IdleRoom, time.Minute}, Answer{OK: true, Instead: "1"}},
		"the longest of it": {[3]time.Duration{IdleRoom, time.Minute, time.Hour}, Answer{OK: true, Instead: "2"}},
	} {
		rows := make([]Row, 3)
		for i := range rows {
			rows[i] = Row{CID: string(rune('0' + i)), Idle: c.idle[i]}
		}
		if a := without(admit(epoch, set, run, load, rows, n)); a != c.want {
			t.Errorf("%s: %+v, want %+v", name, a, c.want)
		}
		if a := without(admit(epoch, set, run, load, rows[:2], n)); a != (Answer{OK: true}) {
			t.Errorf("%s, and a place is free: %+v", name, a)
		}
		leaving := slices.Clone(rows) // for another one, that has a row already
		leaving[0].Leaving = true
		if a := without(admit(epoch, set, run, load, leaving, n)); a != (Answer{OK: true}) {
			t.Errorf("%s, and one leaves: %+v", name, a)
		}
		big := n
		big.Memory = 1 << 40
		if a := admit(epoch, set, run, load, rows, big); a.OK || a.Instead != "" {
			t.Errorf("%s: what is too large: %+v", name, a)
		}
	}
}

// without leaves out how much memory there is.
func without(a Answer) Answer {
	a.Memory = 0
	return a
}
