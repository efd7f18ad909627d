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

	ticket ticket
	placed bool // it has a place in the program; queue.mu guards it while the call waits

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
	full := program.Begin()
	if full != nil && (f.More || cellproto.KindOf(full) != cellproto.Overloaded) {
		s.giveBack()
		return full
	}
	f.Header.Token, f.Header.To, f.Header.Meta = nil, "", meta
	p := srv.newPassed()
	p.s, p.begin, p.placed = s, c.ReadAt(), full == nil
	if p.placed {
		srv.meter.begin(s.load.use, p.begin)
	}
	keeps := srv.keep(&p.kept, fn, f, p.begin)
	p.relay.Start(c, f, p.onDone)
	if keeps {
		p.relay.OnLost(p.onLost)
	}
	if !p.placed {
		if err := srv.queue.push(p, f, full); err != nil {
			p.relay.Fail(err)
		} else {
			srv.next() // a place may have become free meanwhile
		}
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

func (p *passed) done(kind cellproto.Kind, end time.Time) {
	p.kept.release()
	srv := p.s.s
	if p.ticket.id != 0 {
		srv.queue.drop(p.ticket.id)
		srv.queue.mu.Lock()
		placed := p.placed
		srv.queue.mu.Unlock()
		if placed {
			srv.queue.ended(p.ticket.id, end.Sub(p.begin))
		}
	}
	if !p.placed {
		p.s.answeredFor(kind)
		return
	}
	p.s.done(p.begin, end, kind)
}

func (p *passed) lost(err error) bool { return p.s.again(&p.relay, &p.kept, err) }

// reusedRoom is how much room for a kept request is used again, in bytes.
const reusedRoom = 4 << 10

// free is called when the call is over and nobody else holds it.
func (p *passed) free() {
	srv := p.s.s
	p.s, p.ticket = nil, ticket{}
	room := p.kept.frame.Payload
	p.kept = kept{}
	if cap(room) <= reusedRoom {
		p.kept.frame.Payload = room[:0]
	}
	srv.passed.Put(p)
}
