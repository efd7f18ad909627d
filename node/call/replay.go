package call

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/celldnet/celld/cellproto"
)

// replayable is how much of a body that cannot be rewound is kept, in bytes. A callee that refuses a
// request grants no credit for its body, so that no more than a first window has been read of it by
// then, and a chunk that waits for credit: what never ran can always be sent again.
const replayable = cellproto.InitialWindow + cellproto.ChunkSize

// replay is a body that cannot be rewound, for several attempts, one after the other or beside each other. An attempt that
// is over may still wait for its source: what comes then is for the next one. While several live, only the oldest of them
// reads what cannot be kept: the others wait, so that none loses it what it has not sent yet.
type replay struct {
	src io.Reader // read by one at a time

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
	r    *replay
	over chan struct{} // closed by rewound and end
	at   int64         // r.mu guards it
	lost bool          // it has not got all of the body, and cannot; r.mu guards it
}

// repeatable makes a body fit for several attempts. What can seek is as it is.
func repeatable(body io.Reader) io.Reader {
	if body == nil {
		return nil
	}
	if s, ok := body.(io.Seeker); ok {
		if _, err := s.Seek(0, io.SeekCurrent); err == nil {
			return body
		}
	}
	return (&replay{src: body}).attempt()
}

// attempt begins one. r.mu is held, or nobody else has r.
func (r *replay) attempt() *attemptBody {
	b := &attemptBody{r: r, over: make(chan struct{})}
	r.live = append(r.live, b)
	return b
}

// rewound ends an attempt and gives the body of the next one; false when its beginning is lost. While somebody waits for
// the source that is not known: should too much come, the next attempt's Read says so.
func (b *attemptBody) rewound() (*attemptBody, bool) {
	b.end()
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	return b.r.attempt(), !b.r.lost
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
	for {
		n, changed, err := b.next(p)
		if changed == nil {
			return n, err
		}
		select {
		case <-changed:
		case <-b.over:
		}
	}
}

// next gives what comes next of the body, or, with a channel, nothing: it is to be asked again once that is closed.
func (b *attemptBody) next(p []byte) (n int, changed <-chan struct{}, err error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case b.ended():
		return 0, nil, errAttemptOver
	case r.lost && b.at < r.read:
		b.lost = true
		return 0, nil, errBodyLost
	case b.at < r.read:
		n := copy(p, r.kept[b.at:])
		b.at += int64(n)
		return n, nil, nil
	case r.err != nil:
		return 0, nil, r.err
	case !r.reading && r.live[0] == b:
		n, err = b.fetch(p)
		return n, nil, err
	case !r.reading && len(r.kept) < replayable && !r.lost:
		n, err = b.fetch(p[:min(len(p), replayable-len(r.kept))])
		return n, nil, err
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return 0, r.changed, nil
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
	b.at += int64(n)
	return n, err
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
func (r *replay) beside() *attemptBody {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shareable() {
		return nil
	}
	return r.attempt()
}

// canShare says whether beside would give one.
func (r *replay) canShare() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shareable()
}

// shareable says whether all that was read is kept, and it is not the body's sender who is silent, instead of the callee:
// while its next bytes are waited for, that cannot be told. r.mu is held.
func (r *replay) shareable() bool { return !r.reading && !r.lost && (r.err == nil || r.err == io.EOF) }

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

// notAgain says of a call that failed that it was not repeated, though it might have been, because
// of its body.
func notAgain(err error) error {
	hint := cellproto.HintOf(err)
	if hint == "" {
		hint = "Call again: more of the body's stream had been read than is kept."
	}
	return &cellproto.Error{
		Op: "call", Kind: cellproto.KindOf(err), RetryAfter: cellproto.RetryAfterOf(err), Hint: hint,
		Err: fmt.Errorf("%w; not tried again, since the body cannot be sent a second time", err),
	}
}
