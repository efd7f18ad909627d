package cellproto

import (
	"sync/atomic"
	"time"
)

// Whoever sends requests and does not read has the answers wait here. So where a peer is not trusted to read, its
// requests are read only while little waits for it, and what is held is counted where all of its connections are.

// Memory is where a connection counts what its queue holds, besides what it was counted with when it began.
type Memory interface {
	// Reserve counts n bytes more, or says that there is no room. It must not block, nor call the connection.
	Reserve(n int) error
	// Release gives n of them back.
	Release(n int)
}

const (
	// maxUnreadBodies is how many bytes may wait, bodies included, before requests are not read either: a call that is
	// over leaves the last window of its body in the queue.
	maxUnreadBodies = longQueue
	// freeMemory is what a queue may hold without its being counted, in bytes. Small calls need no more.
	freeMemory = 128 << 10
	// memoryStep is in how many bytes at a time it is counted.
	memoryStep = 128 << 10
)

// unread is the writer's part of Config.MaxUnread and Config.Memory. Writer.mu guards it.
type unread struct {
	limit    int           // 0: none
	full     atomic.Bool   // more waits than that; changed with Writer.mu held
	short    chan struct{} // closed when that is over, or might be; nil: full is false
	memory   Memory        // nil: nobody counts
	reserved int
}

// isFull reports that the peer's requests are not to be read. w.mu is held.
func (w *writer) isFull() bool {
	small := len(w.buf)
	if !w.outBody {
		small += len(w.out)
	}
	return small > w.unread.limit || w.waiting() > maxUnreadBodies
}

// count takes note of what was queued. Kind Overloaded if there is no memory for it. w.mu is held.
func (w *writer) count() error {
	u := &w.unread
	if u.limit > 0 && !u.full.Load() && w.isFull() {
		u.full.Store(true)
		u.short = make(chan struct{})
	}
	if u.memory == nil {
		return nil
	}
	if n := w.holds() - freeMemory - u.reserved; n > 0 {
		n = (n + memoryStep - 1) / memoryStep * memoryStep
		if err := u.memory.Reserve(n); err != nil {
			return Errorf("send frame", Overloaded, "%d bytes wait for a peer that does not read, and there is no memory for more: %w", w.waiting(), err)
		}
		u.reserved += n
	}
	return nil
}

// holds gives how large the buffers of the queue are. w.mu is held.
func (w *writer) holds() int { return cap(w.buf) + cap(w.spare) + cap(w.base) + cap(w.bodies) }

// countLess takes note of what was written. w.mu is held.
func (w *writer) countLess() {
	u := &w.unread
	if u.full.Load() && !w.isFull() {
		u.full.Store(false)
		close(u.short)
		u.short = nil
	}
	if u.reserved == 0 {
		return
	}
	// A step is kept: who streams needs it again at once.
	if n := (u.reserved - max(w.holds()-freeMemory, 0)) / memoryStep; n > 1 || n > 0 && w.waiting() == 0 {
		u.memory.Release(n * memoryStep)
		u.reserved -= n * memoryStep
	}
}

// whenNotFull gives what is closed when isFull may be over; nil: it is.
func (w *writer) whenNotFull() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unread.short
}

// lookAgain wakes who waits for whenNotFull, for another reason.
func (w *writer) lookAgain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u := &w.unread; u.short != nil {
		close(u.short)
		u.short = make(chan struct{})
	}
}

// awaitReader waits, before a frame of this type is handled, until the peer has read most of what it was sent. It
// reports false when the connection has ended. Only frames that are answered wait: by credit and cancel the queue
// becomes no longer. What is held back is not answered either.
func (c *Conn) awaitReader(r *reader, t FrameType) bool {
	if t != TypeRequest && t != TypePing {
		return true
	}
	for {
		short := c.w.whenNotFull()
		if short == nil || c.holding.Load() {
			return true
		}
		c.flushDirty(r)
		c.w.wake()
		select {
		case <-short:
		case <-c.done:
			return false
		}
		r.readAt = time.Now() // a frame that is here in part has waited for us
	}
}
