package ledger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync writes a file's bytes and its length to the disk, and not its times.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
