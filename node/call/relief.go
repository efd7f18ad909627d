package call

import (
	"context"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// A mirror on this machine whose program hangs answers nothing, and is not found out by a race. What may be repeated is
// asked of the providers too when it is silent on it for long.

// mirrorPatience is how long a mirror may be silent on a pure function, but no longer than half of the call's time;
// on what is only idempotent it may be for that half.
const mirrorPatience = time.Second

// relief asks the providers of a cell what its mirror is silent on. Its request is its own.
type relief struct {
	c           *Caller
	r           *remote
	req         cellproto.Request
	cancelFirst context.CancelFunc // of the call to the mirror
	beside[relieved]
}

// relieved is what the providers have answered.
type relieved struct {
	res *Result
	err error
}

// relieveMirror calls a mirror, and the providers too if that is silent for long: the first answer counts. others is
// that there is nobody left to be asked.
func (c *Caller) relieveMirror(ctx context.Context, dir string, r *remote, req *cellproto.Request, p *policy) (res *Result, others bool, err error) {
	first, cancelFirst := context.WithCancel(ctx)
	h := &relief{c: c, r: r, req: *req, cancelFirst: cancelFirst}
	wait := untilHalf(ctx)
	if p.pure {
		wait = min(wait, mirrorPatience)
	}
	timer := time.AfterFunc(wait, func() { h.ask(ctx) })
	res, err = c.askMirrorTwice(first, dir, r, req, p)
	if timer.Stop() || h.ended(err == nil || p.mirrorIsFinal(ctx, r, req, err)) {
		return res.until(cancelFirst), false, err
	}
	res.until(cancelFirst).discard()
	out := <-h.outcome
	switch {
	case out.err == nil:
		c.leaveAlone(dir, cellproto.Errorf("call "+req.Header.Func, cellproto.Timeout, "it was silent, and a provider has answered"))
	case cellproto.KindOf(out.err) != cellproto.NotFound: // else why the mirror fails says more
		err = out.err
	}
	if out.err != nil {
		h.cancel()
		return nil, true, err
	}
	return out.res.until(h.cancel), true, nil
}

// ask asks the providers. ctx is that of the call.
func (h *relief) ask(ctx context.Context) {
	if !h.c.work.begin() {
		return
	}
	defer h.c.work.end()
	ctx, ok := h.begin(ctx)
	if !ok || !h.asks() {
		return
	}
	h.req.Header.Token = nil
	if body := sharedBody(&h.req); body != nil {
		h.req.Body = body.beside(nil) // never nil: see anywhere
		defer end(&h.req)
	}
	res, err := h.c.callRemote(ctx, h.r, &h.req)
	switch {
	case err != nil:
	case h.settled.CompareAndSwap(false, true):
		h.cancelFirst()
	default: // the mirror has answered meanwhile
		res.discard()
	}
	h.outcome <- relieved{res, err}
}

// until has then called when the call is over: now, or when the reply's body was closed.
func (res *Result) until(then func()) *Result {
	if res == nil || res.Reply.Body == nil {
		then()
		return res
	}
	res.Reply.Body = &closer{ReadCloser: res.Reply.Body, then: then}
	return res
}

// discard drops a reply that nobody wants any more.
func (res *Result) discard() {
	if res != nil && res.Reply.Body != nil {
		res.Reply.Body.Close()
	}
}
