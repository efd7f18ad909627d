package cellproto

import (
	"errors"
	"io"
	"slices"
	"time"
)

const readBuffer = 64 << 10 // bytes; one read takes in some 300 small frames

// reader is one goroutine's turn at reading a connection, with the bytes that it has not parsed.
type reader struct {
	buf     []byte
	from    int
	to      int
	dirty   []*Conn // connections with frames queued by this turn's handlers
	yielded bool
}

// readLoop reads and dispatches until the connection ends or the turn is yielded.
func (c *Conn) readLoop(r *reader) {
	c.r = r
	for {
		for {
			f, n, err := ParseFrame(r.buf[r.from:r.to])
			if err != nil {
				c.refuse(err)
				return
			}
			if n == 0 {
				break
			}
			r.from += n
			if err := c.dispatch(&f); err != nil {
				c.refuse(err)
				return
			}
			if r.yielded {
				return
			}
		}
		c.flushDirty(r)
		if err := c.fill(r); err != nil {
			c.fail(err)
			return
		}
	}
}

// fill makes room for the frame at hand and reads once.
func (c *Conn) fill(r *reader) error {
	if r.from == r.to {
		r.from, r.to = 0, 0
		if len(r.buf) > 4*readBuffer {
			r.buf = make([]byte, readBuffer) // a large frame has passed
		}
		c.partial.Store(0)
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
			r.buf = slices.Grow(r.buf[:r.to], size-r.to)[:size]
		}
		c.partial.CompareAndSwap(0, time.Now().UnixNano())
	}
	n, err := c.t.Read(r.buf[r.to:])
	if n == 0 && err != nil {
		if errors.Is(err, io.EOF) && r.from == r.to {
			return errPeerClosed
		}
		return err
	}
	r.to += n
	c.lastFrame.Store(time.Now().UnixNano())
	return nil
}

var errPeerClosed = errors.New("the peer closed the connection")

// refuse ends the connection because of what the peer sent, and tells it why.
func (c *Conn) refuse(err error) {
	text := err.Error()
	f := &Frame{Type: TypeGoaway, Header: Header{Kind: KindOf(err)}, Payload: []byte(text[:min(len(text), MaxErrorText)])}
	if _, qerr := c.w.add(f); qerr == nil {
		c.flushNow()
	}
	c.fail(err)
}

// dispatch handles one frame.
func (c *Conn) dispatch(f *Frame) error {
	if c.hello.Load() == nil {
		return c.firstFrame(f)
	}
	switch f.Type {
	case TypeRequest:
		return c.accept(f)
	case TypeReply, TypeChunk, TypeEnd, TypeCancel, TypeCredit:
		c.deliver(f)
	case TypeEvent:
		if c.cfg.Event != nil {
			c.cfg.Event(c, f)
		}
	case TypePing:
		if _, err := c.w.add(&Frame{Type: TypePong, ID: f.ID, Payload: f.Payload}); err != nil {
			return err
		}
		c.FlushLater(c)
	case TypePong:
		c.deliver(f)
	case TypeGoaway:
		c.leaving.Store(true)
		if f.Header.Kind != 0 {
			return Errorf("peer", f.Header.Kind, "the peer ended the connection: %q", f.Payload)
		}
	case TypeHello:
		return Errorf("read frame", BadInput, "second hello")
	}
	return nil
}

func (c *Conn) firstFrame(f *Frame) error {
	if f.Type == TypeGoaway {
		return Errorf("peer", max(f.Header.Kind, Failed), "the peer refused the connection: %q", f.Payload)
	}
	if f.Type != TypeHello {
		return Errorf("read frame", BadInput, "frame type %d before hello", f.Type)
	}
	h, err := ParseHello(f.Payload)
	if err != nil {
		return err
	}
	p := &peerHello{Hello: h, numbers: make(map[string]uint32, len(h.Functions))}
	for i, name := range h.Functions {
		p.numbers[name] = uint32(i + 1)
	}
	c.hello.Store(p)
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
	_, twice := c.calls[f.ID]
	full := c.inbound >= c.cfg.MaxInbound
	c.mu.Unlock()
	switch {
	case twice:
		return Errorf("read frame", BadInput, "call %d begun twice", f.ID)
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
	e, ok := c.calls[f.ID]
	if !ok {
		c.mu.Unlock()
		return
	}
	wrong := e.inbound == (f.Type == TypeReply || f.Type == TypePong) && f.Type != TypeChunk && f.Type != TypeEnd && f.Type != TypeCredit
	if wrong || f.Type == TypeCancel && !e.inbound {
		c.mu.Unlock()
		return
	}
	last := !e.inbound && (f.Type == TypeReply && !f.More || f.Type == TypeEnd || f.Type == TypePong)
	if last {
		delete(c.calls, f.ID)
		c.signalIdle()
	}
	sink := e.sink
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

func (c *Conn) flushDirty(r *reader) {
	for i, d := range r.dirty {
		d.flushNow()
		r.dirty[i] = nil
	}
	r.dirty = r.dirty[:0]
}

// flushNow writes without blocking; what the peer does not take at once is left to the writing
// goroutine. A reading goroutine never waits for a write: two that did would wait for each other.
func (c *Conn) flushNow() {
	if c.raw == nil || !c.w.tryFlush(c.raw, c.fail) {
		c.w.wake()
	}
}

// Yield lets another goroutine go on reading, because the handler that calls it is about to wait.
// Only a handler that runs on c's reading goroutine may call it, once it has copied what it needs
// of its frame.
func (c *Conn) Yield() {
	old := c.r
	old.yielded = true
	c.flushDirty(old)
	next := &reader{buf: make([]byte, max(readBuffer, old.to-old.from))}
	next.to = copy(next.buf, old.buf[old.from:old.to])
	c.r = next
	c.readers.Add(1)
	go func() { defer c.readers.Done(); c.readLoop(next) }()
}
