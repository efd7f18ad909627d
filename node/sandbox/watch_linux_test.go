package sandbox

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is held from here alone ends when nothing of it can be seen any more; Stop and the time of a build hold all the same.
func TestUnseen(t *testing.T) {
	report := func(cpu, memory, threads string) Report {
		return Report{CPUBy: cpu, MemoryBy: memory, ThreadsBy: threads}
	}
	for name, c := range map[string]struct {
		box  *Box
		want string
	}{
		"watched":           {&Box{first: report(byDuty, byWatchdog, byWatchdog)}, WhyUnseen},
		"its processors":    {&Box{first: report(byDuty, byGroup2, byGroup2)}, WhyUnseen},
		"its threads":       {&Box{first: report(byNothing, byGroup2, byWatchdog)}, WhyUnseen},
		"held by groups":    {&Box{first: report(byGroup2, byGroup2, byGroup2)}, ""},
		"told to stop":      {&Box{first: report(byGroup2, byGroup2, byGroup2), killAt: time.Now().Add(-time.Second)}, WhyStopped},
		"a build, too long": {&Box{first: report(byGroup2, byGroup2, byGroup2), cfg: Config{Build: &Build{Timeout: time.Second}}}, WhyTimeout},
	} {
		now := time.Minute
		b := c.box
		b.cfg.Memory, b.cfg.Threads = 1<<20, 1
		got := ""
		for range unseenMost {
			if got != "" && got != c.want {
				t.Errorf("%s: %q at once", name, got)
			}
			got = b.judge(now, sample{}, false)
		}
		if got != c.want {
			t.Errorf("%s: after %d looks that saw nothing it ends for %q, want %q", name, unseenMost, got, c.want)
		}
	}
	b := &Box{first: report(byDuty, byWatchdog, byWatchdog), cfg: Config{Memory: 1 << 30, Threads: 9}}
	for range 10 { // a look that sees nothing now and then is no reason
		for _, ok := range []bool{false, false, true} {
			if why := b.judge(time.Second, sample{}, ok); why != "" {
				t.Fatalf("it ends for %q", why)
			}
		}
	}
}

// A process of which the kernel shows nothing, or not its memory where that is held from here, is not seen.
func TestProbeSeesAll(t *testing.T) {
	whole := openProbe(os.Getpid(), true)
	defer whole.close()
	if s, ok := whole.sample(); !ok || s.RSSKiB == 0 || s.Threads == 0 {
		t.Errorf("this process: %+v, %v", s, ok)
	}
	for name, c := range map[string]struct {
		memory bool // is held from here
		hide   func(*probe)
		ok     bool
	}{
		"nothing hidden":       {true, func(*probe) {}, true},
		"stat":                 {false, func(p *probe) { unix.Close(p.stat); p.stat = -1 }, false},
		"statm, and it counts": {true, func(p *probe) { unix.Close(p.statm); p.statm = -1 }, false},
		"statm":                {false, func(p *probe) { unix.Close(p.statm); p.statm = -1 }, true},
		"io":                   {true, func(p *probe) { unix.Close(p.io); p.io = -1 }, true},
	} {
		p := openProbe(os.Getpid(), c.memory)
		c.hide(p)
		if _, ok := p.sample(); ok != c.ok {
			t.Errorf("%s: seen %v, want %v", name, ok, c.ok)
		}
		p.close()
	}
}

// A program that stands is looked at less often, and as before when it goes on.
func TestFrozenIsLookedAtSeldom(t *testing.T) {
	p := tell(t, Config{Every: minEvery}, nil, "say=ready", "sleep=60000")
	p.await("ready")
	// between gives the times between the reports from now on, in each of which it was looked at.
	between := func(n int) (list []time.Duration) {
		from := len(p.reports())
		eventually(t, "there are more reports", func() bool { return len(p.reports()) > from+n })
		seen := p.reports()[from:]
		for i := range n {
			list = append(list, time.Duration(seen[i+1].Wall-seen[i].Wall))
		}
		return list
	}
	p.Freeze()
	eventually(t, "it is stopped", func() bool { return state(p.PID()) == "T" })
	// The first is of before. A late look shortens what is between it and the next.
	if got := between(3)[1:]; got[0]+got[1] < pollFrozen*9/10 {
		t.Errorf("frozen it is looked at after %v", got)
	}
	p.Thaw()
	eventually(t, "it is looked at as before", func() bool { return between(2)[1] < pollFrozen/2 })
}
