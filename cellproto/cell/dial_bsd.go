//go:build unix && !linux

package cell

import (
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

func socket() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	return fd, err
}

func shortPath(dir string) (short string, release func(), err error) {
	return "", nil, cellproto.Errorf("call "+dir, cellproto.TooLarge, "the path is too long for a Unix socket's address on this system")
}
