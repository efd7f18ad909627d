package cell

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// KeyFrom gives the call's idempotency key, "" when the caller gave none: at most 64 bytes, unique
// to what this caller (CallerFrom) means to have done once. The nucleus answers most repeats itself: it
// remembers short replies of Idempotent functions for ten minutes, as long as it runs. A function
// whose effect must not come twice even so keeps the key with its state. Of callers whose connections
// were handed to the program (Open) the nucleus sees and remembers nothing. It makes a key itself for a
// call of an idempotent function that has none.
func KeyFrom(ctx context.Context) string {
	if c := callFrom(ctx); c != nil {
		return c.given.key
	}
	return ""
}

// CallerFrom gives the peer that calls, as the nucleus has proven it; "" when it is the owner on
// this machine, or when the cell asks for no proof.
func CallerFrom(ctx context.Context) cellproto.PeerID {
	return cellproto.PeerID(MetaFrom(ctx, metaPeer))
}

// MetaFrom gives a value of the call's meta, "" when there is none.
func MetaFrom(ctx context.Context, key string) string {
	if c := callFrom(ctx); c != nil {
		return c.meta[key]
	}
	return ""
}

// metaPeer is the key under which the nucleus names the caller.
const metaPeer = "peer"

// Yield says that the function is about to wait on something else than its context or another cell:
// the connection goes on being read meanwhile. Where the function does not run inline, or has
// yielded, it does nothing. It costs more than a goroutine of its own would have, a fresh read buffer of
// 64 KiB among it: a function that always waits is better declared Slow.
func Yield(ctx context.Context) {
	if c := callFrom(ctx); c != nil {
		c.detach()
	}
}

type callKey struct{}

func callFrom(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// call is one call of the peer, and its context. It begins either inline or detached, with an
// Inbound; when an inline one is about to wait, it is detached. It is never used for a second call,
// so that a function may keep its context.
type call struct {
	s        *server
	conn     *cellproto.Conn
	by       *counted // that counts the call; nil: the nucleus does
	given    *given   // never nil
	meta     map[string]string
	deadline time.Duration // after server.born; 0: none
	timed    time.Duration // when it began, after server.born, if it is timed

	mu    sync.Mutex
	frame *cellproto.Frame   // while it runs inline
	in    *cellproto.Inbound // once it is detached
	over  bool
}

// given is what few callers say, apart so that the calls of all others take less memory.
type given struct {
	key   string
	trace string
}

var nothing given

// farAway is a budget so long that no caller can tell it from a longer one, and no sum with it too large.
const farAway = 100 * 365 * 24 * time.Hour

var _ context.Context = (*call)(nil)

// callSlab is how many calls are allocated at once: one allocation less a call, and none is used twice.
const callSlab = 32

// begin fills in an unused call for f. Only the reading goroutine calls it.
func (s *server) begin(conn *cellproto.Conn, f *cellproto.Frame) *call {
	s.slabMu.Lock()
	if len(s.slab) == 0 {
		s.slab = make([]call, callSlab)
	}
	c := &s.slab[0]
	s.slab = s.slab[1:]
	s.slabMu.Unlock()
	c.s, c.conn, c.frame, c.given = s, conn, f, &nothing
	if h := &f.Header; len(h.Key) > 0 || len(h.Trace) > 0 {
		c.given = &given{key: string(h.Key), trace: string(h.Trace)}
	}
	c.meta = f.Header.Meta
	if f.Header.Budget > 0 {
		c.deadline = time.Since(s.born) + min(f.Header.Budget, farAway)
	}
	return c
}

// detach takes an inline call off the reading goroutine, which is another one from then on. It may be
// called from any goroutine: while it holds the lock, the call cannot end, and so the goroutine
// that runs it does not touch the connection.
func (c *call) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frame == nil {
		return
	}
	c.accept()
	c.conn.Yield()
}

// accept registers the call as one that is answered later. c.mu is held, or nobody else has c.
func (c *call) accept() {
	f := *c.frame
	if c.deadline != 0 {
		f.Header.Budget = max(c.deadline-time.Since(c.s.born), 1)
	}
	c.in, c.frame = c.conn.Inbound(c.s.base, &f), nil
}

// acceptInline registers an inline call whose reply is a body, and leaves it on the reading
// goroutine; false when it has left that already.
func (c *call) acceptInline() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frame == nil {
		return false
	}
	c.accept()
	return true
}

// end closes the call to detach, and gives its Inbound, or nil if it ran inline to its end.
func (c *call) end() *cellproto.Inbound {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.frame = true, nil
	return c.in
}

// Deadline is the caller's.
func (c *call) Deadline() (time.Time, bool) {
	if c.deadline != 0 {
		return c.s.born.Add(c.deadline), true
	}
	return c.s.base.Deadline()
}

// Done detaches the call: who asks for it is about to wait for it.
func (c *call) Done() <-chan struct{} {
	c.detach()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil {
		return closed // an inline call that is over
	}
	return c.in.Context().Done()
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Err tells as much as an inline call can know: nobody reads the caller's cancel.
func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.in != nil:
		return c.in.Context().Err()
	case c.over:
		return context.Canceled
	case c.deadline != 0 && time.Since(c.s.born) >= c.deadline:
		return context.DeadlineExceeded
	}
	return c.s.base.Err()
}

// Value gives the call itself to the functions of this package.
func (c *call) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	c.mu.Lock()
	in := c.in
	c.mu.Unlock()
	if in != nil {
		return in.Context().Value(key)
	}
	return c.s.base.Value(key)
}

// replyError is the error as the caller gets it. It keeps the kind of a *cellproto.Error. But what
// another cell answered to this function says nothing about whether this function ran: a caller must
// not be told that it never did, unless doing it again is harmless.
func replyError(ctx context.Context, f *Function, err error) error {
	var known *cellproto.Error
	var remote *remoteError
	switch {
	case errors.As(err, &remote) && (remote.err.Kind.NeverRan() || remote.err.Kind == cellproto.BadReply):
		again := f.flags.Pure || f.flags.Idempotent
		if again && (remote.err.Kind == cellproto.Unavailable || remote.err.Kind == cellproto.Overloaded) {
			return err
		}
		known = cellproto.Errorf("", cellproto.FuncError, "%w", err)
		known.Hint = cellproto.HintOf(err)
		return known
	case errors.As(err, &known) && known.Kind != 0:
		return err
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return cellproto.Errorf("call "+f.name, cellproto.KindOf(ctx.Err()), "%w", err)
	}
	return cellproto.Errorf("", cellproto.FuncError, "%w", err)
}
