package cellproto

import (
	"context"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// maxPiece is how much is given to the transport at once, in bytes, so that a slow peer that does
	// take something is seen to, and small frames need not wait for many large ones.
	maxPiece = 128 << 10
	// longQueue is the number of waiting bytes past which nothing is added that can be put off: the
	// senders of bodies wait, credit is kept back, pings go unanswered, as do calls of a side that takes none.
	longQueue = 1 << 20
	// keepBuffer is the largest buffer that is used again, in bytes; a burst's is let go.
	keepBuffer = 256 << 10
)

// writer combines the frames of all goroutines into few writes: whoever finds nobody writing writes
// what is queued, and goes on until nothing is; the others leave their frames and go.
//
// Bodies have a queue of their own, so that no small frame waits for more than a piece of one. That
// queue is bounded by what the receivers have granted; MaxQueued bounds the other one.
type writer struct {
	write func([]byte) (int, error) // to the transport; may wait
	now   *nowWriter                // writes what a descriptor takes at once; nil: there is none
	fail  func(error)               // ends the connection
	long  int                       // see longQueue; less where a peer's memory is bounded
	kick  chan struct{}

	mu        sync.Mutex
	buf       []byte // queued
	bodies    []byte // queued chunks and ends, from bodyFrom on
	bodyFrom  int
	bodyReady int    // bodies up to here were announced in what has been written of buf
	out       []byte // being written
	outBody   bool   // out is of bodies
	spare     []byte // what buf is replaced by
	base      []byte // the buffer that out is of, unless outBody
	busy      bool   // somebody writes
	err       error  // set once; nothing is queued or written after it
	cut       bool   // something was to be written then
	queued    uint64 // bytes ever queued in buf
	handed    uint64 // of them ever given to the transport, less those it did not take
	room      []func()
	empty     chan struct{} // closed and removed when nothing is left to write
	unread    unread

	progress     uint64 // bytes taken by the transport for certain
	seenProgress uint64 // when stalled looked last
	seenAt       time.Time
}

func (w *writer) init(t io.Writer, raw syscall.RawConn, fail func(error)) {
	w.write, w.fail = t.Write, fail
	if raw != nil {
		w.now = newNowWriter(raw)
	}
	w.kick = make(chan struct{}, 1)
	w.long = longQueue
	w.buf = make([]byte, 0, 4<<10)
}

// add queues f and gives the place in the queue after it, for requests. When more than limit bytes
// wait it fails with Overloaded; chunks and ends are bounded by credit instead.
func (w *writer) add(f *Frame, limit int) (end uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, Errorf("send frame", Unavailable, "%w", w.err)
	}
	if f.Type == TypeChunk || f.Type == TypeEnd {
		if err := w.addBody(f); err != nil {
			return 0, err
		}
		return 0, w.count()
	}
	wait := len(w.buf)
	if !w.outBody {
		wait += len(w.out)
	}
	if wait > limit {
		e := Errorf("send frame", Overloaded, "%d bytes wait: the peer does not read", wait)
		e.RetryAfter = overloadRetry
		return 0, e
	}
	before := len(w.buf)
	if w.buf, err = AppendFrame(w.buf, f); err != nil {
		return w.queued, err
	}
	w.queued += uint64(len(w.buf) - before)
	return w.queued, w.count()
}

func (w *writer) addBody(f *Frame) (err error) {
	if w.bodyFrom == len(w.bodies) && (len(w.out) == 0 || !w.outBody) {
		w.bodies, w.bodyFrom, w.bodyReady = w.bodies[:0], 0, 0
		if cap(w.bodies) > keepBuffer {
			w.bodies = nil
		}
	} else if w.bodyFrom > 0 && cap(w.bodies)-len(w.bodies) < FrameHeaderSize+len(f.Payload) {
		// Not in place: out may be of it.
		w.bodies, w.bodyReady, w.bodyFrom = slices.Clone(w.bodies[w.bodyFrom:]), w.bodyReady-w.bodyFrom, 0
	}
	w.bodies, err = AppendFrame(w.bodies, f)
	return err
}

// waiting gives the number of bytes to be written. w.mu is held.
func (w *writer) waiting() int { return len(w.out) + len(w.buf) + len(w.bodies) - w.bodyFrom }

// size gives the number of bytes to be written.
func (w *writer) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting()
}

// isLong reports that what can be put off should be.
func (w *writer) isLong() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting() > w.long
}

// whenShort reports that the queue is not long, or else has f called, once, when it is not any more.
// f must not wait. It is not called after the connection's end.
func (w *writer) whenShort(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting() <= w.long || w.err != nil {
		return true
	}
	w.room = append(w.room, f)
	return false
}

// flushNow writes what the transport takes without a wait, unless somebody writes already, who then
// takes it along. What is left is for the writing goroutine.
func (w *writer) flushNow() {
	if w.now == nil || !w.drain(w.now.write) {
		w.wake()
	}
}

// flushSmall writes what is queued if that is little, so that it is not likely to wait. It reports
// false when bytes are left that nobody writes.
func (w *writer) flushSmall() bool {
	w.mu.Lock()
	small := w.waiting() <= smallFlush
	w.mu.Unlock()
	return small && w.drain(w.write)
}

// smallFlush is what a caller writes itself to a transport that may make it wait, in bytes: less
// than any transport buffers, so that a peer that does not read costs no caller its deadline.
const smallFlush = 16 << 10

// drain writes what is queued in pieces, until nothing is or write takes less than its piece.
func (w *writer) drain(write func([]byte) (int, error)) (all bool) {
	w.mu.Lock()
	if w.busy {
		w.mu.Unlock()
		return true
	}
	w.busy = true
	var err error
	short := false
	for w.err == nil && err == nil && !short && w.next() {
		piece := w.out[:min(len(w.out), maxPiece)]
		if !w.outBody {
			w.handed += uint64(len(piece)) // before the write: a call that is being written may run
		}
		w.mu.Unlock()
		var n int
		n, err = write(piece)
		w.mu.Lock()
		if !w.outBody {
			w.handed -= uint64(len(piece) - n)
		}
		w.progress += uint64(n)
		w.out = w.out[n:]
		short = n < len(piece)
		w.countLess()
		w.callRoom()
	}
	if w.waiting() == 0 {
		w.tidy()
	}
	w.busy = false
	w.signalEmpty()
	all = !short || err != nil || w.err != nil
	w.mu.Unlock()
	if err != nil {
		w.fail(err)
	}
	return all
}

// next makes out what is to be written now: the rest of what was begun, else by turns what is in buf
// and a piece of bodies, but nothing of a body before the frame that announced it. w.mu is held.
func (w *writer) next() bool {
	if len(w.out) > 0 {
		return true
	}
	if cap(w.base) <= keepBuffer && w.base != nil {
		w.spare = w.base[:0]
	}
	w.base = nil
	if len(w.buf) > 0 && (w.outBody || w.bodyFrom == w.bodyReady) {
		w.out, w.base, w.outBody = w.buf, w.buf, false
		w.buf, w.spare = w.spare[:0], nil
		w.bodyReady = len(w.bodies)
		return true
	}
	if len(w.buf) == 0 {
		w.bodyReady = len(w.bodies)
	}
	to := w.bodyFrom
	for to < w.bodyReady && to-w.bodyFrom < maxPiece/2 {
		size, _ := FrameSize(w.bodies[to:]) // it was made here
		to += size
	}
	w.out, w.outBody, w.bodyFrom = w.bodies[w.bodyFrom:to], true, to
	return len(w.out) > 0
}

// tidy lets go what a burst of bodies has left, once all is written. w.mu is held.
func (w *writer) tidy() {
	if cap(w.bodies) > keepBuffer {
		w.bodies, w.bodyFrom, w.bodyReady = nil, 0, 0
	}
	w.countLess()
}

// callRoom calls those who wait for the queue to be short, if it is. w.mu is held, but not meanwhile.
func (w *writer) callRoom() {
	if len(w.room) == 0 || w.waiting() > w.long || w.err != nil {
		return
	}
	room := w.room
	w.room = nil
	w.mu.Unlock()
	for _, f := range room {
		f()
	}
	w.mu.Lock()
}

// wake has the writing goroutine flush.
func (w *writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run is the writing goroutine, for those who must not wait.
func (w *writer) run(done <-chan struct{}) {
	for {
		select {
		case <-w.kick:
			if !w.drain(w.write) {
				w.fail(io.ErrShortWrite) // a Write that takes less has to say why
			}
		case <-done:
			return
		}
	}
}

// close refuses further frames and gives how much of buf can have left.
func (w *writer) close(err error) (handed uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.cut = err, w.busy || w.waiting() > 0
	w.room = nil
	if u := &w.unread; u.reserved > 0 {
		u.memory.Release(u.reserved)
		u.reserved = 0
	}
	return w.handed
}

// signalEmpty wakes flushed. w.mu is held.
func (w *writer) signalEmpty() {
	if w.empty != nil && !w.busy && w.waiting() == 0 {
		close(w.empty)
		w.empty = nil
	}
}

// flushed waits until all that is queued has been written, the connection has ended, or ctx has.
func (w *writer) flushed(ctx context.Context, done <-chan struct{}) {
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
	case <-done:
	case <-ctx.Done():
	}
}

// stalled reports that bytes have waited for StallTimeout and the peer took none.
func (w *writer) stalled(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.progress != w.seenProgress || w.waiting() == 0 || w.seenAt.IsZero() {
		w.seenProgress, w.seenAt = w.progress, now
		return false
	}
	return now.Sub(w.seenAt) > StallTimeout
}

// WriterOf gives what writes to t with the least cost, as ReaderOf gives what reads it: for a socket of the system, by
// raw system calls while it takes what is written. One goroutine at a time uses it.
func WriterOf(t Transport) io.Writer {
	sc, ok := t.(syscall.Conn)
	if !ok {
		return t
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return t
	}
	return &wholeWriter{t: t, now: newNowWriter(raw)}
}

type wholeWriter struct {
	t   Transport
	now *nowWriter
}

// Write leaves to the transport, which waits, what the descriptor does not take at once.
func (w *wholeWriter) Write(b []byte) (n int, err error) {
	if n, err = w.now.write(b); err != nil || n == len(b) {
		return n, err
	}
	m, err := w.t.Write(b[n:])
	return n + m, err
}
