package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// replayable is how much of a body that cannot be rewound is kept, in bytes. A callee that refuses a
// request grants no credit for its body, so that no more than a first window has been read of it by
// then, and a chunk that waits for credit: what never ran can always be sent again.
const replayable = cellproto.InitialWindow + cellproto.ChunkSize

// stuckTime is how long an attempt reads nothing of a body before it is not counted on any more: a callee that reads slowly
// grants credit once a second. Of a call that is younger than twice that it is half of its age.
const stuckTime = 2 * time.Second

// replay is a body for several attempts, one after the other or beside each other. One that can be read anywhere, as a file,
// each attempt reads for itself. Of any other an attempt that is over may still wait for its source: what comes then is for the
// next one. While several live, only one of them reads what cannot be kept, the oldest that is not stuck: the others wait, so
// that none loses it what it has not sent yet.
type replay struct {
	src   io.Reader   // read by one at a time
	file  io.ReaderAt // instead of src; nothing is kept then, or lost
	start int64       // where the body begins in file,
	size  int64       // and how long it is
	begun time.Time

	mu      sync.Mutex
	reading bool           // somebody waits for src
	live    []*attemptBody // that are not over, the oldest first
	changed chan struct{}  // closed when any of this has changed; nil: nobody waits for that
	kept    []byte         // the beginning, as long as it is all that was read
	read    int64          // bytes, by all attempts
	lost    bool           // kept is not all of them
	err     error          // of src
}

// attemptBody is what one attempt reads. The goroutine that makes the attempt alone calls rewound and end.
type attemptBody struct {
	r     *replay
	over  chan struct{} // closed by rewound and end
	begun time.Time

	// r.mu guards these.
	at      int64
	last    time.Time          // when it has read something, or was begun
	whole   bool               // it has read all
	yielded bool               // others may read what cannot be kept before it
	lost    bool               // it has not got all of the body, and cannot
	useless context.CancelFunc // called when it is lost; or nil
}

// repeatable makes a body fit for several attempts. What can seek, but not be read anywhere, is as it is.
func repeatable(body io.Reader) io.Reader {
	if body == nil {
		return nil
	}
	r := &replay{src: body, begun: time.Now()}
	if s, ok := body.(io.Seeker); ok {
		if at, err := s.Seek(0, io.SeekCurrent); err == nil {
			end, err := s.Seek(0, io.SeekEnd)
			if _, back := s.Seek(at, io.SeekStart); back == nil && err == nil {
				r.file, _ = body.(io.ReaderAt)
			}
			if r.file == nil {
				return body
			}
			r.start, r.size = at, end-at
		}
	}
	return r.attempt(nil)
}

// attempt begins one. r.mu is held, or nobody else has r.
func (r *replay) attempt(useless context.CancelFunc) *attemptBody {
	now := time.Now()
	b := &attemptBody{r: r, over: make(chan struct{}), begun: now, last: now, useless: useless}
	r.live = append(r.live, b)
	return b
}

// rewound ends an attempt and gives the body of the next one; false when its beginning is lost. While somebody waits for
// the source that is not known: should too much come, the next attempt's Read says so.
func (b *attemptBody) rewound() (*attemptBody, bool) {
	b.end()
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	return b.r.attempt(nil), !b.r.lost
}

// end has nobody read an attempt's body any more. It may be called again.
func (b *attemptBody) end() {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.ended() {
		return
	}
	close(b.over)
	r.live = slices.DeleteFunc(r.live, func(other *attemptBody) bool { return other == b })
	r.signal()
}

func (b *attemptBody) ended() bool {
	select {
	case <-b.over:
		return true
	default:
		return false
	}
}

func (b *attemptBody) Read(p []byte) (int, error) {
	if b.r.file != nil {
		return b.readFile(p)
	}
	for {
		n, wait, err := b.next(p)
		if wait.changed == nil {
			return n, err
		}
		var stuck <-chan time.Time
		if wait.stuck > 0 {
			timer := time.NewTimer(wait.stuck)
			defer timer.Stop()
			stuck = timer.C
		}
		select {
		case <-wait.changed:
		case <-stuck:
		case <-b.over:
		}
	}
}

// readFile reads on for itself.
func (b *attemptBody) readFile(p []byte) (int, error) {
	b.r.mu.Lock()
	at, over := b.at, b.ended()
	b.r.mu.Unlock()
	if over {
		return 0, errAttemptOver
	}
	n, err := b.r.file.ReadAt(p, b.r.start+at)
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	b.advance(n, err)
	return n, err
}

// advance notes what the attempt has read. r.mu is held.
func (b *attemptBody) advance(n int, err error) {
	b.at += int64(n)
	b.last = time.Now()
	b.whole = b.whole || err == io.EOF
}

// bodyWait is what an attempt that can read nothing now waits for: changed, or stuck if that is not 0.
type bodyWait struct {
	changed <-chan struct{}
	stuck   time.Duration
}

// next gives what comes next of the body, or nothing, and what is to be waited for before it is asked again.
func (b *attemptBody) next(p []byte) (n int, wait bodyWait, err error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.ended() {
		return 0, bodyWait{}, errAttemptOver
	}
	first := r.reader()
	if first != b && !r.reading && !r.lost && b.at == r.read {
		if wait.stuck = first.stuckIn(time.Now()); wait.stuck <= 0 {
			first.yielded = true
			first = r.reader()
		}
	}
	switch {
	case r.lost && b.at < r.read:
		b.lost = true
		return 0, bodyWait{}, errBodyLost
	case b.at < r.read:
		n := copy(p, r.kept[b.at:])
		b.advance(n, nil)
		return n, bodyWait{}, nil
	case r.err != nil:
		b.advance(0, r.err)
		return 0, bodyWait{}, r.err
	case !r.reading && first == b:
		n, err = b.fetch(p)
		return n, bodyWait{}, err
	case !r.reading && len(r.kept) < replayable && !r.lost:
		n, err = b.fetch(p[:min(len(p), replayable-len(r.kept))])
		return n, bodyWait{}, err
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	wait.changed = r.changed
	return 0, wait, nil
}

// reader gives the attempt that reads what cannot be kept. r.mu is held, and some attempt lives.
func (r *replay) reader() *attemptBody {
	for _, b := range r.live {
		if !b.yielded {
			return b
		}
	}
	return r.live[0]
}

// stuckIn is how long it takes until the attempt is stuck, if it reads nothing until then; at most 0: it is. r.mu is held.
func (b *attemptBody) stuckIn(now time.Time) time.Duration {
	return min(stuckTime, now.Sub(b.r.begun)/2) - now.Sub(b.last)
}

// busy says that an attempt gets on with sending a file, and will have sent all of it by the deadline of its call at the pace
// that it has.
func (r *replay) busy(deadline time.Time) bool {
	if r.file == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	return slices.ContainsFunc(r.live, func(b *attemptBody) bool {
		if b.whole || b.yielded || b.stuckIn(now) <= 0 || b.at == 0 {
			return false
		}
		took := now.Sub(b.begun)
		return b.begun.Add(time.Duration(float64(took) * float64(r.size) / float64(b.at))).Before(deadline)
	})
}

// yield has others read what cannot be kept before it.
func (b *attemptBody) yield() {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	b.yielded = true
	b.r.signal()
}

// whenLost has a function called when an attempt can not get all of the body any more.
func (b *attemptBody) whenLost(useless context.CancelFunc) {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	b.useless = useless
}

// fetch reads from the source. r.mu is held, but not while it waits.
func (b *attemptBody) fetch(p []byte) (int, error) {
	r := b.r
	r.reading = true
	r.mu.Unlock()
	n, err := r.src.Read(p)
	r.mu.Lock()
	r.reading, r.err = false, err
	r.keep(p[:n])
	r.signal()
	if b.ended() {
		return 0, errAttemptOver
	}
	b.advance(n, err)
	if r.lost {
		r.forsake()
	}
	return n, err
}

// forsake ends the attempts that cannot get all of the body any more. r.mu is held.
func (r *replay) forsake() {
	for _, b := range r.live {
		if b.at < r.read && !b.lost {
			if b.lost = true; b.useless != nil {
				b.useless()
			}
		}
	}
}

// keep notes what was read, as long as that is little. r.mu is held.
func (r *replay) keep(p []byte) {
	r.read += int64(len(p))
	if r.lost = r.lost || len(r.kept)+len(p) > replayable; r.lost {
		r.kept = nil
		return
	}
	r.kept = append(r.kept, p...)
}

// signal wakes those who wait. r.mu is held.
func (r *replay) signal() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

var (
	errAttemptOver = cellproto.Errorf("send body", cellproto.Canceled, "the attempt is over")
	errBodyLost    = cellproto.Errorf("send body", cellproto.Failed, "the body's beginning was read by an attempt that failed")
)

// beside gives the body of an attempt that is made while another one waits for its answer; nil where there is none for it,
// see shareable.
func (r *replay) beside(useless context.CancelFunc) *attemptBody {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shareable() {
		return nil
	}
	return r.attempt(useless)
}

// canShare says whether beside would give one.
func (r *replay) canShare() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shareable()
}

// shareable says whether all that was read is kept, and it is not the body's sender who is silent, instead of the callee:
// while its next bytes are waited for, that cannot be told. r.mu is held.
func (r *replay) shareable() bool {
	return r.file != nil || !r.reading && !r.lost && (r.err == nil || r.err == io.EOF)
}

// end has nobody read a request's body any more, if that is kept.
func end(req *cellproto.Request) {
	if body, ok := req.Body.(*attemptBody); ok {
		body.end()
	}
}

// lostBody says that an attempt was sent less than all of its body. Whatever it was answered is none.
func lostBody(req *cellproto.Request) bool {
	body, ok := req.Body.(*attemptBody)
	if !ok {
		return false
	}
	body.r.mu.Lock()
	defer body.r.mu.Unlock()
	return body.lost
}

// anywhere says that a request's body, if it has one, can be read by several at once, whatever each of them reads.
func anywhere(req *cellproto.Request) bool {
	if req.Body == nil {
		return true
	}
	r := sharedBody(req)
	return r != nil && r.file != nil
}

// sharedBody gives what several attempts at once can read the body of a request from; nil if they cannot.
func sharedBody(req *cellproto.Request) *replay {
	if body, ok := req.Body.(*attemptBody); ok {
		return body.r
	}
	return nil
}

// rewind makes a request's body ready to be sent again. Without a body there is nothing to do.
func rewind(req *cellproto.Request) bool {
	switch body := req.Body.(type) {
	case nil:
		return true
	case *attemptBody:
		next, ok := body.rewound()
		req.Body = next
		return ok
	case io.Seeker:
		_, err := body.Seek(0, io.SeekStart)
		return err == nil
	}
	return false
}

// mayAgain says that an error is notAgain's. What callees say of that is none of it: see link.call.
func mayAgain(err error) bool {
	var e *cellproto.Error
	return errors.As(err, &e) && e.Again
}

// notAgain says of a call that failed that it was not repeated, though it might have been, because
// of its body.
func notAgain(err error) error {
	hint := cellproto.HintOf(err)
	if hint == "" {
		hint = "Call again: more of the body's stream had been read than is kept."
	}
	return &cellproto.Error{
		Op: "call", Kind: cellproto.KindOf(err), RetryAfter: cellproto.RetryAfterOf(err), Hint: hint, Again: true,
		Err: fmt.Errorf("%w; not tried again, since the body cannot be sent a second time", err),
	}
}
