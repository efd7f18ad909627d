package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// lockPause is how often a lock that somebody has is tried again: nobody tells when it is free.
const lockPause = 10 * time.Millisecond

// acquire takes run/lock of a cell. Starting twice is a success that does nothing: when the nucleus
// that has the lock answers, the error is ErrRunning. One that is just starting or just stopping is
// waited for, and so is whoever only looks at the lock for a moment, as cellctl does.
func acquire(ctx context.Context, dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	tick := time.NewTicker(lockPause)
	defer tick.Stop()
	for {
		unlock, err := lock(dir)
		if !errors.Is(err, ErrRunning) {
			return unlock, err
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

// lock takes run/lock, or fails with ErrRunning at once.
func lock(dir string) (unlock func(), err error) {
	run := filepath.Join(dir, ctl.RunDir)
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // nor the cell, if it is gone
		return nil, cellproto.Errorf("start "+dir, cellproto.KindOf(err), "%w", err)
	}
	l := flock.New(filepath.Join(run, "lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, cellproto.Errorf("lock "+dir, cellproto.KindOf(err), "%w", err)
	}
	if !ok {
		return nil, ErrRunning
	}
	pid := filepath.Join(run, "pid")
	if err := os.WriteFile(pid, fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		return nil, errors.Join(cellproto.Errorf("start "+dir, cellproto.KindOf(err), "%w", err), l.Unlock())
	}
	return func() {
		os.Remove(pid)
		l.Unlock() // the kernel does so too
	}, nil
}
