package cell

import (
	"fmt"
	"os"
	"syscall"
)

func socket() (int, error) {
	return syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
}

// shortPath gives another name of a directory, until release.
func shortPath(dir string) (short string, release func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", d.Fd()), func() { _ = d.Close() }, nil
}
