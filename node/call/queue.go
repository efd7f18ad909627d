package call

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// Calls that find no place in the program wait for one a little, and then in the order of who they are
// from: the owner, those whom this host owes something, newcomers. While there are places nobody asks.

// Limits of waiting. A caller that is refused can go elsewhere, so that is not put off for long.
const (
	queueTime = 250 * time.Millisecond
	maxQueued = 64 // calls; past it whoever ranks lowest is refused
)

// Rank says as what a caller waits.
type Rank struct {
	Class  ledger.Class
	Weight uint64     // in its class
	Key    ledger.Key // that its turns are counted by
	Group  string     // of strangers: those of one group share a place
}

// queue has the calls that wait.
type queue struct {
	waits atomic.Int64  // len(calls): read without the lock
	time  time.Duration // for which a call may wait

	mu    sync.Mutex
	q     ledger.Queue
	calls map[uint64]*passed
	class map[uint64]ledger.Class
	last  uint64
}

// ticket is the place of a call in the queue.
type ticket struct {
	id    uint64 // 0: it did not wait
	frame cellproto.Frame
	timer *time.Timer
}

// rank gives the rank of a session's caller.
func (s *session) rank() Rank {
	if s.who.Owner {
		return Rank{Class: ledger.ClassOwner, Weight: 1}
	}
	if s.s.deps.Rank == nil {
		return Rank{Class: ledger.ClassStranger, Weight: 1, Group: s.subject}
	}
	return s.s.deps.Rank(s.who)
}

// push has a call wait for a place; full is why it has none. The error is that it may not.
func (q *queue) push(p *passed, f *cellproto.Frame, full error) error {
	r := p.s.rank()
	q.mu.Lock()
	var out *passed
	if len(q.calls) >= maxQueued {
		if out = q.evict(r.Class); out == nil {
			q.mu.Unlock()
			return full
		}
	}
	if q.calls == nil {
		q.calls, q.class = map[uint64]*passed{}, map[uint64]ledger.Class{}
	}
	q.last++
	id := q.last
	q.calls[id], q.class[id] = p, r.Class
	wait := q.time
	if f.Header.Budget > 0 {
		wait = min(wait, f.Header.Budget)
	}
	p.ticket = ticket{id: id, frame: f.Clone(), timer: time.AfterFunc(wait, func() {
		if q.drop(id) != nil {
			p.relay.Fail(full)
		}
	})}
	q.q.Push(ledger.Request{ID: id, Caller: r.Key, Class: r.Class, Weight: r.Weight, Group: r.Group, Cost: 1000})
	q.waits.Store(int64(len(q.calls)))
	q.mu.Unlock()
	if out != nil {
		out.relay.Fail(full)
	}
	return nil
}

// evict takes the newest call of the lowest class out, if that is below c. q.mu is held.
func (q *queue) evict(c ledger.Class) *passed {
	worst, lowest := uint64(0), c
	for id, class := range q.class {
		if class > lowest || class == lowest && class > c && id > worst {
			worst, lowest = id, class
		}
	}
	if worst == 0 {
		return nil
	}
	q.q.Drop(worst)
	return q.take(worst)
}

// take forgets a call that waits no more. q.mu is held.
func (q *queue) take(id uint64) *passed {
	p := q.calls[id]
	delete(q.calls, id)
	delete(q.class, id)
	q.waits.Store(int64(len(q.calls)))
	if p != nil {
		p.ticket.timer.Stop()
	}
	return p
}

// drop takes a call out; nil if it does not wait any more.
func (q *queue) drop(id uint64) *passed {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.q.Drop(id) {
		return nil
	}
	return q.take(id)
}

// ended says what a call that had waited has cost, in µs.
func (q *queue) ended(id uint64, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.q.Done(id, uint64(max(took.Microseconds(), 1)))
}

// next gives whoever is next a place that has become free.
func (s *Server) next() {
	for s.queue.waits.Load() > 0 {
		if s.deps.Program.Begin() != nil {
			return
		}
		s.queue.mu.Lock()
		var p *passed
		r, ok := s.queue.q.Pop()
		if ok {
			p = s.queue.take(r.ID)
			p.placed, p.begin = true, time.Now()
			s.meter.begin(p.s.load.use, p.begin)
		}
		s.queue.mu.Unlock()
		if p == nil {
			s.deps.Program.End()
			return
		}
		f := &p.ticket.frame
		if !s.work.Go(func() { p.s.wake(&p.relay, f, nil) }) {
			p.relay.Fail(cellproto.Errorf("call", cellproto.Unavailable, "the nucleus is stopping"))
		}
	}
}

// Waiting gives how many calls wait for a place.
func (s *Server) Waiting() int { return int(s.queue.waits.Load()) }
