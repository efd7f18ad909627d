//go:build unix && (!linux || race)

package cellproto

import "syscall"

func writeNow(fd uintptr, b []byte) (n int, err error) { return syscall.Write(int(fd), b) }
