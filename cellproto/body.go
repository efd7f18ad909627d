package cellproto

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
)

// bodyOut sends one body under the receiver's credit.
type bodyOut struct {
	c       *Conn
	mu      sync.Mutex
	window  int64 // bytes that may be sent now
	stopped bool
	change  chan struct{} // capacity 1: window or stopped has changed
}

func newBodyOut(c *Conn) *bodyOut {
	return &bodyOut{c: c, window: InitialWindow, change: make(chan struct{}, 1)}
}

func (b *bodyOut) credit(f *Frame) {
	b.mu.Lock()
	// A receiver that grants more than it may only hurts itself; the sum cannot overflow.
	b.window = min(b.window+int64(binary.BigEndian.Uint32(f.Payload)), MaxWindow)
	b.mu.Unlock()
	b.signal()
}

// stop ends the body without an end frame: nobody wants the rest.
func (b *bodyOut) stop() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.signal()
}

func (b *bodyOut) signal() {
	select {
	case b.change <- struct{}{}:
	default:
	}
}

// take waits until something may be sent and gives how much, at most want; 0 when it was stopped.
func (b *bodyOut) take(want int) int {
	for {
		b.mu.Lock()
		stopped, n := b.stopped, int(min(int64(want), b.window))
		if !stopped {
			b.window -= int64(n)
		}
		b.mu.Unlock()
		if stopped {
			return 0
		}
		if n > 0 {
			return n
		}
		select {
		case <-b.change:
		case <-b.c.done:
			return 0
		}
	}
}

// pump sends r as the body of call id, then its end. It returns when all was handed over, or when
// nobody wants the rest. An error of r ends the body with its kind.
func (b *bodyOut) pump(id uint32, r io.Reader) error {
	buf := make([]byte, ChunkSize)
	for {
		n, rerr := io.ReadFull(r, buf)
		for sent := 0; sent < n; {
			m := b.take(n - sent)
			if m == 0 {
				return Errorf("send body", Canceled, "the receiver does not want the rest")
			}
			if err := b.c.Send(&Frame{Type: TypeChunk, ID: id, Payload: buf[sent : sent+m]}); err != nil {
				return err
			}
			sent += m
		}
		switch rerr {
		case nil:
			continue
		case io.EOF, io.ErrUnexpectedEOF:
			return b.c.Send(&Frame{Type: TypeEnd, ID: id})
		}
		end := ErrorReply(id, rerr)
		end.Type = TypeEnd
		_ = b.c.Send(end) // the body's own error says more than a lost connection
		return rerr
	}
}

// bodyIn receives one body. It holds at most the window that it has granted.
type bodyIn struct {
	ctx     context.Context
	c       *Conn
	id      uint32
	abandon func() // tells the sender that nobody reads on; may be nil

	mu       sync.Mutex
	chunks   [][]byte
	allowed  int64 // bytes that the sender may still send
	window   int64 // what allowed is filled up to
	consumed int64 // bytes read since the last credit
	over     bool
	err      error // how it ended, io.EOF for well
	change   chan struct{}
}

const bodyWindow = 1 << 20 // bytes; at 60 ms round trip 16 MB/s, at a LAN's 1 ms the wire's speed

func newBodyIn(ctx context.Context, c *Conn, id uint32) *bodyIn {
	return &bodyIn{ctx: ctx, c: c, id: id, allowed: InitialWindow, window: InitialWindow, change: make(chan struct{}, 1)}
}

// push takes a chunk; false when the sender had no credit for it, which ends the body.
func (b *bodyIn) push(chunk []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return true
	}
	if int64(len(chunk)) > b.allowed {
		b.finish(Errorf("read body", BadInput, "the sender ignores the window"))
		return false
	}
	b.allowed -= int64(len(chunk))
	b.chunks = append(b.chunks, append([]byte(nil), chunk...))
	b.signal()
	return true
}

func (b *bodyIn) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		err = io.EOF
	}
	b.finish(err)
}

// finish sets how the body ends, once. b.mu is held.
func (b *bodyIn) finish(err error) {
	if !b.over {
		b.over, b.err = true, err
		b.signal()
	}
}

func (b *bodyIn) signal() {
	select {
	case b.change <- struct{}{}:
	default:
	}
}

// Read gives what has arrived, and grants the sender more as it is consumed.
func (b *bodyIn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		b.mu.Lock()
		if len(b.chunks) > 0 {
			n := copy(p, b.chunks[0])
			if b.chunks[0] = b.chunks[0][n:]; len(b.chunks[0]) == 0 {
				b.chunks = b.chunks[1:]
			}
			grant := b.consume(int64(n))
			b.mu.Unlock()
			b.grant(grant)
			return n, nil
		}
		over, err := b.over, b.err
		b.mu.Unlock()
		if over {
			return 0, err
		}
		select {
		case <-b.change:
		case <-b.ctx.Done():
			err := context.Cause(b.ctx)
			return 0, Errorf("read body", KindOf(err), "%w", err)
		}
	}
}

// consume counts n bytes as read and gives the credit to grant now: half a window at a time. The
// first grant also widens the window, since then the reader keeps up. b.mu is held.
func (b *bodyIn) consume(n int64) int64 {
	b.consumed += n
	if b.over || b.consumed < b.window/2 {
		return 0
	}
	grant := b.consumed
	if b.window < bodyWindow {
		grant += bodyWindow - b.window
		b.window = bodyWindow
	}
	b.consumed = 0
	b.allowed += grant
	return grant
}

func (b *bodyIn) grant(n int64) {
	if n == 0 {
		return
	}
	var payload [4]byte
	binary.BigEndian.PutUint32(payload[:], uint32(n))
	_ = b.c.Send(&Frame{Type: TypeCredit, ID: b.id, Payload: payload[:]}) // a lost connection ends the body
}

// Close drops what has not been read and tells the sender.
func (b *bodyIn) Close() error {
	b.mu.Lock()
	abandoned := !b.over
	b.finish(Errorf("read body", Canceled, "closed"))
	b.chunks = nil
	b.mu.Unlock()
	if abandoned && b.abandon != nil {
		b.abandon()
	}
	return nil
}
