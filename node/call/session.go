package call

import (
	"cmp"
	"context"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// metaPeer is the key of a request's meta under which the program is told who calls. A caller
// cannot set it.
const metaPeer = "peer"

// maxMeta is how many entries the meta of a frame header may have; see docs/protocol.md.
const maxMeta = 16

// accept takes one request, on the connection's reading goroutine: who is it, may it, is there
// room; then it is relayed to the program.
func (s *session) accept(c *cellproto.Conn, f *cellproto.Frame) {
	defer s.recovered(c)
	if err := s.admit(c, f); err != nil {
		_ = c.Queue(cellproto.ErrorReply(f.ID, err)) // a lost connection needs no answer
		c.FlushLater(c)
	}
}

// recovered costs the caller its connection, and nobody else theirs, when a request makes us panic.
func (s *session) recovered(c *cellproto.Conn) {
	if p := recover(); p != nil {
		s.s.deps.Log.Error("panic while a request was taken", zap.String("from", s.subject), zap.Any("panic", p), zap.Stack("stack"))
		c.Close()
	}
}

func (s *session) admit(c *cellproto.Conn, f *cellproto.Frame) error {
	if f.Header.To != "" && s.who.Owner && s.s.deps.Outgoing != nil {
		s.s.deps.Outgoing(c, f)
		return nil
	}
	if f.Header.To != "" {
		return cellproto.Errorf("call "+f.Header.Func, cellproto.Denied, "only the owner calls other cells through this nucleus")
	}
	serving := s.s.serving.Load()
	if !s.checked {
		h, err := c.PeerHello(s.ctx) // it came before the request
		if err != nil {
			return err
		}
		s.wanted.Store(&h.Cell)
		s.token, s.hello, s.checked = h.Token, userHello{h.MadeFor, h.Peer}, true
	}
	if wanted := *s.wanted.Load(); !serving.serves(wanted) {
		return cellproto.Errorf("call", cellproto.NotFound, "this peer does not serve %.80q", wanted)
	}
	if s.elsewhere() {
		err := errElsewhere(f.Header.Func)
		s.turnAway(err)
		return err
	}
	if f.Header.Func == cellproto.FuncToken {
		return s.prove(c, f)
	}
	if err := s.authorise(f, c.ReadAt()); err != nil {
		return err
	}
	if strings.HasPrefix(f.Header.Func, cellproto.ReservedPrefix) {
		return s.reserved(c, f, serving)
	}
	s.uses(serving, c.ReadAt())
	fn, err := s.s.check(f, s.as(serving))
	if err != nil {
		return err
	}
	if fn.remembers(f) {
		return s.relayOnce(c, f, fn)
	}
	return s.relay(c, f, fn)
}

// uses notes that the caller calls now, and by which schema.
func (s *session) uses(serving *Serving, now time.Time) {
	if s.usedOf != serving || s.user != nil && s.user.gone.Load() {
		s.user, s.usedOf = s.s.user(serving, s.who, s.hello), serving
	}
	if s.user != nil {
		s.user.last.Store(now.UnixNano())
	}
}

// learnSchema starts the program, which makes its schema known, and answers with that.
func (s *session) learnSchema(c *cellproto.Conn, f *cellproto.Frame) error {
	if err := s.take(); err != nil {
		return err
	}
	in := c.Inbound(s.ctx, f)
	answer := func() {
		defer s.giveBack()
		if _, err := s.s.deps.Program.Conn(in.Context()); err != nil {
			_ = in.ReplyError(err) // a lost caller needs none; so below
			return
		}
		if now := s.s.Serving(); now.Schema != nil {
			_ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, now.canonical)
			return
		}
		_ = in.ReplyError(cellproto.Errorf("call "+cellproto.FuncSchema, cellproto.NotFound, "the program names no schema"))
	}
	if !s.s.work.Go(answer) {
		s.giveBack()
		return cellproto.Errorf("call "+cellproto.FuncSchema, cellproto.Unavailable, "the nucleus is stopping")
	}
	return nil
}

// reserved answers the nucleus's own functions.
func (s *session) reserved(c *cellproto.Conn, f *cellproto.Frame, serving *Serving) error {
	op := "call " + f.Header.Func
	if f.Header.Func == cellproto.FuncProbe {
		return s.probe(c, f)
	}
	if f.Header.Func != cellproto.FuncSchema {
		return cellproto.Errorf(op, cellproto.NotFound, "no such function of the nucleus")
	}
	switch {
	case !s.s.cfg.ShowSchema && !s.who.Owner:
		return cellproto.Errorf(op, cellproto.Denied, "the cell does not show its schema")
	case serving.Schema == nil && s.s.deps.Program != nil:
		return s.learnSchema(c, f)
	case serving.Schema == nil:
		return cellproto.Errorf(op, cellproto.NotFound, "this nucleus has no program, and so no schema")
	}
	if known := s.as(serving); known != nil {
		serving = known
	}
	h := cellproto.Header{Codec: cellproto.JSON}
	if len(serving.canonical) <= cellproto.ChunkSize {
		return s.replyNow(c, f, h, serving.canonical)
	}
	if err := s.take(); err != nil {
		return err
	}
	in := c.Inbound(s.ctx, f)
	send := func() {
		defer s.giveBack()
		_ = in.Reply(h, serving.canonical) // a lost caller needs none
	}
	if !s.s.work.Go(send) {
		s.giveBack()
		c.Close()
	}
	return nil
}

func (s *session) replyNow(c *cellproto.Conn, f *cellproto.Frame, h cellproto.Header, payload []byte) error {
	_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Header: h, Payload: payload}) // a lost caller needs none
	c.FlushLater(c)
	return nil
}

// check looks at the function and the arguments, so that no program is started for nothing. It gives
// what is known of the function, nil without a schema, or when serving is nil: what the caller knows is not served.
func (s *Server) check(f *cellproto.Frame, serving *Serving) (*served, error) {
	name := f.Header.Func
	if s.deps.Program == nil {
		return nil, cellproto.Errorf("call "+name, cellproto.NotFound, "this nucleus has no program").
			WithHint("Set binary in cell.toml, or call another cell.")
	}
	if serving == nil {
		serving = &Serving{}
	}
	fn := serving.served[name]
	if fn == nil && serving.Schema != nil {
		_, err := serving.Schema.Function(name)
		return nil, err
	}
	if f.Header.Codec != cellproto.JSON {
		return fn, nil // the program's decoder is strict; only JSON comes from people
	}
	if err := cellproto.CheckJSON(f.Payload); err != nil {
		return nil, err
	}
	if fn != nil && fn.args != nil {
		if err := fn.args.Check(f.Payload); err != nil {
			return fn, err
		}
	}
	if s.cfg.CheckArgs && fn != nil && len(f.Payload) > 0 {
		return fn, fn.fit().Check(cellproto.JSON, f.Payload)
	}
	return fn, nil
}

// take counts a call in, or says that there is no room.
func (s *session) take() error {
	srv := s.s
	if n := srv.inFlight.Add(1); n > int64(srv.cfg.MaxInFlight) {
		srv.inFlight.Add(-1)
		return overloaded("%d calls are in flight in this nucleus, the limit", srv.cfg.MaxInFlight)
	}
	if n := s.load.inFlight.Add(1); !s.who.Owner && n > int64(srv.cfg.MaxPeer) {
		s.giveBack()
		return overloaded("%d calls of this peer are in flight, the limit", srv.cfg.MaxPeer)
	}
	return nil
}

// giveBack undoes take.
func (s *session) giveBack() {
	if n := s.load.inFlight.Add(-1); n == 0 && s.load.left.Load() {
		s.s.forgetLoad(s.subject, s.load)
	}
	s.s.inFlight.Add(-1)
}

func overloaded(format string, args ...any) error {
	e := cellproto.Errorf("call", cellproto.Overloaded, format, args...)
	e.RetryAfter = 50 * time.Millisecond // a few times the duration of a usual call
	return e
}

// done notes the end of a relayed call.
func (s *session) done(begin, end time.Time, kind cellproto.Kind) {
	srv := s.s
	srv.meter.end(s.load.use, end)
	srv.deps.Program.End()
	srv.next()
	s.giveBack()
	srv.last.Store(end.UnixNano())
	if kind == 0 || kind == cellproto.FuncError {
		srv.served.Add(1)
		srv.mu.Lock()
		srv.latency.Record(end.Sub(begin))
		srv.mu.Unlock()
	}
}

// metaFor is what the program is told: the caller's own meta, and who it is. The owner's calls
// carry no peer.
func (s *session) metaFor(meta map[string]string) (map[string]string, error) {
	if len(meta) == 0 {
		return s.meta, nil
	}
	own := maps.Clone(meta)
	delete(own, metaPeer)
	delete(own, cellproto.MetaSchema)
	room := maxMeta
	if s.hello.made != nil {
		room-- // for MetaSchema
	}
	if len(own)+len(s.meta) > room {
		// The program would take the frame for a broken one, and hang up on everybody.
		return nil, cellproto.Errorf("call", cellproto.TooLarge, "%d entries of meta, with the nucleus's own at most %d", len(own), room)
	}
	maps.Copy(own, s.meta)
	return own, nil
}

// wake starts the sleeping program for a request that waits. A program that leaves between being
// ready and being asked is started once more. lost is why the call is made again, if it is: when that
// fails, it may have run before.
func (s *session) wake(r *cellproto.Relay, f *cellproto.Frame, lost error) {
	timeout := cellproto.DefaultTimeout
	if f.Header.Budget > 0 {
		timeout = f.Header.Budget
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	for try := 0; ; try++ {
		up, err := s.s.deps.Program.Conn(ctx)
		if err == nil {
			if f.Header.Budget > 0 {
				f.Header.Budget = max(f.Header.Budget-time.Since(begin), time.Microsecond)
				begin = time.Now()
			}
			if _, refused := s.fits(ctx, up, f); refused != nil { // what cannot be told by now does not count
				s.turnAway(refused)
				r.Fail(cmp.Or(lost, refused))
				return
			}
			if err = r.To(up, f, false); err == nil {
				return
			}
		}
		if try == 2 || ctx.Err() != nil || cellproto.KindOf(err) != cellproto.Unavailable || cellproto.RetryAfterOf(err) > 0 {
			if lost != nil {
				err = lost
			}
			r.Fail(err)
			return
		}
	}
}
