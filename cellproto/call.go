package cellproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Request is one call as its caller sees it.
type Request struct {
	Header  Header    // Func must be set; Budget is set from the context's deadline
	Payload []byte    // arguments, at most MaxArgs bytes, in Header.Codec
	Body    io.Reader // streamed after the arguments, or nil. A Read that blocks for ever leaks a goroutine
}

// Reply is the answer to a call. The caller owns Payload.
type Reply struct {
	Header  Header
	Payload []byte        // in Header.Codec
	Body    io.ReadCloser // of a large or streamed reply, else nil; must be closed
}

// Bytes gives the whole reply, payload and body, and closes the body. Past limit bytes it fails
// with TooLarge.
func (r *Reply) Bytes(limit int64) ([]byte, error) {
	if r.Body == nil {
		if int64(len(r.Payload)) > limit {
			return nil, Errorf("read reply", TooLarge, "reply of %d bytes, the limit is %d", len(r.Payload), limit)
		}
		return r.Payload, nil
	}
	defer r.Body.Close()
	rest, err := io.ReadAll(io.LimitReader(r.Body, limit-int64(len(r.Payload))+1))
	if err != nil {
		return nil, err
	}
	if int64(len(rest)+len(r.Payload)) > limit {
		return nil, Errorf("read reply", TooLarge, "reply of more than %d bytes", limit)
	}
	return append(r.Payload, rest...), nil
}

// Call sends req and waits for the reply. The context's deadline travels along; when it ends first,
// the callee is told. An error that the peer answered with keeps its kind; a lost connection is
// Unavailable when the request provably never left and MayHaveRun else. After an error nobody reads
// a Body that can be rewound any more, so that it can be sent again.
func (c *Conn) Call(ctx context.Context, req *Request) (*Reply, error) {
	reply := new(Reply)
	if err := c.CallInto(ctx, req, reply); err != nil {
		return nil, err
	}
	return reply, nil
}

// CallInto is Call into a reply that the caller has: it appends to its Payload, and replaces the rest. Where
// there is room enough, and no body, it allocates nothing. After an error reply is as it was.
func (c *Conn) CallInto(ctx context.Context, req *Request, reply *Reply) error {
	f := Frame{Header: req.Header, Payload: req.Payload, More: req.Body != nil}
	if deadline, ok := ctx.Deadline(); ok {
		f.Header.Budget = time.Until(deadline)
		if f.Header.Budget <= 0 {
			return Errorf("call "+req.Header.Func, Timeout, "the deadline passed before the call began")
		}
	}
	p, ok := c.pendings.Get().(*pending)
	if !ok {
		p = &pending{answered: make(chan struct{}, 1)}
	}
	p.ctx = ctx
	if req.Body != nil {
		p.out = newBodyOut(c)
	}
	w := c.waitOf(ctx)
	alone, err := c.open(&f, p, w.due)
	if err != nil {
		return err
	}
	id := f.ID
	c.flushTogether(alone != 0)
	if p.out != nil {
		c.needTurn()
		p.pump(id, req.Body)
	} else if r := c.takeTurn(alone, f.Header.Budget); r != nil {
		c.readTurn(r, p, alone)
	}
	switch err = p.await(w.done); err {
	case nil:
		c.wasAlone(alone)
		p.hand(c, reply)
		return nil
	case errCallerLeft:
		c.Cancel(id)
		err = Errorf("call "+req.Header.Func, KindOf(ctx.Err()), "%w", ctx.Err())
	case context.DeadlineExceeded: // of expire
		c.Cancel(id)
		err = Errorf("call "+req.Header.Func, Timeout, "%w", err)
	default:
		c.wasAlone(alone)
	}
	p.giveUp()
	return err
}

// pending is the sink of a call begun here.
type pending struct {
	ctx      context.Context
	out      *bodyOut
	pumped   chan struct{} // closed when a body that can be rewound is not read any more; else nil
	answered chan struct{} // capacity 1: gets a value when settled

	mu      sync.Mutex // HandleClose may come during HandleFrame
	settled bool       // reply or err is set, for good
	reply   Reply
	err     error
	in      *bodyIn
}

// mostRoom is how much room for a reply waits for the next one, in bytes.
const mostRoom = 4 << 10

var errCallerLeft = errors.New("the caller's context has ended")

// await waits for the answer and gives its error, or errCallerLeft.
func (p *pending) await(done <-chan struct{}) error {
	if done == nil {
		<-p.answered
	} else {
		select {
		case <-p.answered:
		case <-done:
			return errCallerLeft
		}
	}
	if p.err == nil && p.reply.Header.Kind != 0 {
		return replyError(&p.reply)
	}
	return p.err
}

// hand gives the caller its reply. Without bodies p is nobody's then: the connection has let it go before
// it was settled.
func (p *pending) hand(c *Conn, reply *Reply) {
	reply.Header, reply.Body = p.reply.Header, p.reply.Body
	reply.Payload = append(reply.Payload, p.reply.Payload...)
	if p.reply.Body != nil || p.out != nil {
		return
	}
	room := p.reply.Payload
	if cap(room) > mostRoom {
		room = nil
	}
	p.ctx, p.settled, p.reply = nil, false, Reply{Payload: room[:0]}
	c.pendings.Put(p)
}

// pump starts the goroutine that sends the body. It ends with the call, or with the connection.
func (p *pending) pump(id uint32, body io.Reader) {
	if s, ok := body.(io.Seeker); ok {
		if _, err := s.Seek(0, io.SeekCurrent); err == nil {
			p.pumped = make(chan struct{})
		}
	}
	go func() {
		_ = p.out.pump(id, body) // the callee is told
		if p.pumped != nil {
			close(p.pumped)
		}
	}()
}

// giveUp ends the body of a call that has failed.
func (p *pending) giveUp() {
	p.stopOut()
	if p.pumped != nil {
		<-p.pumped
	}
}

func (p *pending) stopOut() {
	if p.out != nil {
		p.out.stop(errUnwanted)
	}
}

func (p *pending) isSettled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settled
}

// settle ends the wait for the reply. p.mu is held.
func (p *pending) settle(err error) {
	if !p.settled {
		p.settled, p.err = true, err
		p.answered <- struct{}{}
	}
}

// broken ends the call because the callee breaks the rules. Whether it ran is not known. p.mu is held.
func (p *pending) broken(c *Conn, id uint32, format string, args ...any) {
	err := Errorf("call", Failed, format, args...)
	p.stopOut()
	p.settle(err)
	if p.in != nil {
		p.in.end(err)
	}
	c.Cancel(id)
}

func (p *pending) HandleFrame(c *Conn, f *Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch f.Type {
	case TypeReply:
		if p.settled {
			p.broken(c, f.ID, "the callee replied twice")
			return
		}
		p.reply.Header = f.Header.clone()
		p.reply.Payload = append(p.reply.Payload[:0], f.Payload...)
		if f.More {
			id := f.ID
			p.in = newBodyIn(p.ctx, c, id)
			p.in.abandon = func() { p.stopOut(); c.Cancel(id) }
			p.reply.Body = p.in
		} else {
			p.stopOut()
		}
		p.settle(nil)
	case TypeChunk, TypeEnd:
		switch {
		case p.in == nil:
			p.broken(c, f.ID, "the callee sent a body that it had not announced")
		case f.Type == TypeEnd:
			p.stopOut()
			p.in.end(endError(f))
		case !p.in.push(f.Payload):
			p.broken(c, f.ID, "the callee ignores the window")
		}
	case TypeCredit:
		if p.out != nil {
			p.out.credit(f)
		}
	}
}

func (p *pending) HandleClose(_ *Conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopOut()
	if p.in != nil {
		p.in.end(err)
	}
	p.settle(err)
}

// Ping measures the round trip to the peer's reading goroutine.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	p := &pinger{answered: make(chan error, 1)}
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return 0, Errorf("ping", Unavailable, "connection lost")
	}
	f := Frame{Type: TypePing, ID: c.newID()}
	c.calls.add(f.ID, entry{sink: p, ping: true})
	c.mu.Unlock()
	defer c.forget(f.ID)
	begin := time.Now()
	if err := c.Send(&f); err != nil {
		return 0, err
	}
	c.needTurn()
	select {
	case err := <-p.answered:
		return time.Since(begin), err
	case <-ctx.Done():
		return 0, Errorf("ping", KindOf(ctx.Err()), "%w", ctx.Err())
	}
}

// forget removes a ping, if it was not answered.
func (c *Conn) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.calls.find(id); e != nil && e.ping {
		c.calls.remove(id)
		c.signalIdle()
	}
}

// pinger is told once: a pong ends its entry.
type pinger struct{ answered chan error }

func (p *pinger) HandleFrame(*Conn, *Frame)      { p.answered <- nil }
func (p *pinger) HandleClose(_ *Conn, err error) { p.answered <- err }

// ErrorReply makes the frame that ends the peer's call id with err.
func ErrorReply(id uint32, err error) *Frame {
	return &Frame{
		Type: TypeReply, ID: id,
		Header:  Header{Kind: KindOf(err), RetryAfter: RetryAfterOf(err), Hint: cutText(HintOf(err), maxHint)},
		Payload: []byte(cutText(err.Error(), MaxErrorText)),
	}
}

func cutText(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
			s = s[:len(s)-1]
			if limit-len(s) >= utf8.UTFMax {
				break
			}
		}
	}
	return strings.ToValidUTF8(s, "?")
}

// cleanText makes a peer's text fit for a terminal and a log: UTF-8 without what Unprintable names.
func cleanText(b []byte) string {
	return strings.Map(func(r rune) rune {
		if Unprintable(r) {
			return '?'
		}
		return r
	}, cutText(string(b), MaxErrorText))
}

func replyError(r *Reply) error {
	return &Error{
		Kind: r.Header.Kind, Err: errors.New(cleanText(r.Payload)),
		Hint: cleanText([]byte(r.Header.Hint)), RetryAfter: r.Header.RetryAfter, Again: r.Header.Meta[MetaAgain] != "",
	}
}

func endError(f *Frame) error {
	if f.Header.Kind == 0 {
		return nil
	}
	return &Error{
		Op: "read body", Kind: f.Header.Kind, Err: errors.New(cleanText(f.Payload)), Hint: cleanText([]byte(f.Header.Hint)),
	}
}

// clone gives a header that does not alias the connection's buffer.
func (h *Header) clone() Header {
	c := *h
	c.Token, c.Trace, c.Key = bytes.Clone(h.Token), bytes.Clone(h.Trace), bytes.Clone(h.Key)
	return c
}

// Inbound is a call of the peer that is answered later. Exactly one of Reply, ReplyBody and
// ReplyError ends it; what comes after is dropped.
type Inbound struct {
	Header  Header
	Payload []byte
	c       *Conn
	id      uint32
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stop    context.CancelFunc // of the deadline's timer
	in      *bodyIn
	out     *bodyOut
	once    sync.Once

	together bool // see Together
}

// Inbound makes f, just accepted, a call that is answered later, on any goroutine. Its context
// ends at the caller's deadline, when the caller gives up, with the connection, or with parent.
// Only Config.Accept may call it.
func (c *Conn) Inbound(parent context.Context, f *Frame) *Inbound {
	in := &Inbound{c: c, id: f.ID, Header: f.Header.clone(), Payload: bytes.Clone(f.Payload), out: newBodyOut(c)}
	in.ctx, in.cancel = context.WithCancelCause(parent)
	if f.Header.Budget > 0 {
		in.ctx, in.stop = context.WithTimeout(in.ctx, f.Header.Budget)
	}
	if f.More {
		in.in = newBodyIn(in.ctx, c, f.ID)
	}
	c.Register(f.ID, in)
	return in
}

// Context is the call's; see Conn.Inbound.
func (in *Inbound) Context() context.Context { return in.ctx }

// Body is what the caller streams after the arguments; empty when it streams nothing.
func (in *Inbound) Body() io.Reader {
	if in.in == nil {
		return bytes.NewReader(nil)
	}
	return in.in
}

// Reply ends the call with a result. Past ChunkSize it travels as a body, and Reply returns when
// all of it has been taken.
func (in *Inbound) Reply(h Header, payload []byte) error {
	if len(payload) > ChunkSize {
		return in.ReplyBody(h, bytes.NewReader(payload))
	}
	return in.finish(func() error { return in.send(&Frame{Type: TypeReply, ID: in.id, Header: h, Payload: payload}) })
}

// ReplyError ends the call with an error.
func (in *Inbound) ReplyError(err error) error { return in.ReplyErrorMeta(err, nil) }

// ReplyErrorMeta is ReplyError with a meta.
func (in *Inbound) ReplyErrorMeta(err error, meta map[string]string) error {
	f := ErrorReply(in.id, err)
	f.Header.Meta = meta
	return in.finish(func() error { return in.send(f) })
}

// Together has a reply in one frame leave with those that other goroutines are about to give: for who answers on
// many that wait for something, and compute little. It is to be called before Reply.
func (in *Inbound) Together() { in.together = true }

func (in *Inbound) send(reply *Frame) error {
	if !in.together {
		return in.c.Send(reply)
	}
	if err := in.c.Queue(reply); err != nil {
		return err
	}
	inbound, _ := in.c.InFlight()
	in.c.flushTogether(inbound == 0)
	return nil
}

// ReplyBody ends the call with a result of any length, and returns when all of it has been sent, or
// the call's context has ended. If body fails, the caller reads the error's kind after what came before.
func (in *Inbound) ReplyBody(h Header, body io.Reader) error {
	return in.finish(func() error {
		if err := in.c.Send(&Frame{Type: TypeReply, ID: in.id, More: true, Header: h}); err != nil {
			return err
		}
		stop := context.AfterFunc(in.ctx, func() {
			err := context.Cause(in.ctx)
			in.out.stop(Errorf("send body", KindOf(err), "%w", err))
		})
		defer stop()
		return in.out.pump(in.id, body)
	})
}

func (in *Inbound) finish(send func() error) (err error) {
	in.once.Do(func() {
		err = send()
		in.out.stop(errUnwanted)
		in.cancel(context.Canceled)
		if in.stop != nil {
			in.stop()
		}
	})
	return err
}

// HandleFrame is for the connection.
func (in *Inbound) HandleFrame(c *Conn, f *Frame) {
	switch f.Type {
	case TypeChunk:
		if in.in != nil && !in.in.push(f.Payload) {
			err := Errorf("read body", BadInput, "the caller ignores the window")
			in.in.end(err)
			in.cancel(err)
		}
	case TypeEnd:
		if in.in != nil {
			in.in.end(endError(f))
		}
	case TypeCredit:
		in.out.credit(f)
	case TypeCancel:
		in.cancel(context.Canceled)
		in.out.stop(errUnwanted)
	}
}

// HandleClose is for the connection.
func (in *Inbound) HandleClose(_ *Conn, err error) {
	in.cancel(err)
	in.out.stop(errUnwanted)
	if in.in != nil {
		in.in.end(err)
	}
}
