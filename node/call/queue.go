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
	ownerTime = 5 * time.Second // of the owner, who has nowhere else to go
	maxQueued = 64              // calls; past it whoever ranks lowest, or waits with most, is refused
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
	calls map[uint64]*waiting
	last  uint64
}

// waiting is a call in the queue.
type waiting struct {
	rank   Rank
	frame  cellproto.Frame
	timer  *time.Timer
	fail   func(error)              // it gets no place
	placed func() bool              // it has one; false: it is over. queue.mu is held
	run    func(f *cellproto.Frame) // then
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

// crowded says whether calls wait, so that a further one is to wait for its turn too, although there may be a place at
// this moment. Whatever has a body cannot wait.
func (s *Server) crowded(f *cellproto.Frame) error {
	if f.More || s.queue.waits.Load() == 0 {
		return nil
	}
	return overloaded("others wait for a place")
}

// push has a call of a session wait for a place; full is why it has none. ticket, which queue.mu guards, gets its
// number in the queue. The error is that it may not.
func (q *queue) push(s *session, f *cellproto.Frame, full error, w *waiting, ticket *uint64) error {
	r := s.rank()
	w.rank = r
	q.mu.Lock()
	var out *waiting
	if len(q.calls) >= maxQueued {
		if out = q.evict(r); out == nil {
			q.mu.Unlock()
			return full
		}
	}
	if q.calls == nil {
		q.calls = map[uint64]*waiting{}
	}
	q.last++
	id := q.last
	q.calls[id], *ticket = w, id
	wait := q.time
	if r.Class == ledger.ClassOwner {
		wait = max(wait, ownerTime)
	}
	if f.Header.Budget > 0 {
		wait = min(wait, f.Header.Budget)
	}
	w.frame = f.Clone()
	w.timer = time.AfterFunc(wait, func() {
		if q.drop(id) != nil {
			w.fail(full)
		}
	})
	q.q.Push(ledger.Request{ID: id, Caller: r.Key, Class: r.Class, Weight: r.Weight, Group: r.Group, Cost: 1000})
	q.waits.Store(int64(len(q.calls)))
	q.mu.Unlock()
	if out != nil {
		out.fail(full)
	}
	return nil
}

// evict takes a call out for one of rank r: the newest of the lowest class, if that is below r's; else, of whoever in
// r's class has most calls waiting, the newest, if those are at least two more than r's have. So nobody keeps others of
// its class out by waiting with many calls. q.mu is held.
func (q *queue) evict(r Rank) *waiting {
	waits := map[string]int{}
	for _, w := range q.calls {
		if w.rank.Class == r.Class {
			waits[w.rank.flow()]++
		}
	}
	most, floor := "", waits[r.flow()]+1
	for f, n := range waits {
		if n > floor || n == floor && most != "" && f < most {
			most, floor = f, n
		}
	}
	worst, lowest := uint64(0), r.Class
	for id, w := range q.calls {
		switch c := w.rank.Class; {
		case c > lowest, c == lowest && c > r.Class && id > worst:
			worst, lowest = id, c
		case most != "" && lowest == r.Class && c == r.Class && w.rank.flow() == most && id > worst:
			worst = id
		}
	}
	if worst == 0 {
		return nil
	}
	q.q.Drop(worst)
	return q.take(worst)
}

// flow names whose calls take turns with others': strangers of a group, or a caller.
func (r Rank) flow() string {
	if r.Class == ledger.ClassStranger {
		return r.Group
	}
	return string(r.Key[:])
}

// take forgets a call that waits no more. q.mu is held.
func (q *queue) take(id uint64) *waiting {
	w := q.calls[id]
	delete(q.calls, id)
	q.waits.Store(int64(len(q.calls)))
	if w != nil {
		w.timer.Stop()
	}
	return w
}

// drop takes a call out; nil if it does not wait any more.
func (q *queue) drop(id uint64) *waiting {
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
		var w *waiting
		r, ok := s.queue.q.Pop()
		if ok {
			w = s.queue.take(r.ID)
		}
		if w == nil || !w.placed() {
			s.queue.q.Done(r.ID, 1)
			s.queue.mu.Unlock()
			s.deps.Program.End()
			continue
		}
		s.queue.mu.Unlock()
		if !s.work.Go(func() { w.run(&w.frame) }) {
			w.fail(cellproto.Errorf("call", cellproto.Unavailable, "the nucleus is stopping"))
		}
	}
}

// Waiting gives how many calls wait for a place.
func (s *Server) Waiting() int { return int(s.queue.waits.Load()) }
