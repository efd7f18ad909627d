package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
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
	p, err := o.pair(loopback, loopback)
	if err != nil {
		return err
	}
	defer p.stop()
	took, _, err := o.compile(fixedWork) // what it reads is in memory from now on
	if err != nil {
		return err
	}
	var alone, beside, stood []time.Duration
	for round := 0; ; round++ {
		time.Sleep(max(settle, took*3/4)) // before each, so that all begin on a machine that has rested as long
		if took, _, err = o.compile(fixedWork); err != nil {
			return err
		}
		alone = append(alone, took)
		if round == o.rounds {
			break
		}
		time.Sleep(max(settle, took*3/4))
		var stands time.Duration
		if took, stands, err = o.compileBeside(p.donor, p.what); err != nil {
			return err
		}
		beside, stood = append(beside, took), append(stood, stands)
	}
	var ratios, self []float64
	var text []string
	for i, b := range beside {
		a := (alone[i] + alone[i+1]) / 2 // before and after
		ratios = append(ratios, 100*(b.Seconds()/a.Seconds()-1))
		self = append(self, 100*math.Abs(alone[i+1].Seconds()/alone[i].Seconds()-1))
		text = append(text, fmt.Sprintf("%.2f/%.2f", a.Seconds(), b.Seconds()))
	}
	row("the owner's compile, alone/beside, s", strings.Join(text, " "), "", true)
	m := middle(ratios)
	row("which takes longer by", fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", m, slices.Min(ratios), slices.Max(ratios)), "<= +3 %", m <= 3)
	row("alone it differs from one time to the next by", fmt.Sprintf("%.1f %%, at most %.1f %%", middle(self), slices.Max(self)), "", true)
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
	took, _, err = o.compile(fixedWork)
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
	status, err := statusOf(dir)
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

func statusOf(dir string) (ctl.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return (&ctl.Client{Dir: dir}).Status(ctx)
}

// fixedWork is the owner's work that the promise is about: a compile of some ten seconds.
const fixedWork = "./cmd/cellbox"

// compile compiles a package and all that it imports anew, and gives how long that took, and how much time of processors.
func (o options) compile(what string) (took, cpu time.Duration, err error) {
	cache, err := os.MkdirTemp(o.work, "cache")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(cache)
	cmd := exec.Command("go", "build", "-o", os.DevNull, what)
	cmd.Env = append(os.Environ(), "GOCACHE="+cache, "CGO_ENABLED=0")
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, out)
	}
	return time.Since(begin), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
