package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not after %v: %s", patience, what)
		}
	}
}

// working gives the tiers that work here for this user.
func working(t testing.TB) (list []Tier) {
	t.Helper()
	for _, s := range Probe().Tiers {
		if s.Works {
			list = append(list, s.Tier)
		} else {
			t.Logf("%v does not work here: %s", s.Tier, s.Why)
		}
	}
	if len(list) == 0 {
		t.Skip("no tier works here: " + fmt.Sprint(Probe()))
	}
	return list
}

// told is a program in the sandbox and what it has printed.
type told struct {
	*Confined
	t      testing.TB
	stdin  *os.File // to the program
	reader sync.WaitGroup
	mu     sync.Mutex
	out    bytes.Buffer
	seen   []Report
}

// tell starts the obedient program through cellbox and leaves nothing of it behind.
func tell(t testing.TB, c Config, keep map[int]*os.File, args ...string) *told {
	t.Helper()
	p, err := tryTell(t, c, keep, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryTell(t testing.TB, c Config, keep map[int]*os.File, args ...string) (*told, error) {
	t.Helper()
	if c.Dir == "" {
		c.Dir = built
	}
	if c.Program == "" {
		c.Program = "obedient"
	}
	c.Args = args
	p := &told{t: t}
	theirIn, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	d := Deps{Stdin: theirIn, Stdout: theirOut, Stderr: theirOut, Keep: keep, Report: func(r Report) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen = append(p.seen, r)
	}}
	p.Confined, err = Confine(context.Background(), filepath.Join(built, "cellbox"), c, d)
	theirIn.Close()
	theirOut.Close()
	p.reader.Go(func() { _, _ = io.Copy(lockedWriter{p}, stdout) })
	t.Cleanup(func() {
		stdin.Close()
		if p.Confined != nil {
			p.Kill()
			p.Wait()
			p.checkGone()
		}
		p.reader.Wait()
		stdout.Close()
	})
	return p, err
}

type lockedWriter struct{ p *told }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.p.out.Write(b)
}

func (p *told) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *told) reports() []Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Report(nil), p.seen...)
}

// end waits for the end and for all that was printed.
func (p *told) end() (Report, string) {
	p.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		p.t.Fatalf("it has not ended after %v; it said %q", patience, p.said())
	}
	p.reader.Wait()
	return p.Wait(), p.said()
}

func (p *told) await(text string) {
	p.t.Helper()
	eventually(p.t, "it says "+text, func() bool { return strings.Contains(p.said(), text) })
}

// checkGone looks for what a program that has ended, and its launcher, may have left.
func (p *told) checkGone() {
	p.t.Helper()
	eventually(p.t, "the program is gone", func() bool { return !alive(p.PID()) })
	if left := groupsOf(p.cmd.Process.Pid); len(left) > 0 {
		p.t.Errorf("control groups are left: %v", left)
	}
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool { return !strings.Contains("XZ-", state(pid)) }

// state is the letter of /proc/PID/stat, "-" if there is no such process.
func state(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "-"
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

func groupsOf(pid int) (list []string) {
	places, err := readPlaces()
	if err != nil {
		return nil
	}
	for _, p := range places {
		more, _ := filepath.Glob(filepath.Join(p.Dir, groupPrefix+strconv.Itoa(pid)+"-*"))
		list = append(list, more...)
	}
	return list
}
