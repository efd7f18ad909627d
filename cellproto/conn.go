package cellproto

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Transport is what a connection runs over: a Unix socket, one end of a socket pair, a libp2p
// stream, a pipe in a test.
type Transport interface {
	io.ReadWriteCloser
}

// Sink takes the frames of one call, on the goroutine that reads the connection: it must not
// block, and what it keeps of a frame it must copy.
type Sink interface {
	// HandleFrame is called for each frame of the call: reply, chunk, end, credit, cancel.
	HandleFrame(c *Conn, f *Frame)
	// HandleClose is called once, if the connection ends before the call does. The error's kind
	// says whether the request can have left.
	HandleClose(c *Conn, err error)
}

// Config is how one side of a connection behaves.
type Config struct {
	// Opener is true on the side that opened the connection: its calls have odd ids.
	Opener bool
	// Hello is sent first.
	Hello Hello
	// Accept is called for each request of the peer, on the reading goroutine. It answers at once
	// (Conn.Send), or registers a sink (Conn.Register) and answers later. Nil refuses all calls.
	Accept func(c *Conn, f *Frame)
	// Event is called for each event frame, on the reading goroutine. Nil drops them.
	Event func(c *Conn, f *Frame)
	// MaxInbound bounds the peer's calls in flight; past it they are answered with Overloaded.
	// 0: MaxStreams.
	MaxInbound int
	// IdleTimeout closes the connection when no call was in flight for so long. 0: never.
	IdleTimeout time.Duration
	// FrameTimeout is how long a frame may take once its first byte is here. 0: FrameTimeout.
	FrameTimeout time.Duration
}

// Conn carries calls both ways over one transport, multiplexed. It is the only type of connection
// in celld: caller to nucleus, nucleus to program, nucleus to nucleus. All methods may be used from
// any goroutine unless they say otherwise. The owner calls Run, and waits for it.
type Conn struct {
	t      Transport
	raw    syscall.RawConn // of t, if it is a descriptor that can be written without blocking
	cfg    Config
	w      writer
	r      *reader // the current one; only its own goroutine touches it
	nextID atomic.Uint32

	mu      sync.Mutex
	calls   map[uint32]entry
	inbound int
	closed  error // set once, before done is closed
	idle    chan struct{}

	hello      atomic.Pointer[peerHello]
	helloReady chan struct{}
	leaving    atomic.Bool // the peer said goaway
	done       chan struct{}
	readers    sync.WaitGroup
	lastFrame  atomic.Int64 // unix ns of the last read
	partial    atomic.Int64 // unix ns since when a frame is incomplete; 0: none is
}

type entry struct {
	sink    Sink
	inbound bool
	begun   uint64 // writer.queued before its request: not reached by writer.handed, it never left
}

type peerHello struct {
	Hello
	numbers map[string]uint32
}

// NewConn makes a connection over t and queues the hello. Nothing is read before Run.
func NewConn(t Transport, cfg Config) (*Conn, error) {
	if cfg.MaxInbound == 0 {
		cfg.MaxInbound = MaxStreams
	}
	if cfg.FrameTimeout == 0 {
		cfg.FrameTimeout = FrameTimeout
	}
	c := &Conn{
		t: t, cfg: cfg, calls: map[uint32]entry{},
		helloReady: make(chan struct{}), done: make(chan struct{}),
	}
	if sc, ok := t.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
		}
	}
	c.w.init()
	c.nextID.Store(^uint32(0)) // the first Add(2) gives 1
	if !cfg.Opener {
		c.nextID.Store(0)
	}
	c.lastFrame.Store(time.Now().UnixNano())
	payload, err := c.cfg.Hello.Marshal()
	if err != nil {
		return nil, err
	}
	return c, c.Queue(&Frame{Type: TypeHello, Payload: payload})
}

// Run reads frames until the connection ends, and returns why; nil after Close. It returns when
// every goroutine of the connection has ended. Handlers run on it (see Yield).
func (c *Conn) Run() error {
	c.readers.Add(2)
	go func() { defer c.readers.Done(); c.w.run(c.t, c.done, c.fail) }()
	c.w.wake() // the hello
	watch := c.startWatch()
	go func() {
		defer c.readers.Done()
		c.readLoop(&reader{buf: make([]byte, readBuffer)})
	}()
	<-c.done
	watch()
	c.readers.Wait()
	c.mu.Lock()
	err := c.closed
	c.mu.Unlock()
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

var errClosed = errors.New("connection closed")

// Close ends the connection at once; calls in flight fail. It does not wait for Run.
func (c *Conn) Close() { c.fail(errClosed) }

// fail ends the connection because of err. The first reason holds.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return
	}
	c.closed = err
	calls := c.calls
	c.calls = map[uint32]entry{}
	c.inbound = 0
	c.signalIdle()
	c.mu.Unlock()
	c.t.Close()
	handed := c.w.close(err)
	close(c.done)
	for _, e := range calls {
		e.sink.HandleClose(c, lostError(err, !e.inbound && e.begun >= handed))
	}
}

func lostError(err error, neverLeft bool) error {
	if neverLeft {
		return Errorf("call", Unavailable, "connection lost before the request left: %w", err)
	}
	return Errorf("call", MayHaveRun, "connection lost: %w", err)
}

// Goaway tells the peer to begin nothing new here; what is in flight goes on. reason is for logs.
func (c *Conn) Goaway(reason string) error {
	return c.Send(&Frame{Type: TypeGoaway, Payload: []byte(reason[:min(len(reason), MaxErrorText)])})
}

// Drain says goaway, waits until no call is in flight or ctx ends, and closes the connection.
// It returns the context's error if calls were cut.
func (c *Conn) Drain(ctx context.Context, reason string) error {
	defer c.Close()
	if err := c.Goaway(reason); err != nil {
		return nil // already closed: nothing is in flight
	}
	c.mu.Lock()
	idle := c.idle
	if idle == nil {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.signalIdle()
	c.mu.Unlock()
	select {
	case <-idle:
		c.w.flushed(ctx)
		return nil
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signalIdle wakes Drain when no call is left. c.mu is held.
func (c *Conn) signalIdle() {
	if c.idle != nil && len(c.calls) == 0 {
		close(c.idle)
		c.idle = nil
	}
}

// Leaving reports that the peer said goaway: begin new calls on a new connection.
func (c *Conn) Leaving() bool { return c.leaving.Load() }

// InFlight gives the number of calls in flight, begun by the peer and begun here.
func (c *Conn) InFlight() (inbound, outbound int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inbound, len(c.calls) - c.inbound
}

// PeerHello waits for the peer's hello.
func (c *Conn) PeerHello(ctx context.Context) (Hello, error) {
	select {
	case <-c.helloReady:
		return c.hello.Load().Hello, nil
	default:
	}
	select {
	case <-c.helloReady:
		return c.hello.Load().Hello, nil
	case <-c.done:
		return Hello{}, Errorf("wait for hello", Unavailable, "connection ended before the peer said hello")
	case <-ctx.Done():
		return Hello{}, Errorf("wait for hello", KindOf(ctx.Err()), "%w", ctx.Err())
	}
}

// Open begins a call: it registers sink and queues the request. The id is odd for the opener. The
// request leaves with the next flush; see Flush. It fails with Unavailable when the connection has
// ended or the peer is leaving: the request then provably never left.
func (c *Conn) Open(f *Frame, sink Sink) (uint32, error) {
	if c.leaving.Load() {
		return 0, Errorf("call", Unavailable, "the peer is leaving")
	}
	f.Type, f.ID = TypeRequest, c.nextID.Add(2)
	if f.ID <= 1 && !c.cfg.Opener || f.ID == 0 { // the ids have wrapped around
		f.ID = c.nextID.Add(2)
	}
	c.number(&f.Header)
	c.mu.Lock()
	if c.closed != nil {
		err := c.closed
		c.mu.Unlock()
		return 0, Errorf("call", Unavailable, "connection lost before the request left: %w", err)
	}
	begun, err := c.w.add(f)
	if err == nil {
		c.calls[f.ID] = entry{sink: sink, begun: begun}
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.ID, nil
}

// number replaces the function's name by its number, once the peer has announced one.
func (c *Conn) number(h *Header) {
	if h.FuncNum != 0 {
		return
	}
	if p := c.hello.Load(); p != nil {
		if n, ok := p.numbers[h.Func]; ok {
			h.FuncNum, h.Func = n, ""
		}
	}
}

// Register says that the peer's call id, just accepted, will be answered later. sink gets its
// further frames. Only Accept may call it, before it returns.
func (c *Conn) Register(id uint32, sink Sink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.calls[id] = entry{sink: sink, inbound: true}
		c.inbound++
	}
}

// Cancel tells the peer that nobody waits for call id any more. Its entry stays until the peer
// has confirmed with a reply, which nobody sees.
func (c *Conn) Cancel(id uint32) {
	c.mu.Lock()
	if e, ok := c.calls[id]; ok {
		e.sink = discard{}
		c.calls[id] = e
	}
	c.mu.Unlock()
	_ = c.Send(&Frame{Type: TypeCancel, ID: id}) // a lost connection has canceled it already
}

type discard struct{}

func (discard) HandleFrame(*Conn, *Frame) {}
func (discard) HandleClose(*Conn, error)  {}

// Queue appends a frame to what is to be written. A reply without body, or the end of its body,
// ends the peer's call. Errors: the connection has ended, or the frame is too large.
func (c *Conn) Queue(f *Frame) error {
	if _, err := c.w.add(f); err != nil {
		if KindOf(err) == Overloaded {
			c.fail(err)
		}
		return err
	}
	if f.Type == TypeReply && !f.More || f.Type == TypeEnd {
		c.finish(f.ID, true)
	}
	return nil
}

// Flush writes what is queued, unless somebody is writing already, who then takes it along. On a
// descriptor it does not block; on another transport it may, up to StallTimeout.
func (c *Conn) Flush() {
	if c.raw != nil {
		c.flushNow()
		return
	}
	c.w.flush(c.t, c.fail)
}

// Send is Queue and Flush.
func (c *Conn) Send(f *Frame) error {
	if err := c.Queue(f); err != nil {
		return err
	}
	c.Flush()
	return nil
}

// finish removes call id if it was begun by the peer (inbound) or here.
func (c *Conn) finish(id uint32, inbound bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.calls[id]
	if !ok || e.inbound != inbound {
		return
	}
	delete(c.calls, id)
	if inbound {
		c.inbound--
	}
	c.signalIdle()
}

// startWatch checks the time limits now and then and returns what stops it.
func (c *Conn) startWatch() (stop func()) {
	period := c.cfg.FrameTimeout / 2
	if c.cfg.IdleTimeout > 0 {
		period = min(period, c.cfg.IdleTimeout/2)
	}
	finished := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-stopped:
				return
			case now := <-tick.C:
				c.checkTime(now)
			}
		}
	}()
	return func() { close(stopped); <-finished }
}

func (c *Conn) checkTime(now time.Time) {
	since := func(ns int64) time.Duration { return time.Duration(now.UnixNano() - ns) }
	if at := c.partial.Load(); at != 0 && since(at) > c.cfg.FrameTimeout {
		c.fail(Errorf("read frame", Timeout, "a frame was not complete after %v", c.cfg.FrameTimeout))
	}
	if c.w.stalled(now) {
		c.fail(Errorf("write frame", Timeout, "the peer took nothing for %v", StallTimeout))
	}
	if c.cfg.IdleTimeout > 0 && since(c.lastFrame.Load()) > c.cfg.IdleTimeout {
		c.mu.Lock()
		busy := len(c.calls) > 0
		c.mu.Unlock()
		if !busy {
			c.fail(errClosed)
		}
	}
}
