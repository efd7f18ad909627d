package program

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// clone has dst share the blocks of src until one of them is written, where the file system can do that.
func clone(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// changedAt gives when a file, its names or its mode were changed last: nobody can set that.
func changedAt(info os.FileInfo) (inode uint64, ns int64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0
	}
	return st.Ino, unix.TimespecToNsec(unix.Timespec(st.Ctim))
}
