package cellproto

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// Relay passes one call on, frame by frame, from the connection that it came in on to another one,
// and its reply back. Nothing is decoded but the header, no goroutine waits, and the two ends do
// the flow control with each other: a relay holds no more of a body than they have granted.
type Relay struct {
	down   *Conn // the caller's
	downID uint32
	done   func(Kind)

	mu       sync.Mutex
	up       *Conn // the callee's; nil while the call is held
	upID     uint32
	held     []Frame // what came before up was known
	toUp     int64   // bytes of the caller's body that the callee has room for
	toDown   int64   // bytes of the reply's body that the caller has room for
	streams  bool    // the reply has begun and goes on
	canceled bool
	over     bool
}

// NewRelay takes up the call f, just accepted on down. done is called once, when the call is over,
// with the kind of error that it ended with, 0 for none; it must not block. Only Config.Accept may
// call it.
func NewRelay(down *Conn, f *Frame, done func(Kind)) *Relay {
	r := &Relay{down: down, downID: f.ID, done: done, toUp: InitialWindow, toDown: InitialWindow}
	down.Register(f.ID, (*callerSide)(r))
	return r
}

// To opens the call on up with the request f. When it fails, the call is not over: the request
// provably never left, so try another way or Fail it. later defers the write to the end of the
// batch; it may be true only in Config.Accept.
func (r *Relay) To(up *Conn, f *Frame, later bool) error {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return nil
	}
	if r.canceled {
		r.mu.Unlock()
		r.Fail(Errorf("call", Canceled, "the caller gave up"))
		return nil
	}
	request := *f
	id, err := up.Open(&request, (*calleeSide)(r))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.up, r.upID = up, id
	for i := range r.held {
		r.held[i].ID = id
		_ = up.Queue(&r.held[i]) // a lost connection tells the callee's side
	}
	r.held = nil
	r.mu.Unlock()
	if later {
		r.down.FlushLater(up)
	} else {
		up.Flush()
	}
	return nil
}

// Fail ends the call with err, on whichever goroutine.
func (r *Relay) Fail(err error) {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	r.over = true
	f := ErrorReply(r.downID, err)
	if r.streams {
		f.Type = TypeEnd
	}
	up, upID := r.up, r.upID
	r.mu.Unlock()
	_ = r.down.Send(f) // a lost caller needs no answer
	if up != nil {
		up.Cancel(upID)
	}
	r.done(f.Header.Kind)
}

// Clone gives a frame that does not alias the connection's buffer.
func (f *Frame) Clone() Frame {
	c := *f
	c.Header = f.Header.clone()
	c.Payload = bytes.Clone(f.Payload)
	return c
}

// callerSide takes the caller's frames.
type callerSide Relay

func (s *callerSide) HandleFrame(c *Conn, f *Frame) {
	r := (*Relay)(s)
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	switch f.Type {
	case TypeChunk:
		r.toUp -= int64(len(f.Payload))
		if r.toUp < 0 {
			r.mu.Unlock()
			r.Fail(Errorf("relay body", BadInput, "the caller ignores the window"))
			return
		}
	case TypeCredit:
		r.toDown = min(r.toDown+int64(binary.BigEndian.Uint32(f.Payload)), MaxWindow)
	case TypeCancel:
		r.canceled = true
	}
	if r.up == nil {
		if f.Type != TypeCancel {
			r.held = append(r.held, f.Clone())
		}
		r.mu.Unlock()
		return
	}
	out, up := *f, r.up
	out.ID = r.upID
	_ = up.Queue(&out)
	r.mu.Unlock()
	c.FlushLater(up)
}

// HandleClose means that the caller is gone: the callee is told, and its last reply is awaited, so
// that a slot is not given away while the program still works.
func (s *callerSide) HandleClose(*Conn, error) {
	r := (*Relay)(s)
	r.mu.Lock()
	up, id := r.up, r.upID
	r.canceled = true
	if up == nil {
		r.over = true
	}
	r.mu.Unlock()
	if up == nil {
		r.done(Canceled)
		return
	}
	_ = up.Send(&Frame{Type: TypeCancel, ID: id})
}

// calleeSide takes the callee's frames.
type calleeSide Relay

func (s *calleeSide) HandleFrame(c *Conn, f *Frame) {
	r := (*Relay)(s)
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	switch f.Type {
	case TypeChunk:
		r.toDown -= int64(len(f.Payload))
		if r.toDown < 0 {
			r.mu.Unlock()
			r.Fail(Errorf("relay body", BadInput, "the callee ignores the window"))
			return
		}
	case TypeCredit:
		r.toUp = min(r.toUp+int64(binary.BigEndian.Uint32(f.Payload)), MaxWindow)
	case TypeReply:
		r.streams = f.More
	}
	last := f.Type == TypeReply && !f.More || f.Type == TypeEnd
	r.over = last
	out := *f
	out.ID = r.downID
	_ = r.down.Queue(&out)
	r.mu.Unlock()
	c.FlushLater(r.down)
	if last {
		r.done(f.Header.Kind)
	}
}

// HandleClose means that the callee is gone.
func (s *calleeSide) HandleClose(_ *Conn, err error) { (*Relay)(s).Fail(err) }
