// Command give measures what giving costs the owner of a machine, and whether strangers keep to what they are
// given: a program that wants everything under the caps, and what is left when it is stopped; the owner's own
// work beside a stranger's cell that is hosted, and the calls of others when that is paused for it; the start of
// a confined program; a nucleus that gives and has nothing to do. scripts/give.sh runs it. Its status is 1 if a
// figure is not what is promised.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/node/sandbox"
)

const (
	share   = 0.10 // of the machine
	memory  = 256 << 20
	disk    = 5_000_000
	startsN = 40 // of a program
)

type options struct {
	bin, work, self string
	span            time.Duration
	only            string
	rounds          int
	busy            string // the owner's mark
	slow            bool   // the machine is emulated
	ask, events     string // of desktop
	inWays          string // of apart
	phase           string // what is measured now
}

var work atomic.Int64 // so that loops have something to do

func main() {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		roles[os.Args[1]](os.Args[2:])
		return
	}
	var o options
	flag.StringVar(&o.bin, "bin", "", "the `directory` of celld, cellctl and cellbox")
	flag.StringVar(&o.work, "work", "", "a `directory` on the disk that is written to")
	flag.DurationVar(&o.span, "span", time.Minute, "for how long is measured")
	flag.StringVar(&o.only, "only", "caps,work,pauses,start,idle", "what is measured")
	flag.IntVar(&o.rounds, "rounds", 4, "of the owner's work: six or more for apart")
	flag.StringVar(&o.busy, "busy", "70%", "the load of others above which is paused")
	flag.BoolVar(&o.slow, "slow", false, "the machine is emulated: what has ended may take long to be gone")
	flag.StringVar(&o.ask, "ask", "", "a `file` that desktop writes to what is to happen")
	flag.StringVar(&o.inWays, "ways", "hosting,eating,unpaused", "how the machine gives in apart, besides not at all; also giving")
	flag.StringVar(&o.events, "events", "lid,battery,low,metered,input", "what happens in desktop")
	flag.Parse()
	err := o.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "give:", err)
	}
	if err != nil || missed > 0 {
		os.Exit(1)
	}
}

func (o options) run() (err error) {
	if o.self, err = os.Executable(); err != nil {
		return err
	}
	begin := time.Now()
	fmt.Printf("%d processors, %s, load %s\n\n", runtime.NumCPU(), runtime.GOARCH, load())
	for _, m := range []struct {
		name string
		do   func(options) error
	}{{"caps", options.caps}, {"work", options.ownWork}, {"apart", options.compared}, {"pauses", options.pauses}, {"start", options.starts}, {"idle", options.idle}, {"desktop", options.desktop}} {
		if !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		o.phase = m.name
		if err := m.do(o); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	fmt.Printf("\n%d figures hold, %d do not; %.0f s, load %s\n", held, missed, time.Since(begin).Seconds(), load())
	return nil
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

var held, missed int // figures

// row prints a figure beside what is promised; without a promise ok says nothing.
func row(what, got, want string, ok bool) {
	switch {
	case want == "":
	case ok:
		held++
	default:
		missed++
		want += "  <- MISSED"
	}
	fmt.Printf("%-48s %-28s %s\n", what, got, want)
}

// strangers starts what wants everything, in a pool, and gives what ends it.
func (o options) strangers() (*sandbox.Pool, func() (int, error), error) {
	pool, err := sandbox.OpenPool(fmt.Sprintf("bench%d", os.Getpid()))
	if err != nil {
		return nil, nil, err
	}
	if err := pool.Set(sandbox.PoolLimits{CPU: share * float64(runtime.NumCPU()), Memory: memory, Disk: disk}); err != nil {
		pool.Close()
		return nil, nil, err
	}
	var host *exec.Cmd
	if host, err = startHost(pool, o); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return pool, func() (int, error) {
		err := host.Process.Kill() // nothing is told
		_ = host.Wait()
		if err != nil {
			err = fmt.Errorf("the host had ended by itself: %w", err)
		}
		return leftIn(pool, o.goneIn()), err
	}, nil
}

// goneIn is how long processes that were killed may take to be gone: what is killed at a cap ends within it.
func (o options) goneIn() time.Duration {
	if o.slow {
		return 30 * time.Second
	}
	return 2 * time.Second
}

// leftIn waits for a pool to be empty and removes it. It gives how many processes are in it that long on.
func leftIn(pool *sandbox.Pool, long time.Duration) (left int) {
	for deadline := time.Now().Add(long); ; time.Sleep(10 * time.Millisecond) {
		left = 0
		for _, dir := range pool.Groups() {
			left += processesBelow(dir)
		}
		if left == 0 || time.Now().After(deadline) {
			pool.Close()
			return left
		}
	}
}

func processesBelow(dir string) (n int) {
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == "cgroup.procs" {
			text, _ := os.ReadFile(path)
			n += len(strings.Fields(string(text)))
		}
		return nil
	})
	return n
}

// caps measures what a program gets that wants everything.
func (o options) caps() error {
	pool, end, err := o.strangers()
	if err != nil {
		return err
	}
	time.Sleep(time.Second) // until all of it runs
	begin, before, peak := time.Now(), pool.Used(), int64(0)
	for time.Since(begin) < o.span {
		peak = max(peak, pool.Used().RSS)
		time.Sleep(20 * time.Millisecond)
	}
	after, took := pool.Used(), time.Since(begin).Seconds()
	left, err := end()
	if err != nil {
		return err
	}
	cpu := 100 * (after.CPU - before.CPU).Seconds() / took / float64(runtime.NumCPU())
	written := float64(after.Disk-before.Disk) / took / 1e6
	row("held by", pool.By(), "", true)
	row("processors", fmt.Sprintf("%.2f %% of the machine", cpu), "10 +- 1 %", cpu >= 9 && cpu <= 11)
	row("memory, the most that was seen", fmt.Sprintf("%.1f MiB", float64(peak)/(1<<20)), fmt.Sprintf("<= %d MiB", memory>>20), peak <= memory)
	row("disk, written", fmt.Sprintf("%.2f MB/s", written), "<= 5.2 MB/s", written <= 5.2)
	row("processes left after kill -9 of the host", strconv.Itoa(left), "0", left == 0)
	return nil
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// starts measures the start of a program that ends at once, plainly and confined.
func (o options) starts() error {
	self, dir := o.self, filepath.Dir(o.self)
	var plain, boxed []time.Duration
	for range startsN {
		begin := time.Now()
		if err := exec.Command(self, "nothing").Run(); err != nil {
			return err
		}
		plain = append(plain, time.Since(begin))
		begin = time.Now()
		if out, err := exec.Command(filepath.Join(o.bin, "cellbox"), "--dir", dir, "--", filepath.Base(self), "nothing").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		boxed = append(boxed, time.Since(begin))
	}
	a, b := median(plain), median(boxed)
	row("start and end, plain and confined", fmt.Sprintf("%.1f ms, %.1f ms: %+.1f ms", ms(a), ms(b), ms(b-a)), "<= +10 ms", ms(b-a) <= 10)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// idle measures a nucleus that gives, and to which nobody comes.
func (o options) idle() error {
	m, err := o.machine("owner", "", loopback)
	if err != nil {
		return err
	}
	defer m.stop()
	for _, step := range []struct {
		args []string
		what string
		want string
		span time.Duration
	}{
		{[]string{"give", "stop"}, "a home nucleus that does not give", "", o.span / 6},
		{[]string{"give", "--busy", "100%"}, "one that gives, and has nothing to do", "<= 0.2 %", o.span * 3 / 4},
	} {
		if _, err := m.ctl(step.args...); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(m.home(), "run", "pid"))
		if err != nil {
			return err
		}
		pid := strings.TrimSpace(string(text))
		time.Sleep(5 * time.Second) // until what the command has caused is over
		before, err := cpuOf(pid)
		if err != nil {
			return err
		}
		begin := time.Now()
		time.Sleep(step.span)
		after, err := cpuOf(pid)
		if err != nil {
			return err
		}
		p := 100 * (after - before).Seconds() / time.Since(begin).Seconds()
		row(step.what, fmt.Sprintf("%.3f %% of a processor", p), step.want, p <= 0.2)
	}
	return nil
}

// cpuOf gives the processor time of a process, to the nanosecond.
func cpuOf(pid string) (total time.Duration, err error) {
	tasks, err := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("process %s tells nothing", pid)
	}
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that has just ended
		}
		var ns int64
		fmt.Sscan(string(text), &ns)
		total += time.Duration(ns)
	}
	return total, nil
}

// confined runs this program again, under cellbox, until it ends or ctx does.
func confined(ctx context.Context, launcher, cgroup string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := sandbox.Confine(ctx, launcher, sandbox.Config{
		Dir: filepath.Dir(self), Program: filepath.Base(self), Args: args, Memory: 2 * memory, Cgroup: cgroup,
	}, sandbox.Deps{})
	if err != nil {
		return err
	}
	p.Wait()
	return nil
}
