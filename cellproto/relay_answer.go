package cellproto

import "time"

// OnReply has seen called with the callee's reply if that is one frame, before done and before it is
// passed on; canceled says that the callee was told that nobody waits. seen must not block, and clones
// what it keeps. It may be called before To only.
func (r *Relay) OnReply(seen func(f *Frame, canceled bool)) { r.seen = seen }

// Answer ends a call that was not passed on with a reply of one frame, on whichever goroutine. It does
// not wait.
func (r *Relay) Answer(h Header, payload []byte) {
	r.mu.Lock()
	if r.over || r.up != nil {
		r.mu.Unlock()
		return
	}
	r.over = true
	r.mu.Unlock()
	r.done(h.Kind, time.Now())                                                              // before the reply can leave: the caller's next call may need the place
	_ = r.down.sendSoon(&Frame{Type: TypeReply, ID: r.downID, Header: h, Payload: payload}) // a lost caller needs none
}
