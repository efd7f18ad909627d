//go:build unix

package cellproto

import "syscall"

// nowWriter writes to a descriptor what it takes at once. One goroutine at a time uses it; its
// fields are what a closure would have to allocate for each write.
type nowWriter struct {
	raw  syscall.RawConn
	step func(fd uintptr) bool // writeTo
	b    []byte
	n    int
	err  error
}

func newNowWriter(raw syscall.RawConn) *nowWriter {
	w := &nowWriter{raw: raw}
	w.step = w.writeTo
	return w
}

// write gives n < len(b) without an error when the descriptor is full.
func (w *nowWriter) write(b []byte) (n int, err error) {
	w.b, w.n, w.err = b, 0, nil
	err = w.raw.Write(w.step)
	if w.err != nil {
		err = w.err
	}
	w.b = nil
	return w.n, err
}

// writeTo never asks to be called again once the descriptor can be written.
func (w *nowWriter) writeTo(fd uintptr) bool {
	for w.n < len(w.b) {
		m, err := writeNow(fd, w.b[w.n:])
		w.n += max(m, 0)
		switch err {
		case nil, syscall.EINTR:
		case syscall.EAGAIN:
			return true
		default:
			w.err = err
			return true
		}
	}
	return true
}
