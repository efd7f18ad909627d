//go:build unix

package cellproto

import "syscall"

// writeNoWait writes what the descriptor takes at once. n < len(b) without an error: it is full.
func writeNoWait(raw syscall.RawConn, b []byte) (n int, err error) {
	cerr := raw.Write(func(fd uintptr) bool {
		for n < len(b) {
			m, werr := syscall.Write(int(fd), b[n:])
			if m > 0 {
				n += m
			}
			switch {
			case werr == syscall.EINTR:
			case werr == syscall.EAGAIN:
				return true
			case werr != nil:
				err = werr
				return true
			}
		}
		return true
	})
	if err == nil {
		err = cerr
	}
	return n, err
}
