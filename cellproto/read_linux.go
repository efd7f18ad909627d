//go:build linux && !race

package cellproto

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// A process that waits for a message sleeps, and its runtime's monitor with it. A system call that the runtime is told of
// wakes the monitor, which then runs beside every message: two more switches and two timers, more than all the rest. Reads
// and writes of a descriptor that does not block take no time that the runtime would have to know of. The race detector
// learns from the usual ones what happens before what.

// pollReader reads from a descriptor that does not block. One goroutine at a time uses it; its fields are what a
// closure would have to allocate for each read.
type pollReader struct {
	raw  syscall.RawConn
	step func(fd uintptr) bool // readFrom
	b    []byte
	n    int
	err  error
}

// newPollReader gives nil for a descriptor that may block.
func newPollReader(raw syscall.RawConn) io.Reader {
	blocks := true
	err := raw.Control(func(fd uintptr) {
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
		blocks = errno != 0 || flags&syscall.O_NONBLOCK == 0
	})
	if err != nil || blocks {
		return nil
	}
	r := &pollReader{raw: raw}
	r.step = r.readFrom
	return r
}

// Read waits as the Read of the descriptor's owner does, with its deadline.
func (r *pollReader) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	r.b, r.n, r.err = b, 0, io.EOF
	err = r.raw.Read(r.step)
	r.b = nil
	switch {
	case r.n > 0:
		return r.n, nil
	case err != nil:
		return 0, err
	}
	return 0, r.err
}

// readFrom asks to be called again once there is something to read.
func (r *pollReader) readFrom(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&r.b[0])), uintptr(len(r.b)))
		switch errno {
		case 0:
			r.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			r.err = os.NewSyscallError("read", errno)
			return true
		}
	}
}

// writeNow is write(2) to a descriptor that does not block. b is not empty.
func writeNow(fd uintptr, b []byte) (n int, err error) {
	m, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(m), nil
}
