package cellproto

import (
	"context"
	"io"
	"sync"
	"syscall"
	"time"
)

// writer combines the frames of all goroutines into few writes: whoever finds nobody writing writes
// what is queued, and goes on until nothing is; the others leave their frames and go.
type writer struct {
	mu     sync.Mutex
	buf    []byte // queued
	spare  []byte // the last buffer written
	busy   bool   // somebody writes
	err    error  // set once; nothing is queued after it
	queued uint64 // bytes ever queued
	handed uint64 // bytes ever given to the transport, less those it did not take
	kick   chan struct{}
	empty  chan struct{} // closed and renewed when a write has emptied the queue

	progress     uint64 // bytes taken by the transport for certain
	seenProgress uint64 // when stalled looked last
	seenAt       time.Time
}

func (w *writer) init() {
	w.kick = make(chan struct{}, 1)
	w.buf = make([]byte, 0, 4<<10)
}

// add queues f and gives the number of bytes queued before it. Past MaxQueued it fails with
// Overloaded: the peer does not read.
func (w *writer) add(f *Frame) (begun uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, Errorf("send frame", Unavailable, "%w", w.err)
	}
	if len(w.buf) > MaxQueued {
		return 0, Errorf("send frame", Overloaded, "%d bytes wait: the peer does not read", len(w.buf))
	}
	before := len(w.buf)
	w.buf, err = AppendFrame(w.buf, f)
	if err != nil {
		return 0, err
	}
	begun = w.queued
	w.queued += uint64(len(w.buf) - before)
	return begun, nil
}

// flush writes until nothing is queued. It returns at once when somebody else does so.
func (w *writer) flush(t io.Writer, fail func(error)) {
	w.drain(fail, func(b []byte) (int, error) { return t.Write(b) })
}

// tryFlush is flush for those who must not wait. It reports false when bytes are left that nobody
// writes.
func (w *writer) tryFlush(raw syscall.RawConn, fail func(error)) bool {
	return w.drain(fail, func(b []byte) (int, error) { return writeNoWait(raw, b) })
}

// drain writes what is queued in pieces, until nothing is or write takes less than its piece.
func (w *writer) drain(fail func(error), write func([]byte) (int, error)) (all bool) {
	w.mu.Lock()
	if w.busy {
		w.mu.Unlock()
		return true
	}
	for len(w.buf) > 0 && w.err == nil {
		b := w.buf
		w.buf, w.spare, w.busy = w.spare[:0], nil, true
		rest, err := b, error(nil)
		for len(rest) > 0 && err == nil {
			piece := rest[:min(len(rest), maxPiece)]
			w.handed += uint64(len(piece)) // before the write: a call that is being written may run
			w.mu.Unlock()
			var n int
			n, err = write(piece)
			w.mu.Lock()
			w.handed -= uint64(len(piece) - n)
			w.progress += uint64(n)
			rest = rest[n:]
			if n < len(piece) && err == nil {
				w.buf = append(rest, w.buf...) // it comes before what was queued meanwhile
				w.busy = false
				w.mu.Unlock()
				return false
			}
		}
		if cap(b) <= 4*readBuffer { // a burst's large buffer is let go
			w.spare = b[:0]
		}
		if err != nil {
			w.busy = false
			w.mu.Unlock()
			fail(err)
			return true
		}
	}
	w.busy = false
	w.signalEmpty()
	w.mu.Unlock()
	return true
}

// maxPiece is how much is given to the transport at once, in bytes, so that a slow peer that does
// take something is seen to.
const maxPiece = 256 << 10

// wake has the writing goroutine flush.
func (w *writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run is the writing goroutine, for those who must not wait.
func (w *writer) run(t io.Writer, done <-chan struct{}, fail func(error)) {
	for {
		select {
		case <-w.kick:
			w.flush(t, fail)
		case <-done:
			return
		}
	}
}

// close refuses further frames and gives the number of bytes that can have left.
func (w *writer) close(err error) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.buf = nil
	w.signalEmpty()
	return w.handed
}

// signalEmpty wakes flushed. w.mu is held.
func (w *writer) signalEmpty() {
	if w.empty != nil && !w.busy && len(w.buf) == 0 {
		close(w.empty)
		w.empty = nil
	}
}

// flushed waits until all that is queued has been written, or ctx ends.
func (w *writer) flushed(ctx context.Context) {
	w.mu.Lock()
	if w.empty == nil {
		w.empty = make(chan struct{})
	}
	empty := w.empty
	w.signalEmpty()
	w.mu.Unlock()
	w.wake()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}

// stalled reports that bytes have waited for StallTimeout and the peer took none.
func (w *writer) stalled(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := w.busy || len(w.buf) > 0
	if w.progress != w.seenProgress || !waiting || w.seenAt.IsZero() {
		w.seenProgress, w.seenAt = w.progress, now
		return false
	}
	return now.Sub(w.seenAt) > StallTimeout
}
