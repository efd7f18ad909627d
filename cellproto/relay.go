package cellproto

import (
	"encoding/binary"
	"sync"
	"time"
)

// Relay passes one call on, frame by frame, from the connection that it came in on to another one,
// and its reply back. Nothing is decoded but the header, no goroutine waits, and the two ends do
// the flow control with each other: a relay holds no more of a body than they have granted.
type Relay struct {
	down   *Conn // the caller's
	downID uint32
	done   func(Kind, time.Time)
	seen   func(f *Frame, canceled bool) // see OnReply; nil: nobody wants to

	mu       sync.Mutex
	up       *Conn // the callee's; nil while the call is held
	upID     uint32
	held     []byte // frames of the caller's body that came before up was known
	toUp     flow   // the caller's body
	toDown   flow   // the reply's
	replied  bool
	canceled bool // the callee was told, or is to be
	answered bool // the caller has its error; the callee's end is awaited
	over     bool
	lost     func(error) bool // see OnLost
	free     func()           // see OnFree
	shared   bool             // others may hold it after the call: it is not used again
}

// flow is one body on its way through a relay.
type flow struct {
	open   bool  // it was announced and has not ended
	window int64 // bytes of chunk frames that its sender may send
	owed   int64 // credit that its sender has not been given yet
	most   int64 // of window, by what is granted
	inLine bool  // waits for a queue to be short
}

// take accounts for a chunk or an end; false when its sender may not send it.
func (fl *flow) take(f *Frame) bool {
	if !fl.open {
		return false
	}
	if f.Type == TypeEnd {
		fl.open = false
		return true
	}
	fl.window -= int64(len(f.Payload)) + chunkCost
	return fl.window >= 0
}

// credit takes note of what the receiver grants; what goes past MaxWindow is lost.
func (fl *flow) credit(f *Frame) {
	fl.owed += min(int64(binary.BigEndian.Uint32(f.Payload)), MaxWindow-fl.window-fl.owed)
}

// NewRelay takes up the call f, just accepted on down. done is called once, when the call is over,
// with the kind of error that it ended with, 0 for none, and when that was read; it must not block.
// Only Config.Accept may call it.
func NewRelay(down *Conn, f *Frame, done func(Kind, time.Time)) *Relay {
	r := &Relay{}
	r.Start(down, f, done)
	return r
}

// Start is NewRelay with a Relay that was not used yet, or was freed (OnFree).
func (r *Relay) Start(down *Conn, f *Frame, done func(Kind, time.Time)) {
	r.mu.Lock()
	r.down, r.downID, r.done, r.seen, r.lost, r.free = down, f.ID, done, nil, nil, nil
	r.up, r.upID, r.held = nil, 0, nil
	r.toUp, r.toDown = flow{open: f.More, window: InitialWindow, most: MaxWindow}, flow{window: InitialWindow, most: MaxWindow}
	if down.cfg.MaxUnread > 0 {
		r.toDown.most = InitialWindow // the callee is near: more would only wait here for a caller that need not read
	}
	r.replied, r.canceled, r.answered, r.over, r.shared = false, false, false, false, f.More
	r.mu.Unlock()
	down.Register(f.ID, (*callerSide)(r))
}

// OnFree has free called after done, at the end of a call that took the usual way, when the relay may be
// started anew: one frame each way, To within Config.Accept, and nobody has given up. A frame or the end
// of a connection that is handled at the same moment finds by its id that it came too late. It is to be
// set before To.
func (r *Relay) OnFree(free func()) { r.free = free }

// OnLost has again called when the callee is lost, or leaves, before it has replied to a request without
// a body: it may take the call up once more, by To, from another goroutine; when it reports false, the
// caller gets err. again must not block, nor call r. It is to be set before To.
func (r *Relay) OnLost(again func(err error) bool) {
	r.mu.Lock()
	r.lost = again
	r.mu.Unlock()
}

// retake asks whether the call is taken up once more, now that up is lost with err.
func (r *Relay) retake(up *Conn, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost == nil || r.up != up || r.over || r.answered || r.canceled || r.replied || !r.lost(err) {
		return false
	}
	r.up, r.upID = nil, 0
	return true
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
	r.shared = r.shared || !later
	down, request := r.down, *f
	id, err := up.Open(&request, (*calleeSide)(r))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.up, r.upID = up, id
	for len(r.held) > 0 {
		piece, n, err := ParseFrame(r.held)
		if err != nil || n == 0 {
			break // cannot be: it was made here
		}
		piece.ID, r.held = id, r.held[n:]
		_ = up.Queue(&piece) // a lost connection tells the callee's side
	}
	r.held = nil
	r.mu.Unlock() // it may be another call's from here on
	if later {
		down.FlushLater(up)
	} else {
		up.w.flushNow()
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
	answered := r.answered
	f := ErrorReply(r.downID, err)
	if r.toDown.open {
		f.Type = TypeEnd
	}
	up, upID := r.up, r.upID
	r.mu.Unlock()
	if !answered {
		_ = r.down.sendSoon(f) // a lost caller needs no answer
	}
	if up != nil {
		up.Cancel(upID)
	}
	r.done(f.Header.Kind, time.Now())
}

// refuse ends the call with err because of its caller. As long as the callee works on, the call is
// not over: nobody gets a second place by breaking the rules.
func (r *Relay) refuse(err error) {
	r.mu.Lock()
	up, id := r.up, r.upID
	if r.over || up == nil {
		r.mu.Unlock()
		r.Fail(err)
		return
	}
	f, told := ErrorReply(r.downID, err), r.canceled
	if r.toDown.open {
		f.Type = TypeEnd
	}
	r.answered, r.canceled = true, true
	r.mu.Unlock()
	_ = r.down.sendSoon(f) // lost peers need nothing
	if !told {
		_ = up.sendSoon(&Frame{Type: TypeCancel, ID: id})
	}
}

// Clone gives a frame that does not alias the connection's buffer.
func (f *Frame) Clone() Frame {
	var c Frame
	c.CopyFrom(f)
	return c
}

// CopyFrom makes f what Clone gives of another frame, in the room of its own payload if that is enough.
func (f *Frame) CopyFrom(other *Frame) {
	room := f.Payload[:0]
	*f = *other
	f.Header = other.Header.clone()
	if other.Payload == nil {
		f.Payload = nil
		return
	}
	f.Payload = append(room, other.Payload...)
}

// grant passes the credit on that fl's sender is owed, and reports whether it has: not while its
// sender's queue is long, nor its receiver's. So neither a receiver that grants much and reads little
// nor one that grants in crumbs fills a queue that other calls need. r.mu is held, and r.up is known.
func (r *Relay) grant(fl *flow, sender *Conn, id uint32, receiver *Conn) bool {
	n := min(fl.owed, fl.most-fl.window)
	if n <= 0 || n < min(fl.owed, fl.most/2) || !fl.open || fl.inLine || r.over {
		return false
	}
	if sender.w.isLong() || receiver.w.isLong() {
		r.shared = true
		again := func() {
			r.mu.Lock()
			fl.inLine = false
			granted := r.grant(fl, sender, id, receiver)
			r.mu.Unlock()
			if granted {
				sender.w.flushNow()
			}
		}
		if !sender.w.whenShort(again) || !receiver.w.whenShort(again) {
			fl.inLine = true
			return false
		}
	}
	var payload [4]byte
	binary.BigEndian.PutUint32(payload[:], uint32(n))
	fl.window, fl.owed = fl.window+n, fl.owed-n
	_ = sender.Queue(&Frame{Type: TypeCredit, ID: id, Payload: payload[:]}) // a lost sender needs none
	return true
}

// callerSide takes the caller's frames.
type callerSide Relay

func (s *callerSide) HandleFrame(c *Conn, f *Frame) {
	r := (*Relay)(s)
	r.mu.Lock()
	if r.down != c || r.downID != f.ID {
		r.mu.Unlock()
		return // it is another call's by now
	}
	pass, err := s.take(f)
	up := r.up
	if pass && err == nil {
		out := *f
		out.ID = r.upID
		_ = up.Queue(&out) // a lost connection tells the callee's side
	}
	r.mu.Unlock()
	switch {
	case err != nil:
		r.refuse(err)
	case up != nil:
		c.FlushLater(up)
	}
}

// take accounts for one frame and says whether it is to be passed on. r.mu is held.
func (s *callerSide) take(f *Frame) (pass bool, err error) {
	r := (*Relay)(s)
	if r.over {
		return false, nil
	}
	switch f.Type {
	case TypeChunk, TypeEnd:
		if !r.toUp.take(f) {
			return false, Errorf("relay body", BadInput, "the caller sends a body that it did not announce, or ignores the window")
		}
		if r.up == nil {
			r.held, err = AppendFrame(r.held, f)
			return false, err
		}
		return true, nil
	case TypeCredit:
		r.toDown.credit(f)
		if r.up != nil {
			r.grant(&r.toDown, r.up, r.upID, r.down)
		}
	case TypeCancel:
		if r.canceled {
			return false, nil
		}
		r.canceled = true
		if r.up == nil {
			return false, Errorf("call", Canceled, "the caller gave up")
		}
		return true, nil
	}
	return false, nil
}

// HandleClose means that the caller is gone: the callee is told, and its last reply is awaited, so
// that a slot is not given away while the program still works.
func (s *callerSide) HandleClose(c *Conn, _ error) {
	r := (*Relay)(s)
	r.mu.Lock()
	if r.down != c {
		r.mu.Unlock()
		return // as above
	}
	up, id := r.up, r.upID
	told := r.over || r.canceled
	r.canceled = true
	over := up == nil && !r.over
	r.over = r.over || over
	r.mu.Unlock()
	switch {
	case over:
		r.done(Canceled, time.Now())
	case !told:
		_ = up.sendSoon(&Frame{Type: TypeCancel, ID: id}) // a lost callee needs none
	}
}

// calleeSide takes the callee's frames.
type calleeSide Relay

func (s *calleeSide) HandleFrame(c *Conn, f *Frame) {
	r := (*Relay)(s)
	// One that is leaving says of calls that it has not answered how far they got; see Conn.Drain.
	if k := f.Header.Kind; f.Type == TypeReply && (k == Unavailable || k == MayHaveRun) && c.Leaving() && r.retake(c, replyError(&Reply{Header: f.Header, Payload: f.Payload})) {
		return
	}
	r.mu.Lock()
	if r.up != c || r.upID != f.ID {
		r.mu.Unlock()
		return // it is another call's by now
	}
	pass, err := s.take(f)
	last := pass && (f.Type == TypeReply && !f.More || f.Type == TypeEnd)
	if r.seen != nil && pass && err == nil && f.Type == TypeReply && !f.More {
		r.seen(f, r.canceled)
	}
	if last && err == nil {
		r.done(f.Header.Kind, c.ReadAt()) // before the reply can leave: the caller's next call may need the place
	}
	if pass && err == nil && !r.answered {
		out := *f
		out.ID = r.downID
		_ = r.down.Queue(&out) // a lost caller needs none
	}
	r.over = r.over || last
	down, free := r.down, r.free
	if !last || err != nil || r.shared || r.canceled || f.Type == TypeEnd {
		free = nil
	}
	r.mu.Unlock()
	if err != nil {
		r.Fail(err)
		return
	}
	c.FlushLater(down)
	if free != nil {
		free()
	}
}

// take accounts for one frame and says whether it is to be passed on. r.mu is held.
func (s *calleeSide) take(f *Frame) (pass bool, err error) {
	r := (*Relay)(s)
	if r.over {
		return false, nil
	}
	switch f.Type {
	case TypeReply:
		if r.replied {
			return false, Errorf("relay reply", Failed, "the callee replied twice")
		}
		r.replied, r.toDown.open = true, f.More
		if r.grant(&r.toDown, r.up, r.upID, r.down) {
			r.up.FlushLater(r.up)
		}
		return true, nil
	case TypeChunk, TypeEnd:
		if !r.toDown.take(f) {
			return false, Errorf("relay body", Failed, "the callee sends a body that it did not announce, or ignores the window")
		}
		if r.grant(&r.toDown, r.up, r.upID, r.down) {
			r.up.FlushLater(r.up)
		}
		return f.Type == TypeEnd || !r.canceled, nil
	case TypeCredit:
		r.toUp.credit(f)
		r.grant(&r.toUp, r.down, r.downID, r.up)
	}
	return false, nil
}

// HandleClose means that the callee is gone.
func (s *calleeSide) HandleClose(c *Conn, err error) {
	r := (*Relay)(s)
	r.mu.Lock()
	mine := r.up == c
	r.mu.Unlock()
	if mine && !r.retake(c, err) {
		r.Fail(err)
	}
}
