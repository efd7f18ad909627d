//go:build unix

package cell

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// maxSocketPath is what fits into a Unix socket's address everywhere, in bytes.
const maxSocketPath = 103

// dialCell connects to the nucleus of a directory, however long its path is. Not by package net: see
// inherited.
func dialCell(dir string) (cellproto.Transport, error) {
	path := filepath.Join(dir, socketName)
	if len(path) > maxSocketPath {
		short, release, err := shortPath(dir)
		if err != nil {
			return nil, err
		}
		defer release()
		path = filepath.Join(short, socketName)
	}
	fd, err := socket()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Connecting to a Unix socket waits for room in the listener's queue only.
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		_ = syscall.Close(fd)
		return nil, &os.PathError{Op: "connect to", Path: path, Err: err}
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("set nonblock", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
