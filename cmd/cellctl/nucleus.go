package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// startTimeout bounds the start of a nucleus: half a minute covers keys made on a slow router.
const startTimeout = 30 * time.Second

// pollPeriod is how often a file or a lock is looked at that nobody announces changes of.
const pollPeriod = 10 * time.Millisecond

// isRunning reports that a nucleus answers in dir.
func isRunning(ctx context.Context, dir string) (bool, error) {
	conn, err := ctl.Dial(ctx, dir, ctl.ControlSocket)
	if err == nil {
		conn.Close()
		return true, nil
	}
	if errors.Is(err, ctl.ErrNotRunning) {
		return false, nil
	}
	return false, fromControl("ask the nucleus of "+dir, dir, err)
}

// ensure starts the nucleus of dir if it sleeps, and reports whether it did.
func (a *app) ensure(ctx context.Context, dir string, p *progress) (started bool, err error) {
	if running, err := isRunning(ctx, dir); running || err != nil {
		return false, err
	}
	p.say("starting the nucleus of " + dir)
	return true, a.launch(ctx, dir)
}

// client gives a client of dir's nucleus, which it starts if it sleeps.
func (a *app) client(ctx context.Context, dir string, p *progress) (*ctl.Client, error) {
	if _, err := a.ensure(ctx, dir, p); err != nil {
		return nil, err
	}
	return &ctl.Client{Dir: dir, Progress: p.say}, nil
}

// launch starts celld for dir, in a session of its own, and waits until it is ready or has said why
// it is not.
func (a *app) launch(ctx context.Context, dir string) error {
	op := "start " + dir
	cmd, err := a.celld(dir)
	if err != nil {
		return err
	}
	log, err := openNucleusLog(dir)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer log.Close()
	ready, w, err := os.Pipe()
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	defer ready.Close()
	cmd.Stderr, cmd.Stdout = log, log
	cmd.ExtraFiles = []*os.File{w} // descriptor 3
	err = cmd.Start()
	w.Close()
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err).WithHint("check that celld is executable")
	}
	if err := waitReady(ctx, ready); err != nil {
		return startError(op, dir, cmd, err)
	}
	_ = cmd.Process.Release() // it is init's child from now on
	return awaitSocket(ctx, dir)
}

// awaitSocket waits until a nucleus answers in dir. The one that was launched does, unless another
// was quicker to the lock, which may still be starting.
func awaitSocket(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		running, err := isRunning(ctx, dir)
		if running || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return cellproto.Errorf("start "+dir, cellproto.Timeout, "its nucleus does not answer yet").
				WithHint("cellctl logs %s", quoteWord(dir))
		}
	}
}

func waitReady(ctx context.Context, ready *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := ctl.ReadReady(ready)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// startError explains why a nucleus did not become ready.
func startError(op, dir string, cmd *exec.Cmd, err error) error {
	var remote *ctl.RemoteError
	switch {
	case errors.As(err, &remote):
		_ = cmd.Wait() // it has said what is wrong
		return fromControl(op, dir, err)
	case errors.Is(err, ctl.ErrLost):
		state := cmd.Wait()
		e := cellproto.Errorf(op, cellproto.Failed, "celld ended before it was ready (%s)", exitState(state))
		if last := lastLine(filepath.Join(dir, "log", nucleusLog)); last != "" {
			e.Err = fmt.Errorf("%w: %s", e.Err, last)
		}
		return e.WithHint("cellctl logs %s", quoteWord(dir))
	}
	_ = cmd.Process.Release()
	if cellproto.KindOf(err) == cellproto.Timeout {
		return cellproto.Errorf(op, cellproto.Timeout, "celld is not ready yet").WithHint("cellctl logs %s", quoteWord(dir))
	}
	return fromControl(op, dir, err)
}

func exitState(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// celld prepares the command that runs dir's nucleus.
func (a *app) celld(dir string) (*exec.Cmd, error) {
	path, err := findCelld()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, dir)
	cmd.Dir = dir // not ours, which may be on a disk that is to be unmounted
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), ctl.EnvReadyFD+"=3")
	if home := a.getenv(cellproto.EnvHome); home != "" && !filepath.IsAbs(home) {
		abs, err := filepath.Abs(home)
		if err != nil {
			return nil, cellproto.Errorf("start "+dir, cellproto.Failed, "%w", err)
		}
		cmd.Env = append(cmd.Env, cellproto.EnvHome+"="+abs)
	}
	return cmd, nil
}

// findCelld looks beside this program, else in the PATH.
func findCelld() (string, error) {
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		path := filepath.Join(filepath.Dir(self), "celld")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath("celld")
	if err != nil {
		return "", cellproto.Errorf("find celld", cellproto.Failed, "it is neither beside cellctl nor in the PATH").
			WithHint("put celld into the directory of cellctl")
	}
	return path, nil
}

const nucleusLog = "nucleus.log"

// openNucleusLog gives celld somewhere to say what it could not log itself, such as a panic.
func openNucleusLog(dir string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(dir, "log"), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, "log", nucleusLog), os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
}

// lastLine gives the last line of a log that says something, at most 300 bytes of it.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	tail, _, err := readTail(f, 1)
	if err != nil {
		return ""
	}
	line := string(bytes.TrimSpace(tail))
	if len(line) > 300 {
		line = line[:300]
	}
	return line
}

func lockPath(dir string) string { return filepath.Join(dir, ctl.RunDir, "lock") }

// lockFree reports that no nucleus holds the cell. The shared lock that it takes for a moment does
// not keep another look away, only a start.
func lockFree(dir string) bool {
	if _, err := os.Stat(lockPath(dir)); err != nil {
		return true
	}
	l := flock.New(lockPath(dir), flock.SetFlag(os.O_RDONLY))
	defer l.Close()
	ok, err := l.TryRLock()
	return ok && err == nil
}

// awaitStop waits until the nucleus of dir has let go of the cell.
func awaitStop(ctx context.Context, dir string) error {
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for !lockFree(dir) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			e := cellproto.Errorf("stop "+dir, cellproto.Timeout, "its nucleus is still at work")
			if pid := readPID(dir); pid > 0 {
				return e.WithHint("a longer --timeout, or kill -9 %d", pid)
			}
			return e.WithHint("a longer --timeout")
		}
	}
	return nil
}

// readPID gives what run/pid says, or 0.
func readPID(dir string) int {
	f, err := os.Open(filepath.Join(dir, ctl.RunDir, "pid"))
	if err != nil {
		return 0
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid := 0
	if _, err := fmt.Sscanf(strings.TrimSpace(string(b)), "%d", &pid); err != nil || pid <= 1 {
		return 0
	}
	return pid
}
