package program

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

const (
	// pipeGrace is how long the output of a process that has ended is read: what it has written is
	// there already, and a descendant that got away may hold the pipe open for ever.
	pipeGrace = 200 * time.Millisecond
	// busyRetry is how often, and how far apart, the exec of a file is tried that somebody has open
	// for writing: a fork elsewhere in this process can hold it for a moment.
	busyRetries = 10
	busyPause   = 10 * time.Millisecond
)

// process is one process of the program, with its process group. It is reaped, and its group is
// killed, as soon as it ends.
type process struct {
	pid      int
	wait     func() error      // reaps it; an error says how it ended. Nil: it is confined
	box      *sandbox.Confined // nil: it is not
	tier     string            // of the sandbox; "": none
	exited   chan struct{}     // closed when it has been reaped
	finished chan struct{}     // closed after exited, when its output has been taken in
	status   string            // how it ended; set before exited is closed
	clean    bool              // it ended with status 0; set before exited is closed

	mu     sync.Mutex
	reaped bool
	pumps  sync.WaitGroup
	pipes  []*os.File // that the pumps read
	pump   *pump      // of its output
}

// spec is what startProcess starts.
type spec struct {
	path, dir string
	env       []string
	stdin     *os.File   // nil: the null device
	stdout    *os.File   // nil: the output, like the standard error
	extra     []*os.File // the descriptors from 3 on
}

// startProcess starts s; what it prints goes to out. The files of s stay the caller's to close.
// abort ends the attempts to start a file that is being written. The error is that of exec.
func startProcess(s spec, out *output, abort <-chan struct{}) (*process, error) {
	r, w, err := outputPipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	p := &process{exited: make(chan struct{}), finished: make(chan struct{}), pipes: []*os.File{r}}
	var cmd *exec.Cmd
	for try := 0; ; try++ {
		cmd = exec.Command(s.path)
		cmd.Dir, cmd.Env, cmd.ExtraFiles = s.dir, s.env, s.extra
		cmd.Stdout, cmd.Stderr = w, w
		cmd.Stdin = null()
		if s.stdin != nil {
			cmd.Stdin = s.stdin
		}
		if s.stdout != nil {
			cmd.Stdout = s.stdout
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err = cmd.Start(); !errors.Is(err, syscall.ETXTBSY) || try == busyRetries {
			break
		}
		if wait(abort, busyPause, nil) {
			break
		}
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	p.pid, p.wait = cmd.Process.Pid, cmd.Wait
	p.watch(out, r, nil, 0)
	return p, nil
}

// watch begins to take in what the process prints, after a line that has begun, and to wait for its end.
func (p *process) watch(out *output, r *os.File, line []byte, cut int) {
	p.pump = newPump(out, r, line, cut)
	p.pumps.Go(p.pump.run)
	go p.reap()
}

// reap waits for the process and cleans up behind it.
func (p *process) reap() {
	defer close(p.finished)
	collect := p.collect
	if p.box != nil {
		collect = p.collectConfined
	}
	err := collect()
	p.clean = err == nil
	p.status = "exit status 0"
	if err != nil {
		p.status = err.Error()
	}
	close(p.exited)
	read := make(chan struct{})
	go func() { p.pumps.Wait(); close(read) }()
	wait(read, pipeGrace, nil)
	for _, f := range p.pipes {
		f.Close()
	}
	<-read
}

// signal sends sig to the process group, unless the process has been reaped.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped && p.box != nil {
		p.signalConfined(sig)
	} else if !p.reaped {
		_ = syscall.Kill(-p.pid, sig) // it can only be gone already
	}
}

// end ends the process: SIGTERM, and SIGKILL after grace or when hurry is closed.
func (p *process) end(grace time.Duration, hurry <-chan struct{}) {
	select {
	case <-p.exited:
	default:
		if !isClosed(hurry) {
			p.signal(syscall.SIGTERM)
			p.signal(syscall.SIGCONT) // a stopped process could not act on it
		}
		if !wait(p.exited, grace, hurry) {
			p.signal(syscall.SIGKILL)
		}
	}
	<-p.finished
}

// wait waits for ch, at most d, or until hurry is closed. It reports whether ch was closed.
func wait(ch <-chan struct{}, d time.Duration, hurry <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ch:
		return true
	case <-hurry:
	case <-timer.C:
	}
	return false
}

// keptEnv is what a program may see of the nucleus's environment. Everything else stays here: it may
// hold keys.
var keptEnv = []string{"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"}

const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// environ gives the program's environment, sorted. It inherits so many sockets: that of the frames, and
// that over which connections are handed over.
func environ(cfg Config, getenv func(string) (string, bool), sockets int) []string {
	env := map[string]string{"PATH": defaultPath}
	for _, key := range keptEnv {
		if v, ok := getenv(key); ok && v != "" {
			env[key] = v
		}
	}
	maps.Copy(env, cfg.Env)
	env[cellproto.EnvDir] = cfg.Dir
	env[cellproto.EnvName] = cfg.Name
	for i, name := range []string{cellproto.EnvFD, cellproto.EnvHandoff}[:sockets] {
		env[name] = fmt.Sprint(firstFD + i)
	}
	list := make([]string, 0, len(env))
	for key, v := range env {
		list = append(list, key+"="+v)
	}
	slices.SortFunc(list, strings.Compare)
	return list
}
