package cellproto

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"time"
)

const (
	// chunkCost is what a chunk takes of the window besides its bytes: its fixed header. So windows
	// bound what waits in queues even when all chunks are tiny.
	chunkCost = FrameHeaderSize
	// bodyWindow is what a receiver that keeps up grants, in bytes; at 60 ms round trip 16 MB/s, at
	// a LAN's 1 ms the wire's speed.
	bodyWindow = 1 << 20
	// grantEvery is how long a slow reader keeps what it has read to itself before it grants that.
	grantEvery = time.Second
	// bodyStall is how long a sender waits for credit: a reader that stopped for so long holds a
	// place that others could have. Far above grantEvery, as a slow link may be shared by many.
	bodyStall = 2 * time.Minute
	// smallChunk is the room, in bytes, in which chunks that are smaller are put together.
	smallChunk = 1 << 10
)

var errUnwanted = Errorf("send body", Canceled, "the receiver does not want the rest")

// bodyOut sends one body under the receiver's credit.
type bodyOut struct {
	c      *Conn
	mu     sync.Mutex
	window int64         // bytes of chunk frames that may be sent now
	inLine bool          // waits for the connection's queue to be short
	over   error         // why nothing more is to be sent; nil: go on
	change chan struct{} // capacity 1: one of them has changed
}

func newBodyOut(c *Conn) *bodyOut {
	return &bodyOut{c: c, window: InitialWindow, change: make(chan struct{}, 1)}
}

func (b *bodyOut) credit(f *Frame) {
	b.mu.Lock()
	// What goes past MaxWindow is lost. A receiver that grants that much only hurts itself.
	b.window = min(b.window+int64(binary.BigEndian.Uint32(f.Payload)), MaxWindow)
	b.mu.Unlock()
	b.signal()
}

// stop ends the body because of err.
func (b *bodyOut) stop(err error) {
	b.mu.Lock()
	if b.over == nil {
		b.over = err
	}
	b.mu.Unlock()
	b.signal()
}

func (b *bodyOut) room() {
	b.mu.Lock()
	b.inLine = false
	b.mu.Unlock()
	b.signal()
}

func (b *bodyOut) signal() {
	select {
	case b.change <- struct{}{}:
	default:
	}
}

// try gives how many bytes, at most want, may be sent now; 0 without an error when it must wait, and
// whether it waits for credit.
func (b *bodyOut) try(want int) (n int, broke bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = int(min(int64(want), b.window-chunkCost))
	switch {
	case b.over != nil:
		return 0, false, b.over
	case n <= 0:
		return 0, true, nil
	case b.inLine:
		return 0, false, nil
	case !b.c.w.whenShort(b.room):
		b.inLine = true
		return 0, false, nil
	}
	b.window -= int64(n) + chunkCost
	return n, false, nil
}

// take waits until something may be sent and gives how much, at most want.
func (b *bodyOut) take(want int) (int, error) {
	var stall *time.Timer
	for {
		n, broke, err := b.try(want)
		if n > 0 || err != nil {
			return n, err
		}
		var late <-chan time.Time
		if broke { // a long queue of our own is the writer's to judge
			if stall == nil {
				stall = time.NewTimer(bodyStall)
				defer stall.Stop()
			}
			late = stall.C
		}
		select {
		case <-b.change:
		case <-late:
			return 0, Errorf("send body", Timeout, "the receiver took nothing for %v", bodyStall)
		case <-b.c.done:
			return 0, errUnwanted
		}
	}
}

// pump sends r as the body of call id, then its end. It returns when all was handed over, or when
// that is in vain. An error, of r or because nobody wants the rest, ends the body with its kind.
func (b *bodyOut) pump(id uint32, r io.Reader) error {
	err := b.chunks(id, r)
	end := &Frame{Type: TypeEnd, ID: id}
	if err != nil {
		end = ErrorReply(id, err)
		end.Type = TypeEnd
	}
	if serr := b.c.Send(end); err == nil {
		err = serr
	}
	return err
}

func (b *bodyOut) chunks(id uint32, r io.Reader) error {
	buf := make([]byte, ChunkSize)
	for {
		n, rerr := r.Read(buf) // what is there is sent at once: the peer may wait for it
		for sent := 0; sent < n; {
			m, err := b.take(n - sent)
			if err != nil {
				return err
			}
			if err := b.c.Send(&Frame{Type: TypeChunk, ID: id, Payload: buf[sent : sent+m]}); err != nil {
				return err
			}
			sent += m
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

// bodyIn receives one body. It holds at most the window that it has granted.
type bodyIn struct {
	ctx     context.Context
	c       *Conn
	id      uint32
	abandon func() // tells the sender that nobody reads on; may be nil

	mu       sync.Mutex
	chunks   []piece
	allowed  int64     // bytes of chunk frames that the sender may still send
	window   int64     // what allowed is filled up to
	consumed int64     // of them read since the last credit
	granted  time.Time // the last credit
	over     bool
	err      error // how it ended, io.EOF for well
	change   chan struct{}
}

// piece is a chunk, or small ones together.
type piece struct {
	data []byte
	cost int64 // chunkCost of each
}

func newBodyIn(ctx context.Context, c *Conn, id uint32) *bodyIn {
	return &bodyIn{
		ctx: ctx, c: c, id: id, allowed: InitialWindow, window: InitialWindow,
		granted: time.Now(), change: make(chan struct{}, 1),
	}
}

// push takes a chunk; false when the sender had no credit for it.
func (b *bodyIn) push(chunk []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return true
	}
	if int64(len(chunk))+chunkCost > b.allowed {
		return false
	}
	b.allowed -= int64(len(chunk)) + chunkCost
	if n := len(b.chunks); n > 0 && cap(b.chunks[n-1].data)-len(b.chunks[n-1].data) >= len(chunk) {
		last := &b.chunks[n-1]
		last.data, last.cost = append(last.data, chunk...), last.cost+chunkCost
	} else {
		data := append(make([]byte, 0, max(len(chunk), smallChunk)), chunk...)
		b.chunks = append(b.chunks, piece{data, chunkCost})
	}
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
			n, grant := b.consume(p)
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

// consume copies from the first piece and gives the credit to grant now: half a window at a time, or
// what a slow reader has read in a second. The first grant for half a window also widens the window,
// since then the reader keeps up. b.mu is held.
func (b *bodyIn) consume(p []byte) (n int, grant int64) {
	first := &b.chunks[0]
	n = copy(p, first.data)
	first.data = first.data[n:]
	b.consumed += int64(n)
	if len(first.data) == 0 {
		b.consumed += first.cost
		b.chunks[0] = piece{}
		b.chunks = b.chunks[1:]
	}
	now := time.Now()
	half := b.consumed >= b.window/2
	if b.over || !half && now.Sub(b.granted) < grantEvery {
		return n, 0
	}
	grant = b.consumed
	if half && b.window < bodyWindow {
		grant += bodyWindow - b.window
		b.window = bodyWindow
	}
	b.consumed, b.granted = 0, now
	b.allowed += grant
	return n, grant
}

func (b *bodyIn) grant(n int64) {
	if n == 0 {
		return
	}
	var payload [4]byte
	binary.BigEndian.PutUint32(payload[:], uint32(n))
	_ = b.c.sendSoon(&Frame{Type: TypeCredit, ID: b.id, Payload: payload[:]}) // a lost connection ends the body
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
