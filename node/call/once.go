package call

import (
	"container/list"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Limits on what is remembered of calls with a key. Past them the oldest answer is forgotten of the
// caller of whom most is remembered: so nobody can have the answers of others forgotten by calls of its own.
const (
	onceWindow  = 10 * time.Minute // after the answer; far more than a caller's retries take
	onceEntries = 4096
	onceBytes   = 16 << 20 // keys and answers
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
	oldest *list.List // of *onceCall, as above
	bytes  int
}

// onceKey names what a caller means to have done once.
type onceKey struct{ subject, fn, key string }

// onceCall is one such call: it runs, or it is answered.
type onceCall[W comparable] struct {
	name    onceKey
	args    [32]byte
	runner  W             // who runs it
	waiting []W           // who want the same, the first first
	place   *list.Element // in once.oldest; nil: it runs
	own     *list.Element // in its subject's
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
	case c == nil && len(o.calls) >= o.maxCalls && !o.forgetOne():
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
	share := o.shares[name.subject]
	if share == nil {
		share = &onceShare{oldest: list.New()}
		o.shares[name.subject] = share
	}
	c.place, c.own = o.oldest.PushBack(c), share.oldest.PushBack(c)
	share.bytes += c.size()
	for o.bytes += c.size(); o.bytes > o.maxBytes && o.forgetOne(); {
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

// forgetOne forgets the oldest answer of the subject with the most bytes, and says whether there was one.
func (o *once[W]) forgetOne() bool {
	var most *onceShare
	for _, share := range o.shares {
		if most == nil || share.bytes > most.bytes {
			most = share
		}
	}
	if most == nil {
		return false
	}
	o.forget(most.oldest.Front().Value.(*onceCall[W]))
	return true
}

func (o *once[W]) forget(c *onceCall[W]) {
	share := o.shares[c.name.subject]
	o.oldest.Remove(c.place)
	share.oldest.Remove(c.own)
	o.bytes -= c.size()
	share.bytes -= c.size()
	if share.oldest.Len() == 0 {
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
