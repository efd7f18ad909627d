package sandbox

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// Box is a program that runs confined. Its methods may be called from anywhere, at any time.
type Box struct {
	cfg    Config
	deps   Deps
	run    *launched
	group  *group
	begun  time.Time
	relays []*relay
	first  Report        // tier, number, what holds the limits
	pace   chan struct{} // holds one: frozen may have changed

	mu     sync.Mutex
	ended  bool // its number may be another's now
	frozen bool // by Freeze
	held   bool // by the duty cycle
	halted bool // the last signal of the two was SIGSTOP
	why    string
	killAt time.Time // after Stop

	looked time.Duration // when a family was looked at last; watch's own
	ran    time.Duration // what it is charged; watch's own
	unseen int           // looks in a row that saw nothing of it; watch's own

	result Report
	done   chan struct{} // closed when result is set and nothing is left
}

// Start starts a program. Deps' files remain the caller's and may be closed at once. The error tells,
// for every tier that was tried, which step failed; its kind is Unavailable if no tier works here.
func Start(c Config, d Deps) (*Box, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.WithDefaults()
	if err := checkKeep(d.Keep); err != nil {
		return nil, err
	}
	b := &Box{cfg: c, deps: d, pace: make(chan struct{}, 1), done: make(chan struct{}), group: newGroup(c, runtime.NumCPU())}
	f, err := look(c, slices.Sorted(maps.Keys(d.Keep)), len(b.group.join))
	if err != nil {
		b.group.close()
		return nil, err
	}
	std, closeStd, err := b.standard()
	if err != nil {
		b.group.close()
		return nil, err
	}
	err = b.strongest(f, std)
	closeStd()
	b.group.forget()
	if err != nil {
		b.closeRelays()
		b.group.close()
		return nil, err
	}
	for _, r := range b.relays {
		r.start(b.begun)
	}
	go b.watch()
	return b, nil
}

func checkKeep(keep map[int]*os.File) error {
	for target, f := range keep {
		if target < 3 || target > 1000 {
			return cellproto.Errorf("check inherited descriptors", cellproto.BadInput, "%d is not between 3 and 1000", target)
		}
		if err := checkInherited(f); err != nil {
			return cellproto.Errorf("check inherited descriptors", cellproto.Denied, "descriptor %d: %w", target, err).
				WithHint("A program in a sandbox may inherit connected Unix stream sockets, pipes, and files that are only read.")
		}
	}
	return nil
}

// strongest starts the program in the first tier in which all steps succeed.
func (b *Box) strongest(f facts, std [3]*os.File) error {
	try := tiers()
	if b.cfg.Tier != Auto {
		try = []Tier{b.cfg.Tier}
	}
	var failed []error
	for _, t := range try {
		err := b.try(&f, t, std)
		if err == nil {
			b.describe(t)
			b.first.Weaker = cut(joinErrors(failed))
			return nil
		}
		e := explain(t, f, err)
		if e.Kind != cellproto.Unavailable {
			return e // the program, not the tier
		}
		failed = append(failed, e)
	}
	return cellproto.Errorf("start "+f.Program, cellproto.Unavailable, "no sandbox works here: %s", joinErrors(failed)).
		WithHint("cellbox --probe says what this machine lacks.")
}

// try starts the program in a tier. Control groups that cannot be entered are given up, one way after
// the other: the limits are then held without.
func (b *Box) try(f *facts, t Tier, std [3]*os.File) error {
	for {
		p, err := makePlan(b.cfg, *f, t, false)
		if err != nil {
			return err
		}
		argv := append([]string{p.Path}, b.cfg.Args...)
		b.begun = time.Now()
		b.run, err = launch(p, argv, std, b.deps.Keep, b.group)
		switch {
		case err == nil || !groupFailed(err):
			return err
		case b.group.enter != nil && !b.group.noClone3:
			b.group.noClone3 = true // by its number
		default:
			b.group.close()
			b.group, f.Join = &group{holds: map[string]string{}}, 0
		}
	}
}

func joinErrors(errs []error) string {
	var list []string
	for _, err := range errs {
		list = append(list, err.Error())
	}
	return strings.Join(list, "; ")
}

// describe fills in what does not change while the program runs.
func (b *Box) describe(t Tier) {
	by := func(controller, otherwise string) string {
		if s := b.group.holds[controller]; s != "" {
			return s
		}
		return otherwise
	}
	b.first = Report{Tier: t, PID: b.run.pid, MemoryBy: by("memory", byWatchdog), ThreadsBy: by("pids", byWatchdog)}
	if b.first.CPUBy = by("cpu", byDuty); b.cfg.CPU >= float64(runtime.NumCPU()) {
		b.first.CPUBy = byNothing
	}
}

// Report gives what does not change while the program runs: its tier, its number, what holds the limits.
func (b *Box) Report() Report { r := b.first; r.Event = EventStart; return r }

// Wait waits until the program has ended and nothing of it is left, and gives the last report.
func (b *Box) Wait() Report {
	<-b.done
	return b.result
}

// Done is closed when Wait would not wait.
func (b *Box) Done() <-chan struct{} { return b.done }

// Signal sends the program a signal.
func (b *Box) Signal(sig syscall.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.run.signal(sig)
	}
}

// Stop asks the program to end, with SIGTERM, and kills it after Config.Grace. It does not wait.
func (b *Box) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || !b.killAt.IsZero() {
		return
	}
	b.why, b.killAt = WhyStopped, time.Now().Add(b.cfg.Grace)
	b.run.signal(unix.SIGTERM)
	b.setFrozen(false)
}

// Kill ends the program at once. It does not wait.
func (b *Box) Kill() { b.end(WhyStopped) }

// Freeze stops the program where it is, until Thaw or Stop.
func (b *Box) Freeze() { b.freeze(true) }

// Thaw lets a frozen program go on.
func (b *Box) Thaw() { b.freeze(false) }

func (b *Box) freeze(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.setFrozen(on && b.killAt.IsZero())
}

// setFrozen is freeze; the caller holds mu.
func (b *Box) setFrozen(on bool) {
	b.frozen = on
	select {
	case b.pace <- struct{}{}:
	default:
	}
	b.halt()
}

func (b *Box) hold(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = on
	b.halt()
}

// halt brings the program to what frozen and held ask for. The caller holds mu.
func (b *Box) halt() {
	want := b.frozen || b.held
	if b.ended || want == b.halted {
		return
	}
	b.halted = want
	b.sendHalt(want)
}

// end kills the program, for the first reason that is given.
func (b *Box) end(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	if b.why == "" {
		b.why = why
	}
	b.run.kill()
}

// standard gives the standard descriptors, and what closes those that were made for it.
func (b *Box) standard() (std [3]*os.File, done func(), err error) {
	var made []*os.File
	done = func() {
		for _, f := range made {
			f.Close()
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return std, done, cellproto.Errorf("open the null device", cellproto.KindOf(err), "%w", err)
	}
	made = append(made, null)
	std = [3]*os.File{null, null, null}
	if in := b.deps.Stdin; in != nil && !isTerminal(in) {
		if err := checkInherited(in); err != nil {
			done()
			return std, done, cellproto.Errorf("check the standard input", cellproto.Denied, "%w", err)
		}
		std[0] = in
	}
	for i, out := range []*os.File{b.deps.Stdout, b.deps.Stderr} {
		switch log := i == 1 || b.cfg.LogStdout; {
		case out == nil:
		case !log && !needsPipe(out):
			std[i+1] = out
		default:
			r, their, err := newRelay(out, log, b.cfg.LogRate)
			if err != nil {
				done()
				b.closeRelays()
				return std, done, cellproto.Errorf("make a pipe", cellproto.KindOf(err), "%w", err)
			}
			b.relays, made, std[i+1] = append(b.relays, r), append(made, their), their
		}
	}
	return std, done, nil
}

func (b *Box) closeRelays() {
	for _, r := range b.relays {
		r.close()
	}
}

func isTerminal(f *os.File) (yes bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		yes = err == nil
	})
	return yes
}

// status reads the guard's words: that the program has ended, and how.
func (l *launched) awaitEnded() bool {
	word := make([]byte, 1)
	n, _ := l.status.Read(word)
	return n == 1 && word[0] == sayEnded
}

// reap has the guard collect the program, and gives how it ended. ok is false if the guard was killed.
func (l *launched) reap() (end endRecord, ok bool) {
	if _, err := l.life.Write([]byte{sayReap}); err != nil {
		return end, false
	}
	return readEnd(l.status)
}

// exitOf says in words how a program ended.
func exitOf(end endRecord) (exit int, signal string) {
	switch status := syscall.WaitStatus(end.Status); {
	case status.Exited():
		return status.ExitStatus(), ""
	case status.Signaled():
		return 128 + int(status.Signal()), status.Signal().String()
	}
	return -1, fmt.Sprintf("status %#x", end.Status)
}

// Describe gives the plan of every tier, as text: what would be done with c, or why it cannot be. keep
// are the numbers of the descriptors that would be inherited. It does none of it.
func Describe(c Config, keep []int) (string, error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	c = c.WithDefaults()
	f, err := look(c, keep, 0)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, t := range tiers() {
		p, err := makePlan(c, f, t, false)
		if err != nil {
			fmt.Fprintf(&text, "%v\n\n", err)
			continue
		}
		fmt.Fprintf(&text, "%v\n", p)
	}
	return text.String(), nil
}
