package celltest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// stopTime is within what a nucleus ends that was told to, also with calls in flight.
const stopTime = 15 * time.Second

// Cell is a cell's directory, and its nucleus if that was started here. Its methods are for one
// goroutine, but Use and Status.
type Cell struct {
	Dir string

	n    *Net
	on   *place // nil: this machine's loopback
	t    testing.TB
	proc *process // nil: none was started here, or it has been waited for

	celld string   // another celld than that of Bin; "": that
	args  []string // before the directory
}

// process is a celld that was started here.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}
}

func (c *Cell) write(name, text string, mode os.FileMode) {
	c.t.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cell) copyFile(from, to string, mode os.FileMode) {
	c.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(to, string(data), mode)
}

// Edit replaces a text in cell.toml; an empty old one appends to it.
func (c *Cell) Edit(old, text string) {
	c.t.Helper()
	path := filepath.Join(c.Dir, "cell.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	toml := string(data) + text
	if old != "" {
		if !strings.Contains(string(data), old) {
			c.t.Fatalf("cell.toml has no %q", old)
		}
		toml = strings.Replace(string(data), old, text, 1)
	}
	c.write("cell.toml", toml, 0o644)
}

// spawn starts celld for the cell and gives the error that it reports, or nil when it is ready.
func (c *Cell) spawn() (*process, error) {
	c.t.Helper()
	ready, w, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer ready.Close()
	celld := c.celld
	if celld == "" {
		celld = filepath.Join(Bin(c.t), "celld")
	}
	p := &process{cmd: exec.Command(celld, append(slices.Clone(c.args), c.Dir)...), ended: make(chan struct{})}
	p.cmd.Env = append(c.n.environ(c.on), ctl.EnvReadyFD+"=3")
	p.cmd.ExtraFiles = []*os.File{w} // descriptor 3
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.on.launch(p.cmd)
	w.Close()
	if err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its state says how it ended
		close(p.ended)
	}()
	if err := ready.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		c.t.Fatal(err)
	}
	return p, ctl.ReadReady(ready)
}

// Start starts the nucleus and waits until it is ready.
func (c *Cell) Start() {
	c.t.Helper()
	p, err := c.spawn()
	c.proc = p
	if err != nil {
		c.t.Fatalf("celld %s: %v\n%s", c.Dir, err, c.Log())
	}
}

// StartAgain starts another celld for the same directory, waits for its end, and gives its exit code
// and what it said. It is not ready before somebody answers for the cell.
func (c *Cell) StartAgain() (code int, said string) {
	c.t.Helper()
	p, err := c.spawn()
	if err != nil {
		c.t.Fatalf("celld %s a second time: %v", c.Dir, err)
	}
	c.await(p, Patience)
	return p.cmd.ProcessState.ExitCode(), p.stderr.String()
}

func (c *Cell) await(p *process, limit time.Duration) {
	c.t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // for its stacks
		<-p.ended
		c.t.Errorf("celld %s did not end in %v:\n%s", c.Dir, limit, p.stderr.String())
	}
}

// PID gives the process id of the nucleus that was started here.
func (c *Cell) PID() int { return c.proc.cmd.Process.Pid }

// Stop tells the nucleus to stop, waits for it, and checks that it leaves nothing behind. It gives
// how long that took.
func (c *Cell) Stop() time.Duration {
	c.t.Helper()
	program := c.Status().ProgramPID
	begin := time.Now()
	if err := c.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	c.await(c.proc, stopTime)
	took := time.Since(begin)
	if code := c.proc.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("celld %s: exit code %d\n%s", c.Dir, code, c.proc.stderr.String())
	}
	c.proc = nil
	c.CheckGone(program)
	return took
}

// Kill ends the nucleus as a lost battery would. Its program may live on for a moment.
func (c *Cell) Kill() {
	c.t.Helper()
	if err := c.proc.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-c.proc.ended
	c.proc = nil
}

// Signal sends a signal to the nucleus. What was stopped is continued at the end of the test. It waits until a
// SIGSTOP has stopped every thread: on a busy machine that takes a while.
func (c *Cell) Signal(sig syscall.Signal) {
	c.t.Helper()
	pid := c.proc.cmd.Process.Pid
	if err := c.proc.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	if sig == syscall.SIGSTOP {
		Eventually(c.t, "every thread stands", func() bool { return standing(pid) })
	}
}

// hang stops a process until the test ends, and waits as Signal does.
func hang(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	Eventually(t, "every thread stands", func() bool { return standing(pid) })
}

// standing says whether all threads of a process are stopped; true where that cannot be seen.
func standing(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if _, rest, ok := strings.Cut(string(data), ") "); err == nil && ok && rest[0] != 'T' {
			return false
		}
	}
	return true
}

// AwaitEnd waits until the nucleus has ended by itself, with exit code 0.
func (c *Cell) AwaitEnd() {
	c.t.Helper()
	c.await(c.proc, Patience)
	if code := c.proc.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("celld %s: exit code %d\n%s", c.Dir, code, c.proc.stderr.String())
	}
	c.proc = nil
}

// CheckGone checks that nothing of a stopped cell is left: no socket, no pid, not the program's process.
func (c *Cell) CheckGone(program int) {
	c.t.Helper()
	for _, name := range []string{"cell.sock", "ctl.sock", "pid"} {
		if _, err := os.Lstat(filepath.Join(c.Dir, ctl.RunDir, name)); err == nil {
			c.t.Errorf("%s was left in %s", name, c.Dir)
		}
	}
	if program > 0 && Alive(program) {
		c.t.Errorf("the program of %s, process %d, was left", c.Dir, program)
	}
}

// Alive says whether there is such a process. One that has ended and not been waited for is not.
func Alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return len(after) > 0 && after[0] != 'Z'
}

// Status asks the nucleus how it is.
func (c *Cell) Status() ctl.Status {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s, err := (&ctl.Client{Dir: c.Dir}).Status(ctx)
	if err != nil {
		c.t.Fatalf("status of %s: %v\n%s", c.Dir, err, c.Log())
	}
	return s
}

// Publish publishes the cell and waits until others can find it.
func (c *Cell) Publish() ctl.Published {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	p, err := (&ctl.Client{Dir: c.Dir}).Publish(ctx, ctl.Guard{})
	if err != nil {
		c.t.Fatalf("publish %s: %v\n%s", c.Dir, err, c.Log())
	}
	return p
}

// AwaitProviders waits until so many providers of a target can be found from here.
func (c *Cell) AwaitProviders(target string, n int) {
	c.t.Helper()
	Eventually(c.t, fmt.Sprintf("%d providers of %s are found", n, target), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var peers []string
		_ = (&ctl.Client{Dir: c.Dir}).Find(ctx, target, func(row ctl.FindRow) error { // not found yet is no error here
			if !slices.Contains(peers, row.Peer) {
				peers = append(peers, row.Peer)
			}
			return nil
		})
		return len(peers) >= n
	})
}

// Ctl runs cellctl in the cell's directory, and Must has it succeed.
func (c *Cell) Ctl(args ...string) Result { c.t.Helper(); return c.n.ctl(c.on, c.Dir, args...) }

// Must is as Net.Must, in the cell's directory.
func (c *Cell) Must(args ...string) string { c.t.Helper(); return c.n.must(c.on, c.Dir, args...) }

// Log gives the nucleus's log, for messages.
func (c *Cell) Log() string {
	data, err := os.ReadFile(filepath.Join(c.Dir, "log", "nucleus.log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// cleanup ends what still runs in the directory, whoever has started it.
func (c *Cell) cleanup() {
	if c.t.Failed() {
		c.t.Logf("log of %s:\n%s", c.Dir, c.Log())
	}
	if p := c.proc; p != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended; so below
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		c.await(p, stopTime)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if (&ctl.Client{Dir: c.Dir}).Stop(ctx) != nil {
		return // nothing runs
	}
	again, done := context.WithTimeout(context.Background(), Patience)
	defer done()
	Eventually(c.t, "the nucleus of "+c.Dir+" has stopped", func() bool {
		_, err := os.Lstat(filepath.Join(c.Dir, ctl.RunDir, "pid"))
		if err == nil { // who hosts it may have started it anew between two looks
			_ = (&ctl.Client{Dir: c.Dir}).Stop(again)
		}
		return err != nil
	})
}
