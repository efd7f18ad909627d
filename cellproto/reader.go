package cellproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
)

const (
	// readBuffer is a reader's buffer, in bytes: one read takes in some 300 small frames, or a chunk.
	readBuffer = ChunkSize + 4<<10
	// maxBatch is how long the replies to one read may wait for each other.
	maxBatch = 500 * time.Microsecond
)

// reader is one goroutine's turn at reading a connection, with the bytes that it has not parsed.
type reader struct {
	buf     []byte
	from    int
	to      int
	frame   Frame     // the one that is being handled; used again for the next
	meta    lastMeta  // of the frames up to it
	partial bool      // the frame at hand is known to be incomplete
	readAt  time.Time // of the last read
	flushAt time.Time // of the last flush since then; zero: none
	dirty   []*Conn   // connections with frames queued by this turn's handlers
	yielded bool
}

// ReaderOf gives what a connection reads t by: where t is a file or socket of the system, what costs the least, else t.
// A transport that wraps one, to see what is read, has no deadline of its own, and reads by this.
func ReaderOf(t Transport) io.Reader {
	sc, ok := t.(syscall.Conn)
	if _, too := t.(interruptible); !ok || !too {
		return t
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return t
	}
	if r := newPollReader(raw); r != nil {
		return r
	}
	return t
}

// readLoop reads and dispatches until the connection ends or the turn is yielded. A panic of a
// handler ends the connection, not the process: what a stranger sends must not stop all others.
func (c *Conn) readLoop(r *reader) {
	defer c.recovered()
	c.r = r
	for {
		if goOn := c.dispatchAll(r); !goOn {
			return
		}
		c.flushDirty(r)
		if goOn := c.yieldTurn(r); !goOn {
			return
		}
		if more, stop := c.lookUp(r); stop {
			return
		} else if more {
			continue
		}
		if err := c.fill(r); err != nil && err != errInterrupted {
			c.fail(err)
			return
		}
	}
}

// recovered is deferred by who handles frames.
func (c *Conn) recovered() {
	if v := recover(); v != nil {
		c.fail(Errorf("handle frame", Failed, "panic: %v\n%s", v, debug.Stack()))
	}
}

// dispatchAll handles the frames that have been read. It reports false when the turn is over.
func (c *Conn) dispatchAll(r *reader) bool {
	for {
		select {
		case <-c.done:
			return false
		default:
		}
		f := &r.frame
		n, err := parseFrame(f, r.buf[r.from:r.to], &r.meta)
		if err != nil {
			c.refuse(err)
			return false
		}
		if n == 0 {
			return true
		}
		r.from += n
		if r.partial {
			r.partial = false
			c.partial.Store(0)
		}
		if c.w.unread.full.Load() && !c.awaitReader(r, f.Type) {
			return false
		}
		if err := c.dispatch(f); err != nil {
			c.refuse(err)
			return false
		}
		if r.yielded {
			return false
		}
	}
}

// fill makes room for the frame at hand and reads once. errInterrupted means that nothing was read.
func (c *Conn) fill(r *reader) error {
	if r.from == r.to {
		r.from, r.to = 0, 0
		if len(r.buf) > readBuffer {
			r.buf = make([]byte, readBuffer) // a large frame has passed
		}
	} else {
		size, err := FrameSize(r.buf[r.from:r.to])
		if err != nil {
			return err
		}
		if r.from > 0 && r.from+max(size, FrameHeaderSize) > len(r.buf) {
			r.to = copy(r.buf, r.buf[r.from:r.to])
			r.from = 0
		}
		if size > len(r.buf) {
			r.buf = append(make([]byte, 0, size), r.buf[:r.to]...)[:size]
		}
		if !r.partial {
			r.partial = true
			c.partial.Store(max(int64(r.readAt.Sub(c.born)), 1))
		}
	}
	n, err := c.in.Read(r.buf[r.to:])
	if n == 0 && err != nil {
		if c.interrupted(err) {
			return errInterrupted
		}
		if errors.Is(err, io.EOF) {
			if r.from == r.to {
				return errPeerClosed
			}
			return Errorf("read frame", Unavailable, "the peer closed the connection within a frame: what came is not whole")
		}
		return err
	}
	r.to += n
	r.readAt = time.Now()
	c.received.Add(uint64(n))
	return nil
}

var errInterrupted = errors.New("the read was interrupted")

var errPeerClosed = errors.New("the peer closed the connection")

// refuse ends the connection because of what the peer sent, and tells it why.
func (c *Conn) refuse(err error) {
	f := &Frame{Type: TypeGoaway, Header: Header{Kind: KindOf(err)}, Payload: []byte(cutText(err.Error(), MaxErrorText))}
	if _, qerr := c.w.add(f, MaxQueued); qerr == nil {
		c.w.flushNow()
		ctx, cancel := context.WithTimeout(context.Background(), farewellTimeout)
		c.w.flushed(ctx, c.done)
		cancel()
	}
	c.fail(err)
}

// farewellTimeout bounds the wait for a refused peer to take the reason.
const farewellTimeout = time.Second

// dispatch handles one frame.
func (c *Conn) dispatch(f *Frame) error {
	if c.hello.Load() == nil {
		return c.firstFrame(f)
	}
	if kept, err := c.keepBack(f); kept {
		return err
	}
	switch f.Type {
	case TypeRequest:
		return c.accept(f)
	case TypeReply, TypeChunk, TypeEnd, TypeCancel, TypeCredit, TypePong:
		c.deliver(f)
	case TypeEvent:
		if c.cfg.Event != nil {
			c.cfg.Event(c, f)
		}
	case TypePing:
		if c.w.size() > longQueue {
			return nil // a peer that does not read needs no answer, and gets no memory
		}
		if err := c.Queue(&Frame{Type: TypePong, ID: f.ID, Payload: f.Payload}); err == nil {
			c.FlushLater(c)
		}
	case TypeGoaway:
		c.mu.Lock()
		c.leaving.Store(true) // no request is queued after the answer to the next ping
		c.mu.Unlock()
		if f.Header.Kind != 0 {
			c.fail(Errorf("peer", f.Header.Kind, "the peer ended the connection: %s", cleanText(f.Payload)))
		}
	case TypeHello:
		return Errorf("read frame", BadInput, "second hello")
	}
	return nil
}

func (c *Conn) firstFrame(f *Frame) error {
	if f.Type == TypeGoaway {
		c.fail(Errorf("peer", max(f.Header.Kind, Failed), "the peer refused the connection: %s", cleanText(f.Payload)))
		return nil
	}
	if f.Type != TypeHello {
		return Errorf("read frame", BadInput, "frame type %d before hello", f.Type)
	}
	h, err := ParseHello(f.Payload)
	if err != nil {
		return err
	}
	c.hello.Store(&peerHello{Hello: h, payload: bytes.Clone(f.Payload)})
	close(c.helloReady)
	return nil
}

// accept takes a request of the peer.
func (c *Conn) accept(f *Frame) error {
	if f.ID&1 == 1 == c.cfg.Opener {
		return Errorf("read frame", BadInput, "call %d has this side's parity", f.ID)
	}
	if n := f.Header.FuncNum; n != 0 {
		if int(n) > len(c.cfg.Hello.Functions) {
			c.answer(f.ID, Errorf("call", NotFound, "no function has the number %d", n))
			return nil
		}
		f.Header.Func, f.Header.FuncNum = c.cfg.Hello.Functions[n-1], 0
	}
	c.mu.Lock()
	twice := c.calls.find(f.ID) != nil
	full := c.inbound >= c.cfg.MaxInbound
	draining := c.draining
	c.begun++
	c.mu.Unlock()
	switch {
	case twice:
		return Errorf("read frame", BadInput, "call %d begun twice", f.ID)
	case draining:
		c.answer(f.ID, Errorf("call", Unavailable, "this side is leaving, as it has said"))
	case c.cfg.Accept == nil && c.w.size() > longQueue: // a peer that does not read gets no memory for this either
	case c.cfg.Accept == nil:
		c.answer(f.ID, Errorf("call", Unsupported, "this side answers no calls"))
	case full:
		e := Errorf("call", Overloaded, "%d calls are in flight on this connection, the limit", c.cfg.MaxInbound)
		e.RetryAfter = overloadRetry
		c.answer(f.ID, e)
	default:
		c.cfg.Accept(c, f)
	}
	return nil
}

const overloadRetry = 50 * time.Millisecond // a few times the duration of a usual call

// answer ends the peer's call with err, from a handler.
func (c *Conn) answer(id uint32, err error) {
	if c.Queue(ErrorReply(id, err)) == nil {
		c.FlushLater(c)
	}
}

// deliver hands a frame to its call's sink. Frames of calls that are over are dropped: they crossed
// the reply or the cancel on their way.
func (c *Conn) deliver(f *Frame) {
	c.mu.Lock()
	e := c.calls.find(f.ID)
	if e == nil || !e.takes(f.Type) {
		c.mu.Unlock()
		return
	}
	sink := e.sink
	if !e.inbound && (f.Type == TypeReply && !f.More || f.Type == TypeEnd || f.Type == TypePong) {
		c.calls.remove(f.ID)
		c.signalIdle()
	} else if f.Type == TypeReply {
		e.due = 0 // whoever reads its body waits for the context
	}
	c.mu.Unlock()
	sink.HandleFrame(c, f)
}

// FlushLater has other's queue written when the batch of frames at hand is done. Only handlers that
// run on c's reading goroutine may call it; it makes one write out of all replies to one read.
func (c *Conn) FlushLater(other *Conn) {
	if r := c.r; !slices.Contains(r.dirty, other) {
		r.dirty = append(r.dirty, other)
	}
}

// FlushBatch is FlushLater(c) for a handler that may have worked for a while: replies do not wait
// longer than maxBatch for those to other requests of the same read.
func (c *Conn) FlushBatch() {
	c.FlushLater(c)
	r := c.r
	since := r.readAt
	if r.flushAt.After(since) {
		since = r.flushAt
	}
	if time.Since(since) > maxBatch { // cheaper than time.Now
		c.flushDirty(r)
		r.flushAt = time.Now()
	}
}

// ReadAt gives when the frame at hand was read. Only handlers that run on c's reading goroutine may
// call it.
func (c *Conn) ReadAt() time.Time { return c.r.readAt }

// flushDirty writes without blocking; what a peer does not take at once is left to the writing
// goroutine. A reading goroutine never waits for a write: two that did would wait for each other.
func (c *Conn) flushDirty(r *reader) {
	for i, d := range r.dirty {
		d.w.flushNow()
		r.dirty[i] = nil
	}
	r.dirty = r.dirty[:0]
}

// Yield lets another goroutine go on reading, because the handler that calls it is about to wait.
// Only a handler that runs on c's reading goroutine may call it, once it has copied what it needs
// of its frame.
func (c *Conn) Yield() {
	old := c.r
	old.yielded = true
	c.flushDirty(old)
	next := &reader{buf: make([]byte, max(readBuffer, old.to-old.from)), readAt: time.Now()}
	next.to = copy(next.buf, old.buf[old.from:old.to])
	c.r = next
	c.tasks.Go(func() { c.readLoop(next) })
}
