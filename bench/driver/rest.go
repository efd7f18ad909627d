package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/internal/ctl"
)

// Goals for a nucleus at rest, and what counts as growth.
const (
	restRSS    = 35.0 // MiB
	restCPU    = 0.1  // % of one core
	growthMost = 1.0  // MiB between the second and the last quarter of the calls
	sampling   = time.Second
)

// rest watches a published cell's nucleus that nobody calls, and then one that is called without end.
func rest(b *bench) error {
	n, err := b.network("rest")
	if err != nil {
		return err
	}
	c, err := n.cell("echo", "echo")
	if err != nil {
		return err
	}
	cid, err := n.publish(c)
	if err != nil {
		return err
	}
	if err := n.awaitProviders(1, cid); err != nil {
		return err
	}
	time.Sleep(3 * settle) // what publishing has left to do is done
	if err := b.atRest(c); err != nil {
		return err
	}
	if b.o.calls == 0 {
		return nil
	}
	return b.growth(n, c, cid)
}

func (b *bench) atRest(c *cellDir) error {
	cpu, err := cpuTime(c.pid())
	if err != nil {
		return err
	}
	rss, err := b.watch(c.pid(), b.o.rest)
	if err != nil {
		return err
	}
	end, err := cpuTime(c.pid())
	if err != nil {
		return err
	}
	percent := 100 * float64(end-cpu) / float64(b.o.rest)
	b.add(row{
		what: fmt.Sprintf("rest: RSS of a nucleus that nobody calls, over %v: median (most)", b.o.rest),
		ours: fmt.Sprintf("%.1f (%.1f) MiB", rss.median(), rss.quantile(1)), goal: "≤ 35 MiB", met: yes(rss.quantile(1) <= restRSS),
	})
	b.add(row{
		what: fmt.Sprintf("rest: CPU of the same, over %v", b.o.rest),
		ours: fmt.Sprintf("%.3f %%", percent), goal: "≤ 0.1 %", met: yes(percent <= restCPU),
	})
	return nil
}

// watch samples the RSS of a process in MiB.
func (b *bench) watch(pid int, during time.Duration) (samples, error) {
	var s samples
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			return nil, b.ctx.Err()
		}
		mib, err := residentMiB(pid)
		if err != nil {
			return nil, err
		}
		s = append(s, mib)
	}
	if len(s) == 0 {
		return nil, errors.New("watched for less than a second")
	}
	return s, nil
}

// growth calls the cell over its socket and by CID at once, and compares the RSS of its nucleus in
// the second quarter of that time with the one in the last: the first fills caches and pools.
func (b *bench) growth(n *network, c *cellDir, cid string) error {
	st, err := c.status(b)
	if err != nil {
		return err
	}
	near, err := b.procs.worker(b.self(), "role", "call-socket", ctl.SocketPath(c.dir, ctl.CellSocket))
	if err != nil {
		return err
	}
	far, err := b.procs.worker(b.self(), "role", "call-cid", cid, st.Addrs[0], filepath.Join(b.dir, "rest", "callers"))
	if err != nil {
		return err
	}
	type result struct {
		load.Outcome
		error
	}
	results := make(chan result, 2)
	for _, w := range []*worker{near, far} {
		go func() {
			o, err := w.round(load.Round{Callers: 8, For: b.o.calls})
			results <- result{o, err}
		}()
	}
	rss, err := b.watch(c.pid(), b.o.calls)
	if err != nil {
		return err
	}
	calls := 0
	for range 2 {
		r := <-results
		if r.error != nil {
			return r.error
		}
		calls += r.Calls
	}
	quarter := len(rss) / 4
	early, late := rss[quarter:2*quarter].median(), rss[3*quarter:].median()
	b.add(row{
		what: fmt.Sprintf("rest: growth over %v of calls (%.1f million): RSS in the second and the last quarter", b.o.calls, float64(calls)/1e6),
		ours: fmt.Sprintf("%.1f → %.1f MiB", early, late), goal: "none", met: yes(late-early <= growthMost),
	})
	return nil
}

// residentMiB reads VmRSS.
func residentMiB(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

// cpuTime adds up what the scheduler has given to each thread, which is finer than the ticks in
// /proc/PID/stat. Threads of a Go program do not end.
func cpuTime(pid int) (time.Duration, error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(paths) == 0 {
		return 0, fmt.Errorf("process %d has no threads: %w", pid, err)
	}
	var sum time.Duration
	for _, path := range paths {
		ns, err := strconv.ParseInt(firstWord(path), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
