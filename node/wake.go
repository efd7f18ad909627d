package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// wakeTimeout bounds the start of another nucleus.
const wakeTimeout = 30 * time.Second

// openLog gives a nucleus somewhere to say what it cannot log itself, such as a panic.
func openLog(dir string) (*os.File, error) {
	// Not the directory itself: one that was removed a moment ago does not come back.
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, "log", "nucleus.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
}

// wake starts the nucleus of a cell's directory on this machine, with this very binary, because a
// caller needs it. It lives on by itself.
func wake(ctx context.Context, dir string) error {
	op := "start " + dir
	self, err := os.Executable()
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	log, err := openLog(dir)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer log.Close()
	ready, w, err := os.Pipe()
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	defer ready.Close()
	cmd := exec.Command(self, dir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), ctl.EnvReadyFD+"=3")
	cmd.ExtraFiles = []*os.File{w} // descriptor 3
	err = cmd.Start()
	w.Close()
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	go cmd.Wait() // the nucleus outlives the call; this only collects it, should it end first
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) }) // a closed pipe needs none
	defer stop()
	err = ctl.ReadReady(ready)
	var remote *ctl.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &remote):
		return cellproto.Errorf(op, cellproto.ParseKind(remote.Kind), "%w", err).WithHint("%s", remote.Hint)
	case ctx.Err() != nil:
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "its nucleus was not ready in time").
			WithHint("See cellctl logs %s", dir)
	}
	return cellproto.Errorf(op, cellproto.Unavailable, "its nucleus ended before it was ready: %w", err).
		WithHint("See cellctl logs %s", dir)
}
