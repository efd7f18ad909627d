package call

import (
	"time"

	"github.com/celldnet/celld/cellproto"
)

// passed is a call on its way to the program and back. One that took the usual way is used again for
// another call: nobody else holds it then.
type passed struct {
	relay cellproto.Relay
	s     *session
	begin time.Time
	kept  kept // to be made again if the program ends, if it can be

	waited bool // it has no place at first
	// queue.mu guards these, of a call that waits.
	ticket uint64 // in the queue; 0: it does not wait, and has not
	placed bool   // it has a place in the program
	over   bool

	// Its methods, as the relay of each call is given them.
	onDone func(cellproto.Kind, time.Time)
	onLost func(error) bool
	onFree func()
}

// newPassed gives one that no call uses.
func (s *Server) newPassed() *passed {
	if p, ok := s.passed.Get().(*passed); ok {
		return p
	}
	p := &passed{}
	p.onDone, p.onLost, p.onFree = p.done, p.lost, p.free
	return p
}

// relay takes a place and passes the request on.
func (s *session) relay(c *cellproto.Conn, f *cellproto.Frame, fn *served) error {
	srv, program := s.s, s.s.deps.Program
	meta, err := s.metaFor(f.Header.Meta)
	if err != nil {
		return err
	}
	if err := s.take(); err != nil {
		return err
	}
	full := srv.crowded(f)
	if full == nil {
		full = program.Begin()
	}
	if full != nil && (f.More || cellproto.KindOf(full) != cellproto.Overloaded) {
		s.giveBack()
		return full
	}
	f.Header.Token, f.Header.To, f.Header.Meta = nil, "", meta
	p := srv.newPassed()
	p.s, p.begin, p.placed, p.waited = s, c.ReadAt(), full == nil, full != nil
	if p.placed {
		srv.meter.begin(s.load.use, p.begin)
	}
	keeps := srv.keep(&p.kept, fn, f, p.begin)
	p.relay.Start(c, f, p.onDone)
	if keeps {
		p.relay.OnLost(p.onLost)
	}
	if !p.placed {
		p.wait(f, full)
		return nil
	}
	p.relay.OnFree(p.onFree)
	if s.passNow(&p.relay, f) {
		return nil
	}
	clone := f.Clone()
	if !srv.work.Go(func() { s.wake(&p.relay, &clone, nil) }) {
		p.relay.Fail(cellproto.Errorf("call", cellproto.Unavailable, "the nucleus is stopping"))
	}
	return nil
}

// wait has the call wait for a place.
func (p *passed) wait(f *cellproto.Frame, full error) {
	srv := p.s.s
	w := &waiting{fail: p.relay.Fail, run: func(f *cellproto.Frame) { p.s.wake(&p.relay, f, nil) }}
	w.placed = func() bool {
		if !p.over {
			p.placed, p.begin = true, time.Now()
			srv.meter.begin(p.s.load.use, p.begin)
		}
		return !p.over
	}
	if err := srv.queue.push(p.s, f, full, w, &p.ticket); err != nil {
		p.relay.Fail(err)
		return
	}
	srv.next() // a place may have become free meanwhile
}

func (p *passed) done(kind cellproto.Kind, end time.Time) {
	p.kept.release()
	placed := p.placed
	if p.waited {
		placed = p.left(end)
	}
	if !placed {
		p.s.answeredFor(kind)
		return
	}
	p.s.done(p.begin, end, kind)
}

// left takes a call that has waited, or still does, out of the queue, and says whether it had got a place.
func (p *passed) left(end time.Time) bool {
	q := &p.s.s.queue
	q.mu.Lock()
	p.over = true
	id, placed := p.ticket, p.placed
	q.mu.Unlock()
	if id == 0 {
		return false
	}
	q.drop(id)
	if placed {
		q.ended(id, end.Sub(p.begin))
	}
	return placed
}

func (p *passed) lost(err error) bool { return p.s.again(&p.relay, &p.kept, err) }

// reusedRoom is how much room for a kept request is used again, in bytes.
const reusedRoom = 4 << 10

// free is called when the call is over and nobody else holds it.
func (p *passed) free() {
	srv := p.s.s
	p.s = nil
	room := p.kept.frame.Payload
	p.kept = kept{}
	if cap(room) <= reusedRoom {
		p.kept.frame.Payload = room[:0]
	}
	srv.passed.Put(p)
}
