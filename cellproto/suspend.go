package cellproto

import (
	"context"
	"errors"
	"time"
)

// A connection can outlive the process that serves it: its requests are held back, calls in flight end,
// and what is left is a descriptor and a Suspended, from which another process goes on.

// ErrSuspended is what Run returns after Suspend.
var ErrSuspended = errors.New("the connection was suspended")

// maxHeld is how many bytes of requests are held back before reading stops.
const maxHeld = 1 << 20

// Suspended is a connection without calls, at a frame boundary in what it has written.
type Suspended struct {
	Peer    []byte `cbor:"1,keyasint"`           // payload of the peer's hello
	Own     []byte `cbor:"2,keyasint"`           // of this side's
	NextID  uint32 `cbor:"3,keyasint"`           // of the last call that this side began
	Input   []byte `cbor:"4,keyasint,omitempty"` // what was read and not handled: frames, the last one perhaps in part
	Leaving bool   `cbor:"5,keyasint,omitempty"` // the peer has said goaway
}

// maxSuspended bounds an encoded Suspended, in bytes: two hellos, what was held, and a frame in part.
const maxSuspended = 2*MaxArgs + maxHeld + 2*MaxFrame

// Marshal encodes s.
func (s *Suspended) Marshal() ([]byte, error) {
	b, err := canonicalEncoder().Marshal(s)
	if err != nil {
		return nil, Errorf("suspend connection", Failed, "%w", err)
	}
	return b, nil
}

// ParseSuspended decodes what Marshal made. Kind BadInput or TooLarge.
func ParseSuspended(b []byte) (*Suspended, error) {
	const op = "read suspended connection"
	if len(b) > maxSuspended {
		return nil, Errorf(op, TooLarge, "%d bytes, the limit is %d", len(b), maxSuspended)
	}
	s := new(Suspended)
	if err := strictDecoder().Unmarshal(b, s); err != nil {
		return nil, Errorf(op, BadInput, "%w", err)
	}
	for _, hello := range [][]byte{s.Peer, s.Own} {
		if _, err := ParseHello(hello); err != nil {
			return nil, Errorf(op, BadInput, "%w", err)
		}
	}
	return s, nil
}

// held is what the reading goroutine keeps back. Conn.mu guards all of it.
type held struct {
	on     bool
	frames []byte              // requests, and what belongs to them
	ids    map[uint32]struct{} // of the requests
	change chan struct{}       // closed by Unhold and Suspend
	stop   chan struct{}       // closed when the reading goroutine has stopped, for Suspend; nil: it is not to
	input  []byte              // what it had not handled then
}

// Hold keeps the peer's further requests back, and all that belongs to them, while calls in flight go
// on. Past 1 MiB of them the connection is not read on. It fails with Unsupported when the transport has
// no read deadline, by which Unhold and Suspend reach the reading goroutine.
func (c *Conn) Hold() error {
	if _, ok := c.t.(interruptible); !ok || c.turn != nil {
		return Errorf("hold requests", Unsupported, "this connection cannot be held")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.held
	h.on = true
	if h.change == nil {
		h.change = make(chan struct{})
	}
	if h.ids == nil {
		h.ids = map[uint32]struct{}{}
	}
	c.holding.Store(true)
	c.w.lookAgain()
	return nil
}

// Unhold accepts what was held back, in order, and goes on.
func (c *Conn) Unhold() {
	c.mu.Lock()
	c.held.on = false
	c.held.changed()
	c.mu.Unlock()
	c.interrupt()
}

// changed wakes a reading goroutine that does not read. Conn.mu is held.
func (h *held) changed() {
	if h.change != nil {
		close(h.change)
		h.change = nil
	}
}

// interrupt has the reading goroutine look up. It may do so more than once.
func (c *Conn) interrupt() {
	_ = c.t.(interruptible).SetReadDeadline(time.Unix(1, 0)) // a lost connection needs no interrupt
}

// keepBack keeps a frame back if it is to be, and says so. Requests that come before Hold has returned
// may be accepted.
func (c *Conn) keepBack(f *Frame) (kept bool, err error) {
	if !c.holding.Load() {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.held
	if _, belongs := h.ids[f.ID]; f.Type == TypeRequest {
		h.ids[f.ID] = struct{}{}
	} else if !belongs || f.Type == TypePing || f.Type == TypePong {
		return false, nil
	}
	h.frames, err = AppendFrame(h.frames, f)
	return true, err
}

// lookUp is what the reading goroutine does before it reads on. It takes up what was held back, and says
// so; it waits while too much is; and it reports that it is to stop.
func (c *Conn) lookUp(r *reader) (more, stop bool) {
	if !c.holding.Load() {
		return false, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.held
	if change := h.change; change != nil && h.stop == nil && len(h.frames) > maxHeld {
		c.mu.Unlock()
		select {
		case <-change:
		case <-c.done:
		}
		c.mu.Lock()
	}
	if h.on && h.stop == nil {
		return false, false
	}
	input := append(h.frames, r.buf[r.from:r.to]...)
	h.frames, h.ids = nil, nil
	if h.stop != nil {
		h.input = input
		close(h.stop)
		return false, true
	}
	c.holding.Store(false)
	rest := readerOf(input)
	r.buf, r.from, r.to = rest.buf, rest.from, rest.to
	return true, false
}

// Suspend ends the connection here and leaves the transport open, for ResumeConn. Requests must be held;
// while a call is in flight, either way, it fails with Overloaded, and when what is queued cannot be
// written before ctx ends, with the kind of that; the connection then goes on as before. Run returns
// ErrSuspended.
func (c *Conn) Suspend(ctx context.Context) (*Suspended, error) {
	const op = "suspend connection"
	stopped := make(chan struct{})
	c.mu.Lock()
	peer, on, busy := c.hello.Load(), c.held.on, c.calls.len()
	switch {
	case c.closed != nil:
		c.mu.Unlock()
		return nil, Errorf(op, Unavailable, "%w", c.closed)
	case !on || peer == nil || busy > 0:
		c.mu.Unlock()
		return nil, Errorf(op, Overloaded, "%d calls are in flight, or requests are not held", busy)
	}
	c.held.stop = stopped
	c.held.changed()
	c.mu.Unlock()
	c.interrupt()
	select {
	case <-stopped:
	case <-c.done:
		return nil, Errorf(op, Unavailable, "the connection has ended")
	}
	c.w.flushed(ctx, c.done)
	s := &Suspended{Peer: peer.payload, Own: c.own, Leaving: c.leaving.Load()}
	c.mu.Lock()
	busy, s.NextID, s.Input = c.calls.len(), c.nextID, c.held.input
	if busy == 0 && c.w.size() == 0 && c.closed == nil {
		c.mu.Unlock()
		_ = c.t.(interruptible).SetReadDeadline(time.Time{})
		c.fail(ErrSuspended)
		return s, nil
	}
	h := &c.held // as before
	h.stop, h.input, h.ids, h.change = nil, nil, map[uint32]struct{}{}, make(chan struct{})
	c.mu.Unlock()
	c.tasks.Go(func() { c.readLoop(readerOf(s.Input)) })
	if ctx.Err() != nil {
		return nil, Errorf(op, KindOf(ctx.Err()), "%w", ctx.Err())
	}
	return nil, Errorf(op, Overloaded, "a call was begun meanwhile")
}

// readerOf makes a reader that has read input already.
func readerOf(input []byte) *reader {
	r := &reader{buf: make([]byte, max(readBuffer, len(input)+readBuffer)), readAt: time.Now()}
	r.to = copy(r.buf, input)
	return r
}

// ResumeConn makes a connection that goes on where another one was suspended. cfg is as it was there,
// but for the hello, which was said already.
func ResumeConn(t Transport, cfg Config, s *Suspended) (*Conn, error) {
	peer, err := ParseHello(s.Peer)
	if err != nil {
		return nil, err
	}
	if cfg.Hello, err = ParseHello(s.Own); err != nil {
		return nil, err
	}
	c := newConn(t, cfg)
	c.own = s.Own
	c.nextID = s.NextID
	c.input = s.Input
	c.leaving.Store(s.Leaving)
	c.hello.Store(&peerHello{Hello: peer, payload: s.Peer})
	close(c.helloReady)
	return c, nil
}
