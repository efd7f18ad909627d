package program

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

// Sandbox says that the program is a stranger's, and how it is confined. It is never run otherwise.
// Callers' connections are not handed to it, since it may receive none.
type Sandbox struct {
	Launcher string         // path of cellbox
	Config   sandbox.Config // Dir, Program, Args, Env, Grace and LogStdout are filled in
}

// config gives what the sandbox is told of one run of the file at path.
func (s *Sandbox) config(cfg Config, path string, frames, logs bool) sandbox.Config {
	c := s.Config
	c.Dir, c.Program, c.Grace, c.LogStdout = cfg.Dir, path, cfg.StopTimeout, logs
	if rel, err := filepath.Rel(cfg.Dir, path); err == nil && filepath.IsLocal(rel) {
		c.Program = rel
	}
	c.Env = []string{cellproto.EnvName + "=" + cfg.Name}
	if frames {
		c.Env = append(c.Env, fmt.Sprintf("%s=%d", cellproto.EnvFD, firstFD))
	}
	for key, v := range cfg.Env {
		c.Env = append(c.Env, key+"="+v)
	}
	slices.Sort(c.Env)
	return c
}

// firstFD is the number of the first descriptor that a program inherits besides the standard ones.
const firstFD = 3

// startConfined is startProcess for a program in a sandbox. The error says that its first instruction
// was never run.
func startConfined(launcher string, c sandbox.Config, s spec, out *output, abort <-chan struct{}) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	d := sandbox.Deps{Stdin: s.stdin, Stdout: s.stdout, Stderr: w, Keep: map[int]*os.File{}}
	if s.stdout == nil {
		d.Stdout = w
	}
	for i, f := range s.extra {
		d.Keep[firstFD+i] = f
	}
	ctx, cancel := context.WithCancel(context.Background())
	started, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-abort:
			cancel()
		case <-started:
		}
	}()
	box, err := sandbox.Confine(ctx, launcher, c, d)
	close(started)
	<-watched
	if err != nil {
		cancel()
		r.Close()
		return nil, err
	}
	p := &process{
		box: box, pid: box.PID(), tier: box.Report().Tier.String(), pipes: []*os.File{r},
		exited: make(chan struct{}), finished: make(chan struct{}),
	}
	p.pump = newPump(out, r, nil, 0)
	p.pumps.Go(p.pump.run)
	go func() {
		defer cancel()
		p.reap()
	}()
	return p, nil
}

// collectConfined waits for a confined program; its sandbox leaves nothing of it.
func (p *process) collectConfined() error {
	end := p.box.Wait()
	p.mu.Lock()
	p.reaped = true
	p.mu.Unlock()
	switch {
	case end.Signal != "":
		text := "signal: " + end.Signal
		if end.Why != "" {
			text += ", by its sandbox: " + end.Why
		}
		return fmt.Errorf("%s", text)
	case end.Exit != 0:
		return fmt.Errorf("exit status %d", end.Exit)
	}
	return nil
}

// signalConfined passes a signal to a program through its sandbox.
func (p *process) signalConfined(sig syscall.Signal) {
	switch sig {
	case syscall.SIGSTOP:
		p.box.Freeze()
	case syscall.SIGCONT:
		p.box.Thaw()
	case syscall.SIGKILL:
		p.box.Kill()
	default:
		p.box.Stop()
	}
}
