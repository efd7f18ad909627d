package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// lockPause is how often a lock that somebody has is tried again: nobody tells when it is free.
const lockPause = 10 * time.Millisecond

// acquire takes run/lock of a cell. Starting twice is a success that does nothing: when the nucleus
// that has the lock answers, the error is ErrRunning. One that is just starting or just stopping is
// waited for, and so is whoever only looks at the lock for a moment, as cellctl does.
func acquire(ctx context.Context, dir string) (*runLock, error) {
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	tick := time.NewTicker(lockPause)
	defer tick.Stop()
	for {
		l, err := lock(dir)
		if !errors.Is(err, ErrRunning) {
			return l, err
		}
		conn, derr := ctl.Dial(ctx, dir, ctl.ControlSocket)
		if derr == nil {
			conn.Close()
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, cellproto.Errorf("start "+dir, cellproto.Unavailable, "a nucleus holds the cell and does not answer: %w", derr).
				WithHint("See cellctl logs %s; cellctl restart %s", dir, dir)
		}
	}
}

// runLock is run/lock, taken. The lock belongs to the open file, not to the process: who inherits the
// descriptor across an exec has it, which is why there is no library between.
type runLock struct {
	file *os.File
	dir  string
}

// lock takes run/lock, or fails with ErrRunning at once.
func lock(dir string) (*runLock, error) {
	op, run := "lock "+dir, filepath.Join(dir, ctl.RunDir)
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // nor the cell, if it is gone
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	f, err := os.OpenFile(filepath.Join(run, "lock"), os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	l := &runLock{file: f, dir: dir}
	err = l.control(func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
	if err == nil {
		if err = os.WriteFile(l.pid(), fmt.Appendln(nil, os.Getpid()), 0o600); err == nil {
			return l, nil
		}
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrRunning
	}
	return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
}

// control calls use with the descriptor.
func (l *runLock) control(use func(fd int) error) error {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	for {
		if err := raw.Control(func(fd uintptr) { uerr = use(int(fd)) }); err != nil {
			return err
		}
		if uerr != syscall.EINTR {
			return uerr
		}
	}
}

func (l *runLock) pid() string { return filepath.Join(l.dir, ctl.RunDir, "pid") }

// unlock lets it go.
func (l *runLock) unlock() {
	os.Remove(l.pid())
	l.file.Close() // the kernel does so too
}
