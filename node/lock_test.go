package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func TestAcquire(t *testing.T) {
	dir := t.TempDir()
	l, err := acquire(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, ctl.RunDir, "pid")); err != nil || strings.TrimSpace(string(data)) == "" {
		t.Errorf("pid is %q, %v", data, err)
	}

	// A nucleus that answers is good enough.
	sock, err := ctl.Listen(dir, ctl.ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(t.Context(), dir); !errors.Is(err, ErrRunning) {
		t.Errorf("beside one that answers: %v", err)
	}
	sock.Close()

	// One that does not is waited for, as long as there is time.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = acquire(ctx, dir)
	if errors.Is(err, ErrRunning) || cellproto.KindOf(err) != cellproto.Unavailable {
		t.Errorf("beside one that hangs: %v", err)
	}

	// One that ends makes room.
	got := make(chan error, 1)
	go func() {
		l, err := acquire(t.Context(), dir)
		if err == nil {
			l.unlock()
		}
		got <- err
	}()
	l.unlock()
	if err := <-got; err != nil {
		t.Errorf("after one that ended: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, ctl.RunDir, "pid")); err == nil {
		t.Error("the pid was left behind")
	}
}

// Who only looks whether the lock is free does not keep a nucleus from starting.
func TestAcquireBesideALook(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ctl.RunDir), 0o700); err != nil {
		t.Fatal(err)
	}
	look := flock.New(filepath.Join(dir, ctl.RunDir, "lock"))
	if ok, err := look.TryRLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	got := make(chan error, 1)
	go func() {
		l, err := acquire(t.Context(), dir)
		if err == nil {
			l.unlock()
		}
		got <- err
	}()
	if err := look.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}
