package ctl

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// longDir gives a directory whose path is longer than a Unix socket's address.
func longDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120), strings.Repeat("e", 120))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDialListen(t *testing.T) {
	for name, dir := range map[string]string{"short": t.TempDir(), "long": longDir(t)} {
		t.Run(name, func(t *testing.T) {
			l, err := Listen(dir, CellSocket)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]os.FileMode{
				filepath.Join(dir, RunDir): 0o700, SocketPath(dir, CellSocket): 0o600,
			} {
				info, err := os.Stat(path)
				if err != nil || info.Mode().Perm() != want {
					t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode(), want, err)
				}
			}
			checkEcho(t, l, func() (net.Conn, error) { return Dial(context.Background(), dir, CellSocket) })
			if _, err := Listen(dir, CellSocket); err == nil {
				t.Error("a second listener on one socket was allowed")
			}
			l.Close()
			if _, err := Dial(context.Background(), dir, CellSocket); !errors.Is(err, ErrNotRunning) {
				t.Errorf("dialing a stale socket gives %v, want ErrNotRunning", err)
			}
			if err := Remove(dir, CellSocket); err != nil {
				t.Error(err)
			}
			if err := Remove(dir, CellSocket); err != nil {
				t.Errorf("removing what is not there: %v", err)
			}
			if _, err := Dial(context.Background(), dir, CellSocket); !errors.Is(err, ErrNotRunning) {
				t.Errorf("dialing a missing socket gives %v, want ErrNotRunning", err)
			}
		})
	}
}

// checkEcho sends a word through a connection and checks who the listener says is there.
func checkEcho(t *testing.T, l *net.UnixListener, dial func() (net.Conn, error)) {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			got <- err.Error()
			return
		}
		defer conn.Close()
		uid, pid, ok := PeerUID(conn)
		if !ok || uid != os.Getuid() || pid != os.Getpid() {
			t.Errorf("peer is uid %d pid %d (%v), want %d and %d", uid, pid, ok, os.Getuid(), os.Getpid())
		}
		b, _ := io.ReadAll(conn)
		got <- string(b)
	}()
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "hello")
	conn.Close()
	if s := <-got; s != "hello" {
		t.Errorf("the listener got %q", s)
	}
}

// The way that systems without /proc take.
func TestViaLink(t *testing.T) {
	dir := longDir(t)
	path := SocketPath(dir, ControlSocket)
	if err := makeRunDir(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	err := viaLink(path, func(short string) (err error) {
		if len(short) > maxSocketPath {
			t.Errorf("%q is not short", short)
		}
		l, err = net.Listen("unix", short)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	defer l.Close()
	checkEcho(t, l.(*net.UnixListener), func() (conn net.Conn, err error) {
		err = viaLink(path, func(short string) error {
			conn, err = net.Dial("unix", short)
			return err
		})
		return conn, err
	})
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, RunDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir, CellSocket); err == nil {
		t.Error("run/ may be a symbolic link")
	}
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, RunDir), 0o755); err != nil {
		t.Fatal(err)
	}
	path := SocketPath(dir, CellSocket)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir, CellSocket); err == nil {
		t.Error("Remove deletes what is not a socket")
	}
	if _, err := Listen(dir, CellSocket); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen over a file gives %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, RunDir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("run/ was not closed to others: %v %v", info.Mode(), err)
	}
}
