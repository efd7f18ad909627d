package sandbox

import (
	"bufio"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// maxInherited bounds the numbers of the descriptors that a program inherits through cellbox: all
// below are passed by their places.
const maxInherited = 64

// startTimeout is how long cellbox may take to say how it went; it gives up before.
const startTimeout = setupTimeout + 5*time.Second

// Confined is a program that cellbox runs. Its methods may be called from anywhere, at any time.
type Confined struct {
	cmd    *exec.Cmd
	report func(Report)
	owner  *os.File // cellbox reads it; when it closes the program is killed
	began  chan struct{}
	done   chan struct{} // closed when last is the end and nothing is left

	mu    sync.Mutex
	first Report
	last  Report
}

// Confine starts a program through the launcher cellbox, whose path FindLauncher gives. So do programs
// that are larger than cellbox: a fork copies the tables of all their memory, and the guard would hold
// what they keep in it. Deps' files remain the caller's and may be closed at once; the numbers in
// Deps.Keep are at most 64. When ctx ends the program is asked to end, as with Stop; when this process
// ends, however, the program is killed. An error says that its first instruction was never run; its
// kind is Unavailable if no tier works here.
func Confine(ctx context.Context, launcher string, c Config, d Deps) (*Confined, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := checkKeep(d.Keep); err != nil {
		return nil, err
	}
	c.CPU = min(c.CPU, float64(runtime.NumCPU())) // the command line knows no more
	p := &Confined{report: d.Report, began: make(chan struct{}), done: make(chan struct{})}
	reports, err := p.start(launcher, c, d)
	if err != nil {
		return nil, cellproto.Errorf("start "+launcher, cellproto.Unavailable, "%w", err).
			WithHint("%s says where cellbox is.", EnvLauncher)
	}
	go p.watch(reports)
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-p.began:
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
	case <-timer.C:
		p.Kill()
	}
	select {
	case <-p.began:
	default:
		<-p.done
		return nil, p.failure(ctx, c)
	}
	stop := context.AfterFunc(ctx, p.Stop)
	go func() { <-p.done; stop() }()
	return p, nil
}

// start starts cellbox and gives the pipe of its reports.
func (p *Confined) start(launcher string, c Config, d Deps) (reports *os.File, err error) {
	keep := slices.Sorted(maps.Keys(d.Keep))
	if len(keep) > 0 && keep[len(keep)-1] > maxInherited {
		return nil, cellproto.Errorf("check inherited descriptors", cellproto.BadInput, "%d is above %d", keep[len(keep)-1], maxInherited)
	}
	extra := make([]*os.File, 0, maxInherited)
	for _, fd := range keep {
		for len(extra) < fd-3 {
			extra = append(extra, nil)
		}
		extra = append(extra, d.Keep[fd])
	}
	reports, theirReports, err := halfPipe(false)
	if err != nil {
		return nil, err
	}
	defer theirReports.Close()
	owner, theirOwner, err := halfPipe(true)
	if err != nil {
		reports.Close()
		return nil, err
	}
	defer theirOwner.Close()
	at := 3 + len(extra)
	p.cmd = exec.Command(launcher, c.CommandLine(keep, "--report", strconv.Itoa(at), "--owner-fd", strconv.Itoa(at+1))...)
	p.cmd.ExtraFiles = append(extra, theirReports, theirOwner)
	// Nothing of this process's environment, which may hold keys: the guard is a copy of cellbox.
	p.cmd.Env = append(locale(), "PATH="+safePath)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = fileOrNull(d.Stdin), writerOrNull(d.Stdout), writerOrNull(d.Stderr)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's signals are for the owner
	if err = p.cmd.Start(); err != nil {
		reports.Close()
		owner.Close()
		return nil, err
	}
	p.owner = owner
	return reports, nil
}

// A nil *os.File in an interface is not nil.
func fileOrNull(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

func writerOrNull(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}

// watch reads what cellbox says until it ends, and waits for it.
func (p *Confined) watch(reports *os.File) {
	defer close(p.done)
	lines := bufio.NewScanner(reports)
	lines.Buffer(make([]byte, 4<<10), MaxReportLine+1)
	for lines.Scan() {
		r, err := ParseReport(lines.Bytes())
		if err != nil {
			break // it is not cellbox, or it is out of its mind: what it holds ends with it
		}
		p.take(r)
	}
	reports.Close()
	p.owner.Close()
	_ = p.cmd.Wait() // what it says of the program it has reported
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.Event == EventEnd || p.last.Event == EventFailed {
		return
	}
	p.last = p.first
	p.last.Event, p.last.Exit, p.last.Why, p.last.Signal = EventEnd, 128+int(unix.SIGKILL), WhyGuard, unix.SIGKILL.String()
	if p.report != nil && p.first.Event != "" {
		p.report(p.last)
	}
}

func (p *Confined) take(r Report) {
	p.mu.Lock()
	p.last = r
	if r.Event == EventStart && p.first.Event == "" {
		p.first = r
		close(p.began)
	}
	p.mu.Unlock()
	if p.report != nil {
		p.report(r)
	}
}

// failure says why the program was not started.
func (p *Confined) failure(ctx context.Context, c Config) error {
	r := p.Last()
	if err := r.Err(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return cellproto.Errorf("start "+c.Program, cellproto.Canceled, "%w", context.Cause(ctx))
	}
	return cellproto.Errorf("start "+c.Program, cellproto.Unavailable, "%s ended and did not say why: %v", launcherName, p.cmd.ProcessState)
}

// PID is the program's number. It may be another's when the program has ended.
func (p *Confined) PID() int { return p.Report().PID }

// Report gives what does not change while the program runs: its tier, its number, what holds the limits.
func (p *Confined) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

// Last gives the newest report; they come every Config.Every.
func (p *Confined) Last() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Wait waits until the program has ended and nothing of it is left, and gives the last report.
func (p *Confined) Wait() Report {
	<-p.done
	return p.Last()
}

// Done is closed when Wait would not wait.
func (p *Confined) Done() <-chan struct{} { return p.done }

// Stop asks the program to end, with SIGTERM, and kills it after Config.Grace. It does not wait.
func (p *Confined) Stop() { p.signal(unix.SIGTERM) }

// Kill ends the program at once. It does not wait.
func (p *Confined) Kill() { p.owner.Close() }

// Freeze stops the program where it is, until Thaw or Stop. It does not wait.
func (p *Confined) Freeze() { p.signal(unix.SIGUSR1) }

// Thaw lets a frozen program go on. It does not wait.
func (p *Confined) Thaw() { p.signal(unix.SIGUSR2) }

func (p *Confined) signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) } // it can only have ended
