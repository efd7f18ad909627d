package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/celldnet/celld/bench/load"
)

// procs are the processes that a section has started. They end with it, the last first.
type procs struct {
	ctx  context.Context
	dir  string
	made []*proc
	logs int
}

// proc is one of them.
type proc struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Scanner
	log   string

	stopped bool
}

const (
	readyTimeout = 30 * time.Second // for a process to say that it serves
	exitTimeout  = 10 * time.Second // to end once it was told to
)

// start runs a program until the section ends. Its standard error goes to a file.
func (p *procs) start(env []string, name string, args ...string) (*proc, error) {
	p.logs++
	log := filepath.Join(p.dir, fmt.Sprintf("%s-%d.log", filepath.Base(name), p.logs))
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	cmd.Stderr, cmd.Env, cmd.Dir = f, append(os.Environ(), env...), p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the terminal is for the driver only
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pr := &proc{cmd: cmd, stdin: stdin, out: bufio.NewScanner(stdout), log: log}
	p.made = append(p.made, pr)
	return pr, nil
}

// serve starts a program of the benchmarks and waits until it says where it serves.
func (p *procs) serve(name string, args ...string) (*proc, string, error) {
	pr, err := p.start(nil, name, args...)
	if err != nil {
		return nil, "", err
	}
	line, err := pr.line(p.ctx, readyTimeout)
	if err != nil {
		return nil, "", err
	}
	where, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		return nil, "", fmt.Errorf("%s said %q", filepath.Base(name), line)
	}
	return pr, where, nil
}

// role gives the number of the first process that was started in a role, 0 without one.
func (p *procs) role(name string) int {
	for _, pr := range p.made {
		if args := pr.cmd.Args; slices.Contains(args[1:min(len(args), 3)], name) {
			return pr.cmd.Process.Pid
		}
	}
	return 0
}

// line waits for one line of the process's standard output.
func (pr *proc) line(ctx context.Context, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	got := make(chan bool, 1)
	go func() { got <- pr.out.Scan() }() // ends with the process
	select {
	case ok := <-got:
		if ok {
			return pr.out.Text(), nil
		}
		return "", fmt.Errorf("%s ended: %s", pr.cmd.Path, pr.lastWords())
	case <-ctx.Done():
		return "", fmt.Errorf("%s says nothing: %w: %s", pr.cmd.Path, ctx.Err(), pr.lastWords())
	}
}

func (pr *proc) lastWords() string {
	text, err := os.ReadFile(pr.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}

// stop ends all processes: by the end of their standard input, then by signals.
func (p *procs) stop() {
	for i := len(p.made) - 1; i >= 0; i-- {
		p.made[i].stop()
	}
	p.made = nil
}

func (pr *proc) stop() {
	if pr.stopped {
		return
	}
	pr.stopped = true
	pr.stdin.Close()
	_ = pr.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.AfterFunc(exitTimeout, func() { _ = pr.cmd.Process.Kill() })
	defer timer.Stop()
	_ = pr.cmd.Wait() // that it was killed is no news
}

// worker is a client process.
type worker struct {
	pr  *proc
	ctx context.Context
}

// worker starts a client process, which connects at once.
func (p *procs) worker(name string, args ...string) (*worker, error) {
	pr, _, err := p.serve(name, args...)
	if err != nil {
		return nil, err
	}
	return &worker{pr, p.ctx}, nil
}

func (w *worker) round(r load.Round) (load.Outcome, error) {
	if err := json.NewEncoder(w.pr.stdin).Encode(r); err != nil {
		return load.Outcome{}, fmt.Errorf("%w: %s", err, w.pr.lastWords())
	}
	line, err := w.pr.line(w.ctx, r.For+readyTimeout)
	if err != nil {
		return load.Outcome{}, err
	}
	var o load.Outcome
	if err := json.Unmarshal([]byte(line), &o); err != nil {
		return o, err
	}
	if o.Error != "" {
		return o, errors.New(o.Error)
	}
	return o, nil
}
