package call

import (
	"container/list"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Limits on what is remembered of calls with a key. Past that on bytes an answer is forgotten of the caller whose answers
// take most, a large one if there is any: one of these has the room of a hundred keys. Past that on calls the oldest one of
// the caller with most of them is: so nobody can have the answers of others forgotten by calls of its own, nor many
// together those of one whose answer is larger.
const (
	onceWindow  = 10 * time.Minute // after the answer; far more than a caller's retries take
	onceEntries = 4096
	onceBytes   = 16 << 20 // keys and answers
	onceLarge   = 4 << 10  // bytes of a large one
)

// once remembers the calls of idempotent functions by their keys, so that a repeat gets the first
// answer and the function runs once. It is pure: it has no clock and runs nothing, and is not safe
// for concurrent use. W is a call that can wait for another one.
type once[W comparable] struct {
	calls  map[onceKey]*onceCall[W]
	oldest *list.List // of *onceCall, those that are answered, the oldest first
	bytes  int        // of those
	shares map[string]*onceShare

	maxCalls, maxBytes int
}

// onceShare is what is remembered of one subject.
type onceShare struct {
	small, large *list.List // of *onceCall, the oldest first
	bytes        int
}

func (s *onceShare) len() int { return s.small.Len() + s.large.Len() }

// onceKey names what a caller means to have done once.
type onceKey struct{ subject, fn, key string }

// onceCall is one such call: it runs, or it is answered.
type onceCall[W comparable] struct {
	name    onceKey
	args    [32]byte
	runner  W             // who runs it
	waiting []W           // who want the same, the first first
	place   *list.Element // in once.oldest; nil: it runs
	own     *list.Element // in one of its subject's lists
	answer  onceAnswer
	until   time.Time
}

// onceAnswer is a reply in one frame.
type onceAnswer struct {
	header  cellproto.Header
	payload []byte
}

func newOnce[W comparable]() *once[W] {
	return &once[W]{
		calls: map[onceKey]*onceCall[W]{}, oldest: list.New(), shares: map[string]*onceShare{}, maxCalls: onceEntries, maxBytes: onceBytes,
	}
}

// verdict is what becomes of a call.
type verdict int

const (
	toRun    verdict = iota // end or answered is due
	toWait                  // end is due; answered or end of another call gives it back
	isKnown                 // it has been answered
	isReused                // its key was used for other arguments
	isApart                 // there is no room to remember it: it runs on its own
)

// begin takes a call up. With isKnown it gives the answer, which is not to be changed.
func (o *once[W]) begin(now time.Time, name onceKey, args [32]byte, w W) (verdict, onceAnswer) {
	o.expire(now)
	c := o.calls[name]
	switch {
	case c == nil && len(o.calls) >= o.maxCalls && !o.forgetOldest():
		return isApart, onceAnswer{}
	case c == nil:
		o.calls[name] = &onceCall[W]{name: name, args: args, runner: w}
		return toRun, onceAnswer{}
	case c.args != args:
		return isReused, onceAnswer{}
	case c.place != nil:
		return isKnown, c.answer
	}
	c.waiting = append(c.waiting, w)
	return toWait, onceAnswer{}
}

// waiting gives those who wait for the call of that name, the first first.
func (o *once[W]) waiting(name onceKey) []W {
	if c := o.calls[name]; c != nil {
		return c.waiting
	}
	return nil
}

// answered notes what w, which runs, was answered with, and gives those who waited for it.
func (o *once[W]) answered(now time.Time, name onceKey, w W, a onceAnswer) []W {
	c := o.calls[name]
	if c == nil || c.place != nil || c.runner != w {
		return nil
	}
	waiting := c.waiting
	c.answer, c.until, c.waiting = a, now.Add(onceWindow), nil
	size := c.size()
	for o.bytes+size > o.maxBytes && o.forgetLargest() { // before it is one of those: a repeat of the newest is what is to be expected
	}
	share := o.shares[name.subject]
	if share == nil {
		share = &onceShare{small: list.New(), large: list.New()}
		o.shares[name.subject] = share
	}
	c.place, c.own = o.oldest.PushBack(c), share.listOf(size).PushBack(c)
	share.bytes += size
	if o.bytes += size; o.bytes > o.maxBytes { // by itself
		o.forget(c)
	}
	return waiting
}

// end notes that w is over: it was not answered, or waits no longer. It gives who is to run in its
// place, if somebody is.
func (o *once[W]) end(name onceKey, w W) (next W, ok bool) {
	c := o.calls[name]
	if c == nil || c.place != nil {
		return next, false
	}
	if c.runner != w {
		if i := slices.Index(c.waiting, w); i >= 0 {
			c.waiting = slices.Delete(c.waiting, i, i+1)
		}
		return next, false
	}
	if len(c.waiting) == 0 {
		delete(o.calls, name)
		return next, false
	}
	c.runner, c.waiting = c.waiting[0], c.waiting[1:]
	return c.runner, true
}

// expire forgets the answers whose window has passed.
func (o *once[W]) expire(now time.Time) {
	for e := o.oldest.Front(); e != nil && !now.Before(e.Value.(*onceCall[W]).until); e = o.oldest.Front() {
		o.forget(e.Value.(*onceCall[W]))
	}
}

// forgetOldest forgets the oldest answer of the subject with most of them, and says whether there was one.
func (o *once[W]) forgetOldest() bool {
	return o.forgetOf(func(s *onceShare) int { return s.len() }, func(small, large *onceCall[W]) bool { return small.until.Before(large.until) })
}

// forgetLargest forgets one of the subject whose answers take most bytes: its oldest large one, else its oldest.
func (o *once[W]) forgetLargest() bool {
	return o.forgetOf(func(s *onceShare) int { return s.bytes }, func(_, _ *onceCall[W]) bool { return false })
}

// forgetOf forgets an answer of the subject that has most by a measure: of its oldest small one and its oldest large one
// the small one if small says so.
func (o *once[W]) forgetOf(measure func(*onceShare) int, small func(small, large *onceCall[W]) bool) bool {
	var most *onceShare
	for _, share := range o.shares {
		if most == nil || measure(share) > measure(most) {
			most = share
		}
	}
	if most == nil {
		return false
	}
	s, l := most.small.Front(), most.large.Front()
	if l == nil || s != nil && small(s.Value.(*onceCall[W]), l.Value.(*onceCall[W])) {
		l = s
	}
	o.forget(l.Value.(*onceCall[W]))
	return true
}

// listOf gives the list that an answer of that many bytes is in.
func (s *onceShare) listOf(size int) *list.List {
	if size > onceLarge {
		return s.large
	}
	return s.small
}

func (o *once[W]) forget(c *onceCall[W]) {
	share := o.shares[c.name.subject]
	o.oldest.Remove(c.place)
	share.listOf(c.size()).Remove(c.own)
	o.bytes -= c.size()
	share.bytes -= c.size()
	if share.len() == 0 {
		delete(o.shares, c.name.subject)
	}
	delete(o.calls, c.name)
}

// size is about what an answer takes in memory, in bytes.
func (c *onceCall[W]) size() int {
	const fixed = 512 // the call itself, its places in map and list
	n := fixed + len(c.name.subject) + len(c.name.fn) + len(c.name.key) + len(c.answer.header.Hint) + len(c.answer.payload)
	for key, value := range c.answer.header.Meta {
		n += len(key) + len(value)
	}
	return n
}
