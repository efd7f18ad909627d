// Command give measures what giving costs the owner of a machine, and whether strangers keep to what they are
// given: a program that wants everything under the caps, the owner's own work beside it, what is left when it
// is stopped, the start of a confined program, a nucleus that gives and has nothing to do. scripts/give.sh
// runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/celldnet/celld/node/sandbox"
)

const (
	share   = 0.10 // of the machine
	memory  = 256 << 20
	disk    = 5_000_000
	rounds  = 6  // of the owner's work, with and without
	startsN = 40 // of a program
)

type options struct {
	bin, work string
	span      time.Duration
	only      string
}

func main() {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		roles[os.Args[1]](os.Args[2:])
		return
	}
	var o options
	flag.StringVar(&o.bin, "bin", "", "the `directory` of celld, cellctl and cellbox")
	flag.StringVar(&o.work, "work", "", "a `directory` on the disk that is written to")
	flag.DurationVar(&o.span, "span", time.Minute, "for how long is measured")
	flag.StringVar(&o.only, "only", "caps,work,start,idle", "what is measured")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "give:", err)
		os.Exit(1)
	}
}

func (o options) run() error {
	fmt.Printf("%d processors, %s, load %s\n\n", runtime.NumCPU(), runtime.GOARCH, load())
	for _, m := range []struct {
		name string
		do   func() error
	}{{"caps", o.caps}, {"work", o.ownWork}, {"start", o.starts}, {"idle", o.idle}} {
		if !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		if err := m.do(); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func row(what, got, want string) { fmt.Printf("%-44s %-28s %s\n", what, got, want) }

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
		return leftIn(pool), err
	}, nil
}

// leftIn waits for a pool to be empty and removes it. It gives how many processes are in it two seconds on.
func leftIn(pool *sandbox.Pool) (left int) {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
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
	row("held by", pool.By(), "")
	row("processors", fmt.Sprintf("%.2f %% of the machine", 100*(after.CPU-before.CPU).Seconds()/took/float64(runtime.NumCPU())), "10 +- 1 %")
	row("memory, the most that was seen", fmt.Sprintf("%.1f MiB", float64(peak)/(1<<20)), fmt.Sprintf("<= %d MiB", memory>>20))
	row("disk, written", fmt.Sprintf("%.2f MB/s", float64(after.Disk-before.Disk)/took/1e6), "<= 5.2 MB/s")
	row("processes left after kill -9 of the host", strconv.Itoa(left), "0")
	return nil
}

// ownWork measures the owner's work, a fixed compile, with strangers and without.
func (o options) ownWork() error {
	var alone, beside []time.Duration
	for range rounds {
		d, err := o.compile()
		if err != nil {
			return err
		}
		alone = append(alone, d)
		_, end, err := o.strangers()
		if err != nil {
			return err
		}
		d, err = o.compile()
		_, endErr := end()
		if err = errors.Join(err, endErr); err != nil {
			return err
		}
		beside = append(beside, d)
	}
	a, b := median(alone), median(beside)
	row("the owner's compile, alone and beside", fmt.Sprintf("%.2f s, %.2f s: %+.1f %%", a.Seconds(), b.Seconds(), 100*(b.Seconds()/a.Seconds()-1)), "<= +3 %")
	return nil
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

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// starts measures the start of a program that ends at once, plainly and confined.
func (o options) starts() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Dir(self)
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
	row("start and end, plain and confined", fmt.Sprintf("%.1f ms, %.1f ms", ms(a), ms(b)), fmt.Sprintf("<= 10 ms more: %.1f", ms(b-a)))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// idle measures a nucleus that gives, and to which nobody comes.
func (o options) idle() error {
	home, err := os.MkdirTemp(o.work, "home")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	ctl := func(args ...string) error {
		cmd := exec.Command(filepath.Join(o.bin, "cellctl"), args...)
		cmd.Env = append(os.Environ(), "CELL_HOME="+home, "CELL_NETWORK=give-bench", "CELL_LISTEN=/ip4/127.0.0.1/tcp/0", "CELL_MDNS=off",
			"PATH="+o.bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		cmd.Dir = o.work
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cellctl %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	defer ctl("stop", home)
	for _, step := range []struct {
		args []string
		what string
		want string
	}{
		{[]string{"give", "stop"}, "a home nucleus that does not give", ""},
		{[]string{"give", "--busy", "100%"}, "one that gives, and has nothing to do", "<= 0.2 %"},
	} {
		if err := ctl(step.args...); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(home, "run", "pid"))
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
		time.Sleep(o.span)
		after, err := cpuOf(pid)
		if err != nil {
			return err
		}
		row(step.what, fmt.Sprintf("%.3f %% of a processor", 100*(after-before).Seconds()/time.Since(begin).Seconds()), step.want)
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
