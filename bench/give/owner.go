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

// settle is what a machine that has worked needs until its load of the last seconds is no reason any more not to
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
		time.Sleep(settle)
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
	hungry := feed(dir)
	calls := callsOf(self, what.Cell.String())
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
	made, lost := calls()
	hungry()
	stood := 8 * time.Second
	if !at.IsZero() {
		stood = at.Sub(begin)
	}
	row("load above the mark to the last instruction", fmt.Sprintf("%.1f s", stood.Seconds()), "<= 5 s", stood <= 5*time.Second)
	row("calls lost by that pause", fmt.Sprintf("%d of %d", lost, made), "0", lost == 0 && made > 0)
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

// callsOf calls a cell from the one in dir, two calls at a time, until it is told to stop, and gives how many calls
// there were and how many failed.
func callsOf(dir, target string) (stop func() (made, lost int64)) {
	ctx, cancel := context.WithCancel(context.Background())
	var made, lost atomic.Int64
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for ctx.Err() == nil {
				made.Add(1)
				err := use(context.Background(), dir, target, "nap", 20)
				if err == nil {
					continue
				}
				if lost.Add(1) <= 3 {
					fmt.Fprintln(os.Stderr, "give: a call failed:", err)
				}
				time.Sleep(100 * time.Millisecond) // it may fail at once, again and again
			}
		})
	}
	return func() (int64, int64) { cancel(); work.Wait(); return made.Load(), lost.Load() }
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
