package ctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Socket names one of a nucleus's two sockets.
type Socket string

// The sockets in run/.
const (
	CellSocket    Socket = "cell.sock" // frames: calls of the cell's functions
	ControlSocket Socket = "ctl.sock"  // the control API
)

// RunDir is the directory of a cell's sockets, lock and pid, within the cell's own.
const RunDir = "run"

// maxSocketPath is what fits into sockaddr_un.sun_path with its terminating NUL: 108 bytes on Linux
// and 104 on Darwin. A path that fits both is dialed as it is.
const maxSocketPath = 103

// ErrNotRunning says that no nucleus listens in the directory.
var ErrNotRunning = errors.New("the nucleus is not running")

// SocketPath gives the path of a cell's socket. It may be too long for connect(2); see Dial.
func SocketPath(cellDir string, which Socket) string {
	return filepath.Join(cellDir, RunDir, string(which))
}

// Dial connects to a socket of the nucleus of cellDir, however long the path is. The error wraps
// ErrNotRunning if there is no socket or nobody listens on it.
func Dial(ctx context.Context, cellDir string, which Socket) (*net.UnixConn, error) {
	path, err := filepath.Abs(SocketPath(cellDir, which))
	if err != nil {
		return nil, fmt.Errorf("cannot find the socket of %s: %w", cellDir, err)
	}
	var conn net.Conn
	err = withShortPath(path, func(short string) error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", short)
		return err
	})
	switch {
	case err == nil:
		return conn.(*net.UnixConn), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w in %s", ErrNotRunning, cellDir)
	}
	return nil, fmt.Errorf("cannot connect to %s: %w", path, err)
}

// Listen opens a socket of a nucleus: run/ has mode 0700 and the socket 0600. A socket file that
// is there already is an error: only the holder of run/lock may call Remove first. Closing the
// listener leaves the file behind, so that a successor's socket is never removed by mistake; the
// lock's holder calls Remove before it lets the lock go.
func Listen(cellDir string, which Socket) (*net.UnixListener, error) {
	path, err := filepath.Abs(SocketPath(cellDir, which))
	if err != nil {
		return nil, fmt.Errorf("cannot find the socket of %s: %w", cellDir, err)
	}
	if err := makeRunDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	var l *net.UnixListener
	err = withShortPath(path, func(short string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot protect %s: %w", path, err)
	}
	return l, nil
}

// makeRunDir makes run/ a directory that only its owner can enter. A symbolic link is refused:
// whoever made it decides where the sockets are.
func makeRunDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("cannot use %s: it is not a directory", dir)
	}
	if info.Mode().Perm() == 0o700 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("cannot protect %s: %w", dir, err)
	}
	return nil
}

// Remove deletes a socket file that nobody listens on any more, if there is one. Only the holder
// of run/lock may call it.
func Remove(cellDir string, which Socket) error {
	path := SocketPath(cellDir, which)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove the old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("cannot remove %s: it is not a socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the old socket: %w", err)
	}
	return nil
}

// withShortPath calls use with a path of at most maxSocketPath bytes that leads to path.
func withShortPath(path string, use func(short string) error) error {
	if len(path) <= maxSocketPath {
		return use(path)
	}
	if done, err := viaDescriptor(path, use); done {
		return err
	}
	return viaLink(path, use)
}

// viaLink reaches the socket through a symbolic link to its directory, in a fresh directory that
// only this user can enter.
func viaLink(path string, use func(short string) error) error {
	dir, err := os.MkdirTemp("", "cell")
	if err != nil {
		return fmt.Errorf("cannot make a short path: %w", err)
	}
	defer os.RemoveAll(dir)
	link := filepath.Join(dir, "d")
	if err := os.Symlink(filepath.Dir(path), link); err != nil {
		return fmt.Errorf("cannot make a short path: %w", err)
	}
	return use(filepath.Join(link, filepath.Base(path)))
}
