package call

import (
	"bytes"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Calls of idempotent functions that have a key run once in a while for each caller, function and key:
// a repeat gets the first answer, also one that arrives while the first runs. Remembered are replies
// in one frame of at most ChunkSize bytes, and errors of the function itself. What became of others is
// for the program to know, which gets the key too.

// keys are the calls with a key.
type keys struct {
	mu   sync.Mutex
	once *once[*keyed]
}

// keyed is one call with a key. It has a place in the nucleus, and one in the program while it runs.
type keyed struct {
	s      *session
	name   onceKey
	relay  *cellproto.Relay
	begin  time.Time
	budget time.Duration   // of its caller, from begin; 0: none
	frame  cellproto.Frame // of one that waits
	kept   kept            // to be made again if the program ends, if it can be

	// keys.mu guards these.
	tracked bool      // once knows it
	placed  time.Time // when it got a place in the program; zero: it has none
	over    bool      // done was called

	ticket uint64      // in the queue; 0: it does not wait for a place, and has not. queue.mu guards it
	timer  *time.Timer // of one that waits: its caller's deadline
}

// remembers says whether the call is one that is to run once.
func (fn *served) remembers(f *cellproto.Frame) bool {
	return len(f.Header.Key) > 0 && !f.More && fn != nil && fn.idempotent
}

// relayOnce is relay for a call that is to run once.
func (s *session) relayOnce(c *cellproto.Conn, f *cellproto.Frame, fn *served) error {
	meta, err := s.metaFor(f.Header.Meta)
	if err != nil {
		return err
	}
	args := argsHash(f)
	if err := s.take(); err != nil {
		return err
	}
	f.Header.Token, f.Header.To, f.Header.Meta = nil, "", meta
	begin := c.ReadAt()
	k := &keyed{
		s: s, begin: begin, budget: f.Header.Budget,
		name: onceKey{subject: s.subject, fn: f.Header.Func, key: string(f.Header.Key)},
	}
	keeps := s.s.keep(&k.kept, fn, f, begin)
	k.relay = cellproto.NewRelay(c, f, k.done)
	k.relay.OnReply(k.replied)
	if keeps {
		k.relay.OnLost(func(err error) bool { return s.again(k.relay, &k.kept, err) })
	}
	verdict, answer := k.enter(f, args)
	switch verdict {
	case toWait:
	case isKnown:
		k.relay.Answer(answer.header, answer.payload)
	case isReused:
		k.relay.Fail(cellproto.Errorf("call "+f.Header.Func, cellproto.BadInput, "the key was used before, with other arguments").
			WithHint("Use a new key for what is to be done anew."))
	default:
		k.run(f, true)
	}
	return nil
}

// enter says what is to become of the call.
func (k *keyed) enter(f *cellproto.Frame, args [32]byte) (verdict, onceAnswer) {
	ks := &k.s.s.keys
	ks.mu.Lock()
	defer ks.mu.Unlock()
	v, answer := ks.once.begin(k.begin, k.name, args, k)
	if k.tracked = v == toRun || v == toWait; v != toWait {
		return v, answer
	}
	// All who wait want the same: one copy of the arguments is enough.
	bare := *f
	bare.Payload = nil
	k.frame = bare.Clone()
	if first := ks.once.waiting(k.name)[0]; first != k {
		k.frame.Payload = first.frame.Payload
	} else {
		k.frame.Payload = bytes.Clone(f.Payload)
	}
	if k.budget > 0 {
		k.timer = time.AfterFunc(k.budget, func() {
			k.relay.Fail(cellproto.Errorf("call "+k.name.fn, cellproto.Timeout, "the call with the same key that runs already did not end in time"))
		})
	}
	return v, answer
}

// run passes the request on to the program; at once if that is awake and this is the goroutine that
// reads the caller's connection.
func (k *keyed) run(f *cellproto.Frame, reading bool) {
	srv, program := k.s.s, k.s.s.deps.Program
	err := srv.crowded(f)
	if err == nil {
		err = program.Begin()
	}
	if cellproto.KindOf(err) == cellproto.Overloaded {
		k.wait(f, err)
		return
	}
	if err != nil {
		k.relay.Fail(err)
		return
	}
	if !k.place() {
		program.End()
		return
	}
	if !reading {
		k.s.wake(k.relay, f, nil)
		return
	}
	if k.s.passNow(k.relay, f) {
		return
	}
	clone := f.Clone()
	if !srv.work.Go(func() { k.s.wake(k.relay, &clone, nil) }) {
		k.relay.Fail(cellproto.Errorf("call", cellproto.Unavailable, "the nucleus is stopping"))
	}
}

// wait has the call wait for a place.
func (k *keyed) wait(f *cellproto.Frame, full error) {
	srv := k.s.s
	w := &waiting{fail: k.relay.Fail, placed: k.place, run: func(f *cellproto.Frame) { k.s.wake(k.relay, f, nil) }}
	if err := srv.queue.push(k.s, f, full, w, &k.ticket); err != nil {
		k.relay.Fail(err)
		return
	}
	srv.next() // a place may have become free meanwhile
}

// place notes that the call has a place in the program, unless it is over.
func (k *keyed) place() bool {
	ks := &k.s.s.keys
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if !k.over {
		k.placed = time.Now()
		k.s.s.meter.begin(k.s.load.use, k.placed)
	}
	return !k.over
}

// runNext runs a call that has waited for one that was not answered.
func (k *keyed) runNext() {
	ks := &k.s.s.keys
	ks.mu.Lock()
	if k.timer != nil {
		k.timer.Stop() // from here on the program knows of the deadline
	}
	ks.mu.Unlock()
	if k.budget > 0 {
		k.frame.Header.Budget = max(k.budget-time.Since(k.begin), time.Microsecond)
	}
	k.run(&k.frame, false)
}

// replied sees the program's reply in one frame, before the call is over.
func (k *keyed) replied(f *cellproto.Frame, canceled bool) {
	now := time.Now()
	// A function that was cut short returns an error too, but that is not what it has to say.
	whole := f.Header.Kind == 0 ||
		f.Header.Kind == cellproto.FuncError && !canceled && (k.budget == 0 || now.Sub(k.begin) < k.budget)
	if !whole || len(f.Payload) > cellproto.ChunkSize {
		return
	}
	reply := f.Clone()
	ks := &k.s.s.keys
	ks.mu.Lock()
	waiting := ks.once.answered(now, k.name, k, onceAnswer{reply.Header, reply.Payload})
	ks.mu.Unlock()
	for _, w := range waiting {
		w.relay.Answer(reply.Header, reply.Payload)
	}
}

// done ends the call. If it was not answered, the next one that waits for it runs.
func (k *keyed) done(kind cellproto.Kind, end time.Time) {
	k.kept.release()
	srv := k.s.s
	ks := &srv.keys
	ks.mu.Lock()
	k.over = true
	if k.timer != nil {
		k.timer.Stop()
	}
	placed := k.placed
	var next *keyed
	if k.tracked {
		next, _ = ks.once.end(k.name, k)
	}
	ks.mu.Unlock()
	srv.queue.mu.Lock()
	ticket := k.ticket
	srv.queue.mu.Unlock()
	if ticket != 0 {
		srv.queue.drop(ticket)
		if !placed.IsZero() {
			srv.queue.ended(ticket, end.Sub(placed))
		}
	}
	if placed.IsZero() {
		k.s.answeredFor(kind)
	} else {
		k.s.done(placed, end, kind)
	}
	if next != nil && !srv.work.Go(next.runNext) {
		next.relay.Fail(cellproto.Errorf("call", cellproto.Unavailable, "the nucleus is stopping"))
	}
}

// answeredFor notes the end of a call that did not get to the program.
func (s *session) answeredFor(kind cellproto.Kind) {
	s.giveBack()
	s.s.last.Store(time.Now().UnixNano())
	if kind == 0 || kind == cellproto.FuncError {
		s.s.served.Add(1)
	}
}

// argsHash is the SHA-256 of a request's arguments; of JSON that of its canonical form.
func argsHash(f *cellproto.Frame) [32]byte {
	args := f.Payload
	if f.Header.Codec == cellproto.JSON {
		if canonical, err := cellproto.CanonicalJSON(args); err == nil {
			args = canonical
		}
	}
	return sha256.Sum256(append([]byte{byte(f.Header.Codec)}, args...))
}
