package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
)

// The owner's own work, with what is hosted beside it, through the daemons and commands that people use.

// settle is what a machine that has worked needs at least until its load of the last seconds is no reason any more not to
// give.
const settle = 8 * time.Second

// ownWork measures the owner's work, a fixed compile, on a machine that gives, and hosts a stranger's cell that wants
// everything, and on the same one when it does not give.
func (o options) ownWork() error {
	stranger, cell, addr, what, err := o.provider()
	if err != nil {
		return err
	}
	defer stranger.stop(cell)
	donor, err := o.machine("owner", addr)
	if err != nil {
		return err
	}
	defer donor.stop()
	if _, err := o.compile(); err != nil { // what it reads is in memory from now on
		return err
	}
	var alone, beside []time.Duration
	var stood []time.Duration
	for round := 0; ; round++ {
		d, err := o.compile()
		if err != nil {
			return err
		}
		alone = append(alone, d)
		if round == o.rounds {
			break
		}
		time.Sleep(max(settle, d*3/4))
		d, stands, err := o.compileBeside(donor, what)
		if err != nil {
			return err
		}
		beside, stood = append(beside, d), append(stood, stands)
	}
	var ratios []float64
	var text []string
	for i, b := range beside {
		a := (alone[i] + alone[i+1]) / 2 // before and after
		ratios = append(ratios, 100*(b.Seconds()/a.Seconds()-1))
		text = append(text, fmt.Sprintf("%.2f/%.2f", a.Seconds(), b.Seconds()))
	}
	slices.Sort(ratios)
	row("the owner's compile, alone/beside, s", strings.Join(text, " "), "", true)
	m := ratios[len(ratios)/2]
	row("which takes longer by", fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", m, ratios[0], ratios[len(ratios)-1]), "<= +3 %", m <= 3)
	last := median(stood)
	row("its begin to the stranger's last instruction", fmt.Sprintf("%.1f s", last.Seconds()), "<= 5 s", last <= 5*time.Second)
	return nil
}

// compileBeside does the owner's work beside a stranger's cell that is at its cap when it begins. stood is when the
// program of that stood still.
func (o options) compileBeside(donor *machine, what offer.Offer) (took, stood time.Duration, err error) {
	if err := donor.give(); err != nil {
		return 0, 0, err
	}
	dir, err := donor.place(what)
	if err != nil {
		return 0, 0, err
	}
	stop := feed(dir)
	defer stop()
	if err := donor.until("it eats", func(g ctl.Giving) bool { return g.Used.CPU > 100*share/2 }); err != nil {
		return 0, 0, err
	}
	watched, err := watch(dir)
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	took, err = o.compile()
	if at := watched(); !at.IsZero() {
		stood = at.Sub(begin)
	} else if err == nil {
		stood = took // it was never paused
	}
	if _, stopErr := donor.ctl("give", "stop"); err == nil {
		err = stopErr
	}
	return took, stood, err
}

// watch watches the program of a mirror. What it gives ends that, and says since when it stands; zero: it does not.
func watch(dir string) (end func() time.Time, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	status, err := (&ctl.Client{Dir: dir}).Status(ctx)
	cancel()
	if err != nil {
		return nil, err
	}
	var since atomic.Pointer[time.Time]
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-stop:
				return
			}
			now := time.Now()
			switch stands := standing(status.ProgramPID); {
			case !stands:
				since.Store(nil)
			case since.Load() == nil:
				since.Store(&now)
			}
		}
	}()
	return func() time.Time {
		close(stop)
		<-ended
		if at := since.Load(); at != nil {
			return *at
		}
		return time.Time{}
	}, nil
}

// standing says whether a process is stopped, or has ended.
func standing(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(rest, "T")
}

func (o options) compile() (time.Duration, error) {
	cache, err := os.MkdirTemp(o.work, "cache")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(cache)
	cmd := exec.Command("go", "build", "-o", os.DevNull, "./cmd/cellbox")
	cmd.Env = append(os.Environ(), "GOCACHE="+cache, "CGO_ENABLED=0")
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return time.Since(begin), nil
}

// pauses measures what the owner's load does to callers, and how soon what is hosted stands.
func (o options) pauses() error {
	stranger, cell, addr, what, err := o.provider()
	if err != nil {
		return err
	}
	defer stranger.stop(cell)
	donor, err := o.machine("owner", addr)
	if err != nil {
		return err
	}
	defer donor.stop()
	caller, self, err := o.caller(addr)
	if err != nil {
		return err
	}
	defer caller.stop(self)
	if err := donor.give(); err != nil {
		return err
	}
	dir, err := donor.place(what)
	if err != nil {
		return err
	}
	calls := callsOf(self, what.Cell.String())
	if err := stranger.elsewhere(cell, self, what.Cell.String(), calls); err != nil {
		return err
	}
	hungry := feed(dir)
	if err := donor.until("it eats", func(g ctl.Giving) bool { return g.Used.CPU > 100*share/2 }); err != nil {
		return err
	}
	watched, err := watch(dir)
	if err != nil {
		return err
	}
	begin := time.Now()
	burnFor(8 * time.Second)
	at := watched()
	calls.stop()
	hungry()
	made, there, lost := calls.made.Load(), calls.elsewhere.Load(), calls.lost.Load()
	stood := 8 * time.Second
	if !at.IsZero() {
		stood = at.Sub(begin)
	}
	row("load above the mark to the last instruction", fmt.Sprintf("%.1f s", stood.Seconds()), "<= 5 s", stood <= 5*time.Second)
	row("calls lost by that pause", fmt.Sprintf("%d of %d, %d of them to it", lost, made, there), "0", lost == 0 && there > 0)
	return o.paused(donor, dir)
}

// caller is somebody who calls cells, from a cell in the directory self.
func (o options) caller(bootstrap string) (m *machine, self string, err error) {
	if m, err = o.machine("caller", bootstrap); err != nil {
		return
	}
	self = filepath.Join(m.dir, "caller")
	err = os.MkdirAll(self, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(self, "cell.toml"), []byte("[cell]\nname = \"caller\"\n"), 0o644)
	}
	if err == nil {
		_, err = m.ctl("start", self)
	}
	return
}

// calls are calls of a cell by somebody, two at a time, until they are stopped.
type calls struct {
	made, lost, elsewhere atomic.Int64 // elsewhere: not by its first provider
	last                  atomic.Pointer[string]
	home                  atomic.Pointer[string] // that provider
	stop                  func()
}

// callsOf begins to call a cell from the one in dir.
func callsOf(dir, target string) *calls {
	ctx, cancel := context.WithCancel(context.Background())
	c := &calls{}
	var work sync.WaitGroup
	c.stop = func() { cancel(); work.Wait() }
	for range 2 {
		work.Go(func() {
			for ctx.Err() == nil {
				provider, err := use(context.Background(), dir, target, "nap", 20)
				c.made.Add(1)
				if err == nil {
					c.last.Store(&provider)
					if home := c.home.Load(); home != nil && *home != provider {
						c.elsewhere.Add(1)
					}
					continue
				}
				if c.lost.Add(1) <= 3 {
					fmt.Fprintln(os.Stderr, "give: a call failed:", err)
				}
				time.Sleep(100 * time.Millisecond) // it may fail at once, again and again
			}
		})
	}
	return c
}

// elsewhere has the calls of a cell, from the one in the directory self, go to the machine that hosts it, by its provider
// being away for a moment. They are counted from then on.
func (m *machine) elsewhere(cell, self, target string, c *calls) error {
	status, err := ask[ctl.Status](m, "status", cell)
	if err != nil {
		return err
	}
	c.home.Store(&status.PeerID)
	if _, err := m.ctl("stop", cell); err != nil {
		return err
	}
	wait := func(what string, ok func() bool) error {
		for deadline := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("still not: %s", what)
			}
		}
		return nil
	}
	if err := wait("the copy answers", func() bool { p := c.last.Load(); return p != nil && *p != status.PeerID }); err != nil {
		return err
	}
	// It comes back on another port, and is who the others were introduced by: it is introduced to them now.
	there, err := ask[ctl.Status](&machine{o: m.o, dir: filepath.Dir(self)}, "status", self)
	if err != nil {
		return err
	}
	m.bootstrap = strings.Join(there.Addrs, ",")
	if _, err := m.ctl("start", cell); err != nil {
		return err
	}
	err = wait("the original is back", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		rows, err := (&ctl.Client{Dir: self}).Race(ctx, target)
		return err == nil && slices.ContainsFunc(rows, func(r ctl.RaceRow) bool { return r.Peer == status.PeerID && r.Error == "" })
	})
	c.made.Store(0)
	c.lost.Store(0)
	c.elsewhere.Store(0)
	return err
}

// burnFor has all processors work.
func burnFor(d time.Duration) {
	var all sync.WaitGroup
	until := time.Now().Add(d)
	for range runtime.NumCPU() {
		all.Go(func() {
			for n := int64(0); time.Now().Before(until); n++ {
				work.Store(n)
			}
		})
	}
	all.Wait()
}

// paused measures what a machine uses for what it hosts while that is paused.
func (o options) paused(donor *machine, dir string) error {
	span := min(o.span, 10*time.Second)
	var pids []string
	for _, d := range []string{donor.home(), dir} {
		text, err := os.ReadFile(filepath.Join(d, "run", "pid"))
		if err != nil {
			return err
		}
		pids = append(pids, strings.TrimSpace(string(text)))
	}
	time.Sleep(2 * time.Second) // until what the callers have caused is over
	used := func() (total time.Duration, err error) {
		for _, pid := range pids {
			cpu, err := cpuOf(pid)
			if err != nil {
				return 0, err
			}
			total += cpu
		}
		return total, nil
	}
	before, err := used()
	if err != nil {
		return err
	}
	begin := time.Now()
	time.Sleep(span)
	after, err := used()
	if err != nil {
		return err
	}
	p := 100 * (after - before).Seconds() / time.Since(begin).Seconds()
	row("both daemons, while it waits for a quiet minute", fmt.Sprintf("%.3f %% of a processor", p), "<= 1 %", p <= 1)
	return nil
}
