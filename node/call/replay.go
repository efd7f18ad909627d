package call

import (
	"fmt"
	"io"

	"github.com/celldnet/celld/cellproto"
)

// replayable is how much of a body that cannot be rewound is kept, in bytes. A callee that refuses a
// request grants no credit for its body, so that no more than a first window has been read of it by
// then, and a chunk that waits for credit: what never ran can always be sent again.
const replayable = cellproto.InitialWindow + cellproto.ChunkSize

// replay is a body that cannot be rewound, for several attempts, one after the other or beside each other. An attempt that
// is over may still wait for its source: what comes then is for the next one. It belongs to one call; of an attempt's body
// the goroutine that makes the attempt alone calls rewind and end.
type replay struct {
	src  io.Reader
	turn chan struct{} // capacity 1: taken by whoever reads; guards the rest
	kept []byte        // the beginning, as long as it is all that was read
	read int64         // bytes, by all attempts
	lost bool          // kept is not all of them
	err  error         // of src
}

// attemptBody is what one attempt reads.
type attemptBody struct {
	r    *replay
	at   int64
	over chan struct{} // closed by rewind and end
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
	return (&replay{src: body, turn: make(chan struct{}, 1)}).attempt()
}

func (r *replay) attempt() *attemptBody { return &attemptBody{r: r, over: make(chan struct{})} }

// rewound ends an attempt and gives the body of the next one; false when its beginning is lost.
func (b *attemptBody) rewound() (*attemptBody, bool) {
	close(b.over)
	select {
	case b.r.turn <- struct{}{}:
		defer func() { <-b.r.turn }()
		return b.r.attempt(), !b.r.lost
	default:
		// Somebody waits for the source. Should too much come, the next attempt's Read says so.
		return b.r.attempt(), true
	}
}

func (b *attemptBody) Read(p []byte) (int, error) {
	if b.ended() {
		return 0, errAttemptOver
	}
	select {
	case b.r.turn <- struct{}{}:
		defer func() { <-b.r.turn }()
	case <-b.over:
		return 0, errAttemptOver
	}
	r := b.r
	switch {
	case b.ended():
		return 0, errAttemptOver
	case r.lost && b.at < r.read:
		return 0, errBodyLost
	case b.at < r.read:
		n := copy(p, r.kept[b.at:])
		b.at += int64(n)
		return n, nil
	case r.err != nil:
		return 0, r.err
	}
	n, err := r.src.Read(p)
	r.err = err
	r.keep(p[:n])
	if b.ended() {
		return 0, errAttemptOver
	}
	b.at += int64(n)
	return n, err
}

func (b *attemptBody) ended() bool {
	select {
	case <-b.over:
		return true
	default:
		return false
	}
}

// keep notes what was read, as long as that is little. r.turn is taken.
func (r *replay) keep(p []byte) {
	r.read += int64(len(p))
	if r.lost = r.lost || len(r.kept)+len(p) > replayable; r.lost {
		r.kept = nil
		return
	}
	r.kept = append(r.kept, p...)
}

var (
	errAttemptOver = cellproto.Errorf("send body", cellproto.Canceled, "the attempt is over")
	errBodyLost    = cellproto.Errorf("send body", cellproto.Failed, "the body's beginning was read by an attempt that failed")
)

// beside gives the body of an attempt that is made while another one waits for its answer. False: it would not have all of
// the body, or its sender has not said all of it yet, so that the silence is not the callee's.
func (r *replay) beside() (*attemptBody, bool) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
		return r.attempt(), !r.lost && (r.err == nil || r.err == io.EOF)
	default: // somebody waits for the source
		return nil, false
	}
}

// end has nobody read a request's body any more, if that is kept.
func end(req *cellproto.Request) {
	if body, ok := req.Body.(*attemptBody); ok {
		close(body.over)
	}
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
