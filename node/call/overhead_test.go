package call

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/node/race"
)

// cpuTime is what this process has used of processors.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// In steady state racing costs at most one message for a hundred calls, and a hundredth of a processor,
// the providers' part included.
func TestRaceOverhead(t *testing.T) {
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("it takes three minutes: CELL_LONG=1")
	}
	const providers = 3
	cell := publish(t, testSchema())
	c, _ := electorate(t, cell, providers, nil)
	const races = 100
	before := cpuTime(t)
	for range races {
		if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
			t.Fatal(err)
		}
	}
	each := (cpuTime(t) - before) / races
	for name, c := range map[string]struct{ pause, warm, length time.Duration }{
		// Until then the gap between races for slow calls has grown to that of all others.
		"50 calls a second":   {20 * time.Millisecond, 40 * time.Second, 90 * time.Second},
		"as many as there go": {0, 40 * time.Second, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			caller, _ := electorate(t, cell, providers, nil)
			heard := make(chan race.Log, 1000)
			caller.mu.Lock()
			caller.watchers[heard] = cell.id
			caller.mu.Unlock()
			calls := 0
			load := func(length time.Duration) {
				begin := time.Now()
				for next := begin; ; {
					call(t, caller, cell, "echo")
					calls++
					if next = next.Add(c.pause); c.pause > 0 {
						time.Sleep(time.Until(next)) // the rate is what is measured
					}
					if time.Since(begin) >= length {
						return
					}
				}
			}
			load(c.warm)
			for range len(heard) {
				<-heard
			}
			for len(heard) == 0 { // from one race on
				load(0)
			}
			<-heard
			calls = 0
			begin := time.Now()
			load(c.length)
			took := time.Since(begin)
			held, messages, why := 0, 0, map[race.Reason]int{}
			for range len(heard) {
				l := <-heard
				held++
				why[l.Why]++
				for _, k := range l.Candidates {
					if k.Out == "" {
						messages += 4
					}
				}
			}
			share, cpu := 100*float64(messages)/float64(calls), 100*float64(held)*each.Seconds()/took.Seconds()
			t.Logf("%d calls in %v: %d races %v, %d messages, %.2f%% of the calls; %v of CPU each, %.3f%% of one processor", calls, took.Round(time.Second), held, why, messages, share, each.Round(time.Microsecond), cpu)
			if held == 0 || share > 1 || cpu > 1 {
				t.Errorf("%d races, %.2f%% of the calls, %.3f%% of a processor", held, share, cpu)
			}
		})
	}
}
