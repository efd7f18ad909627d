package cell

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Config is how a program serves. The zero value has the defaults.
type Config struct {
	// Name is the cell's. Default: what the nucleus says (CELL_NAME), else the name of the working
	// directory.
	Name string
	// Background runs beside the functions, from when the program serves, for what the cell does of
	// its own accord. Its context ends when the program is told to stop, and calls other cells as a
	// function's does. If it returns an error before, the program ends with it. A program that has one
	// is not frozen between calls. Nil: nothing.
	Background func(ctx context.Context) error
	// Drain bounds the calls in flight after the program was told to stop. 0: cellproto.DrainTimeout.
	Drain time.Duration
	// Older has the functions of earlier versions whose callers this one would break, and which it serves as well: all
	// functions of each, as they were, the newest version first, at most cellproto.MaxOlder. Who was made for one of them
	// (a client that cellctl gen wrote says so) gets its functions; everybody else those that are served.
	Older [][]*Function
	// Docs has what comments say of the functions and their types: what cellctl docs has written.
	Docs Docs
	// Log takes the stacks of panics. Default: the standard error, which is the cell's log.
	Log io.Writer

	handoff *os.File // over which callers' connections come; nil: they are relayed
}

func (cfg Config) withDefaults() Config {
	if cfg.Name == "" {
		cfg.Name = defaultName()
	}
	if cfg.Drain == 0 {
		cfg.Drain = cellproto.DrainTimeout
	}
	if cfg.Log == nil {
		cfg.Log = os.Stderr
	}
	return cfg
}

// Validate says what cannot be served with: a name that is none, a drain below zero. Kind BadInput.
func (cfg Config) Validate() error {
	if cfg.Name != "" && !cellproto.ValidCellName(cfg.Name) {
		return cellproto.Errorf("serve", cellproto.BadInput, "%.80q is not the name of a cell", cfg.Name)
	}
	if cfg.Drain < 0 {
		return cellproto.Errorf("serve", cellproto.BadInput, "the drain is %v", cfg.Drain)
	}
	return nil
}

func defaultName() string {
	if name := os.Getenv(cellproto.EnvName); name != "" {
		return name
	}
	if dir, err := os.Getwd(); err == nil && cellproto.ValidCellName(filepath.Base(dir)) {
		return filepath.Base(dir)
	}
	return "cell"
}

// Serve answers calls on t, which it closes at the end, until the peer says goaway or ends the
// connection, or ctx ends; then calls in flight are finished. It is Config.Serve with the defaults.
func Serve(ctx context.Context, t cellproto.Transport, functions ...*Function) error {
	return Config{}.Serve(ctx, t, functions...)
}

// Serve answers calls on t until the peer says goaway or ends the connection, or ctx ends. What is in
// flight then is finished within Drain; the context of what is not ends, and the error is Timeout. A
// function that cannot be declared is BadInput, a broken connection has the kind of its end.
func (cfg Config) Serve(ctx context.Context, t cellproto.Transport, functions ...*Function) error {
	defer t.Close()
	cfg = cfg.withDefaults()
	s, err := newServer(cfg, functions)
	if err != nil {
		return err
	}
	if cfg.handoff != nil {
		s.handoff = s.newHandoff(cfg.handoff)
	}
	l := &link{Transport: t, in: cellproto.ReaderOf(t), leaving: make(chan struct{}), flights: &s.flights}
	conn, err := cellproto.NewConn(l, cellproto.Config{Hello: s.hello(), Accept: s.accept})
	if err != nil {
		return err
	}
	l.conn.Store(conn)
	return s.serve(ctx, conn, l)
}

// server is what serves the connection to the nucleus, and those that the nucleus hands over.
type server struct {
	cfg Config
	version
	older map[string]*version // by the hash of the schema, in hex; nil: there are none

	base    context.Context // of all calls
	stop    context.CancelFunc
	flights flights
	tasks   sync.WaitGroup // goroutines of calls, and Background
	handoff *handoff       // nil: there are no others

	cancelBackground func() // nil: there is none

	born time.Time

	slabMu sync.Mutex // after a Yield another goroutine begins calls
	slab   []call
}

func newServer(cfg Config, functions []*Function) (*server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, born: time.Now()}
	s.flights.init()
	if err := s.addOlder(); err != nil {
		return nil, err
	}
	return s, s.version.declare(cfg.Name, functions, cfg.Docs)
}

const agent = "celld-go-sdk"

func (s *server) hello() cellproto.Hello {
	h := cellproto.Hello{
		Schema: s.hash[:], Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}, Agent: agent,
		Cell: s.cfg.Name, Functions: sortedNames(s.schema.Functions),
	}
	if s.cfg.Background != nil {
		h.Capabilities = append(h.Capabilities, cellproto.CapBackground)
	}
	if s.handoff != nil {
		h.Capabilities = append(h.Capabilities, cellproto.CapHandoff, cellproto.CapEarly)
	}
	return h
}

// accept takes a call of the nucleus, on the reading goroutine.
func (s *server) accept(conn *cellproto.Conn, f *cellproto.Frame) { s.acceptCounted(conn, f, nil) }

// refuse answers a call with an error, on the reading goroutine.
func (s *server) refuse(conn *cellproto.Conn, f *cellproto.Frame, err error) {
	if conn.Queue(cellproto.ErrorReply(f.ID, err)) == nil { // a lost connection needs no answer
		conn.FlushLater(conn)
	}
}

// counted is where the calls on a connection that was handed over are counted.
type counted struct {
	page  *cellproto.Page
	as    *version      // that its caller knows; nil: not looked at yet, or there is one only
	share *atomic.Int32 // in flight of the same stranger; nil: the owner's are not limited
}

// begin takes a place of the caller's share.
func (by *counted) begin() bool {
	if by == nil || by.share == nil || by.share.Add(1) <= cellproto.MaxStreamsPeer {
		return true
	}
	by.share.Add(-1)
	return false
}

// end gives it back.
func (by *counted) end() {
	if by != nil && by.share != nil {
		by.share.Add(-1)
	}
}

// enter takes the places of a call, which over gives back.
func (s *server) enter(by *counted) error {
	err := errBusy
	if by.begin() {
		if err := s.flights.begin(); err == nil {
			return nil
		} else if err != errBusy {
			by.end()
			return err
		}
		by.end()
	}
	if by != nil && !by.owner() { // the owner's call waits
		by.page.Refuse()
	}
	return err
}

// acceptCounted takes a call; by is nil for those that the nucleus counts.
func (s *server) acceptCounted(conn *cellproto.Conn, f *cellproto.Frame, by *counted) {
	v, err := &s.version, error(nil)
	if s.older != nil {
		v, err = s.versionOf(conn, f, by)
	}
	fn := v.functions[f.Header.Func]
	switch {
	case err != nil:
	case fn == nil:
		_, err = v.schema.Function(f.Header.Func)
	case f.More && !fn.flags.BodyIn:
		err = cellproto.Errorf("call "+fn.name, cellproto.BadInput, "it takes no body")
	default:
		err = s.enter(by)
	}
	if err == errBusy && by.waits() {
		s.acceptLater(conn, f, fn, by)
		return
	}
	if err != nil {
		s.refuse(conn, f, err)
		return
	}
	c := s.begin(conn, f)
	if by != nil {
		if c.by = by; by.page.Begin() {
			c.timed = time.Since(s.born)
		}
	}
	if fn.flags.Slow || fn.flags.BodyIn || fn.flags.BodyOut {
		c.accept()
		s.tasks.Go(func() {
			defer s.over(c)
			s.answer(c, fn, c.in.Header.Codec, c.in.Payload, c.in.Body())
		})
		return
	}
	s.serveInline(c, fn, f)
}

// over counts the end of a call.
func (s *server) over(c *call) {
	if c.by != nil {
		c.by.page.End()
		if c.timed != 0 {
			c.by.page.Time(time.Since(s.born) - c.timed)
		}
		c.by.end()
	}
	s.flights.end() // last: without a call in flight the page may be taken away
}

// serveInline runs fn on the reading goroutine and answers with the batch of frames at hand, unless
// the function has left that goroutine, or its reply is too large to be written from there.
func (s *server) serveInline(c *call, fn *Function, f *cellproto.Frame) {
	r, err := s.run(c, fn, f.Header.Codec, f.Payload, nil)
	if err == nil && len(r.payload) > cellproto.ChunkSize && c.acceptInline() {
		if fn.raw != nil {
			r.payload = bytes.Clone(r.payload) // it may be the connection's buffer
		}
		in := c.end()
		s.tasks.Go(func() { // it waits for credit
			defer s.over(c)
			s.reply(in, r, nil)
		})
		return
	}
	defer s.over(c)
	if in := c.end(); in != nil {
		s.reply(in, r, err)
		return
	}
	reply := &cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: r.payload}
	reply.Header.Codec = r.codec
	if err != nil {
		reply = cellproto.ErrorReply(f.ID, err)
	}
	if c.conn.Queue(reply) == nil { // a lost connection needs no answer
		c.conn.FlushBatch()
	}
	release(r.buf)
}

// answer runs a detached call to its end.
func (s *server) answer(c *call, fn *Function, codec cellproto.Codec, payload []byte, body io.Reader) {
	r, err := s.run(c, fn, codec, payload, body)
	s.reply(c.end(), r, err)
}

// reply ends a detached call. Errors of sending mean that nobody waits for it any more.
func (s *server) reply(in *cellproto.Inbound, r result, err error) {
	defer release(r.buf)
	switch {
	case err != nil:
		_ = in.ReplyError(err)
	case r.body != nil:
		_ = in.ReplyBody(cellproto.Header{}, r.body)
		r.body.Close()
	default:
		_ = in.Reply(cellproto.Header{Codec: r.codec}, r.payload)
	}
}

// result is what a function gave, encoded.
type result struct {
	codec   cellproto.Codec
	payload []byte
	buf     *bytes.Buffer // that holds payload, to be released
	body    *bodyReader
}

// run calls the function. What it panics with is logged with the stack and becomes an error.
func (s *server) run(c *call, fn *Function, codec cellproto.Codec, payload []byte, body io.Reader) (r result, err error) {
	defer func() {
		if v := recover(); v != nil {
			r, err = result{}, s.panicked(fn, v)
		}
	}()
	if fn.raw != nil {
		r.codec = fn.codec
		r.payload, err = fn.raw(c, payload)
	} else {
		r, err = s.runTyped(c, fn, codec, payload, body)
	}
	if err != nil {
		err = replyError(c, fn, err)
	}
	return r, err
}

func (s *server) runTyped(c *call, fn *Function, codec cellproto.Codec, payload []byte, body io.Reader) (r result, err error) {
	out, err := fn.typed(c, arguments{fn: fn, codec: codec, data: payload}, body)
	if err != nil {
		return r, err
	}
	if fn.flags.BodyOut {
		reader, _ := out.(io.Reader)
		if reader == nil {
			reader = bytes.NewReader(nil)
		}
		r.body = &bodyReader{Reader: reader, c: c, fn: fn}
		return r, nil
	}
	r.codec, r.buf, err = encode(codec, out)
	if err == nil {
		r.payload = r.buf.Bytes()
	}
	return r, err
}

func (s *server) panicked(fn *Function, value any) error {
	fmt.Fprintf(s.cfg.Log, "panic in function %s: %v\n%s", fn.name, value, debug.Stack())
	return cellproto.Errorf("call "+fn.name, cellproto.Failed, "the function panicked: %v", value)
}

// bodyReader gives a function's body with its errors and panics as the caller is to get them.
type bodyReader struct {
	io.Reader
	c  *call
	fn *Function
}

func (b *bodyReader) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, b.c.s.panicked(b.fn, v)
		}
	}()
	n, err = b.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = replyError(b.c, b.fn, err)
	}
	return n, err
}

func (b *bodyReader) Close() {
	if closer, ok := b.Reader.(io.Closer); ok {
		_ = closer.Close() // what it gave has been sent or refused
	}
}
