package cellproto

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Transport is what a connection runs over: a Unix socket, one end of a socket pair, a libp2p
// stream, a pipe in a test. If it also has Reset() error, as streams of libp2p do, that is called
// before Close when a Write may be under way, which their Close does not end.
type Transport interface {
	io.ReadWriteCloser
}

// Sink takes the frames of one call. It must not block.
type Sink interface {
	// HandleFrame is called for each frame of the call: reply, chunk, end, credit, cancel; on the
	// goroutine that reads the connection. The frame is good until it returns.
	HandleFrame(c *Conn, f *Frame)
	// HandleClose is called once, if the connection ends before the call does, on the goroutine of
	// Run; a last HandleFrame may run at the same time. The error's kind says whether the request
	// can have left.
	HandleClose(c *Conn, err error)
}

// Config is how one side of a connection behaves.
type Config struct {
	// Opener is true on the side that opened the connection: its calls have odd ids.
	Opener bool
	// Hello is sent first.
	Hello Hello
	// Accept is called for each request of the peer, on the reading goroutine. It answers at once
	// (Conn.Queue and FlushLater), or registers a sink (Conn.Register) and answers later. The frame
	// is good until it returns. A panic ends the connection. Nil refuses all calls.
	Accept func(c *Conn, f *Frame)
	// Event is called for each event frame, on the reading goroutine. Nil drops them.
	Event func(c *Conn, f *Frame)
	// MaxInbound bounds the peer's calls in flight; past it they are answered with Overloaded.
	// 0: MaxStreams.
	MaxInbound int
	// MaxUnread is how many bytes besides bodies may wait for the peer before its further requests and pings are
	// not read: it has to read first. Past as many, bodies included, bodies wait. Only who makes no calls on the connection may set it, or two would
	// wait for each other. 0: all are read, and MaxQueued ends the connection.
	MaxUnread int
	// Memory counts what waits for the peer; when it refuses, the connection ends. Nil: nobody does.
	Memory Memory
	// IdleTimeout drains and closes the connection when no call was in flight for so long; pings do
	// not count. 0: never, and the peer's hello is waited for without a limit.
	IdleTimeout time.Duration
	// FrameTimeout is how long a frame may take once its first byte is here, and, with an
	// IdleTimeout, how long the hello may. 0: FrameTimeout.
	FrameTimeout time.Duration
}

// Conn carries calls both ways over one transport, multiplexed. It is the only type of connection
// in celld: caller to nucleus, nucleus to program, nucleus to nucleus. All methods may be used from
// any goroutine unless they say otherwise. The owner calls Run, and waits for it: until then nobody
// is told that the connection has ended.
type Conn struct {
	t      Transport
	in     io.Reader // reads t; see ReaderOf
	direct bool      // t is a descriptor that can be written without blocking
	cfg    Config
	born   time.Time
	w      writer
	r      *reader // the current one; only who reads touches it
	turn   *turn   // nil: the reading goroutine reads
	own    []byte  // payload of this side's hello
	input  []byte  // to be handled before what is read

	pendings sync.Pool // of *pending, which no call uses

	mu       sync.Mutex
	nextID   uint32
	calls    callTable
	inbound  int
	begun    uint64 // calls, both ways
	running  bool
	draining bool    // requests are refused
	closed   error   // set once, before done is closed
	lost     []entry // calls that the end has cut
	handed   uint64  // writer.handed at the end
	held     held
	idle     chan struct{}
	nextDue  time.Duration // after born, when dueTimer comes; 0: it does not. See armDue
	dueTimer *time.Timer

	hello      atomic.Pointer[peerHello]
	helloReady chan struct{}
	holding    atomic.Bool // requests are held back, or were and are not taken up yet; set with mu held
	gathering  atomic.Bool // a caller waits for others, and flushes then
	leaving    atomic.Bool // the peer said goaway; set with mu held
	done       chan struct{}
	tasks      sync.WaitGroup // the goroutines of this connection
	partial    atomic.Int64   // ns after born since when a frame is incomplete; 0: none is
	received   atomic.Uint64  // bytes
}

// Bytes gives how many bytes have come from the transport and were taken by it so far, of all frames, also after the end.
func (c *Conn) Bytes() (received, sent uint64) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.received.Load(), c.w.progress
}

type peerHello struct {
	Hello
	payload []byte // as it came
	once    sync.Once
	numbers map[string]uint32
}

// NewConn makes a connection over t and queues the hello. Nothing is read before Run.
func NewConn(t Transport, cfg Config) (*Conn, error) {
	c := newConn(t, cfg)
	var err error
	if c.own, err = c.cfg.Hello.Marshal(); err != nil {
		return nil, err
	}
	return c, c.Queue(&Frame{Type: TypeHello, Payload: c.own})
}

func newConn(t Transport, cfg Config) *Conn {
	if cfg.MaxInbound == 0 {
		cfg.MaxInbound = MaxStreams
	}
	if cfg.FrameTimeout == 0 {
		cfg.FrameTimeout = FrameTimeout
	}
	c := &Conn{
		t: t, in: ReaderOf(t), cfg: cfg, born: time.Now(),
		helloReady: make(chan struct{}), done: make(chan struct{}),
	}
	var raw syscall.RawConn
	if sc, ok := t.(syscall.Conn); ok {
		if r, err := sc.SyscallConn(); err == nil {
			raw = r
		}
	}
	c.w.init(t, raw, c.fail)
	if c.w.unread.limit, c.w.unread.memory = cfg.MaxUnread, cfg.Memory; cfg.MaxUnread > 0 {
		c.w.long = cfg.MaxUnread
	}
	c.turn = newTurn(t, &c.cfg)
	c.direct = c.w.now != nil
	if cfg.Opener {
		c.nextID = ^uint32(0) // the first one is 1, for the other side 2
	}
	return c
}

// Run reads frames until the connection ends, and returns why; nil after Close. It returns when
// every goroutine of the connection has ended. Handlers run on them (see Yield). It is called once.
func (c *Conn) Run() error {
	c.mu.Lock()
	c.running = c.closed == nil
	running := c.running
	c.mu.Unlock()
	if running {
		c.w.flushNow() // the hello, if it has not left with something else
		c.tasks.Go(func() { c.w.run(c.done) })
		c.tasks.Go(c.watch)
		c.tasks.Go(func() { c.readLoop(readerOf(c.input)) })
		<-c.done
		c.stopTurn()
		c.stopDue()
		if c.err() != ErrSuspended {
			c.closeTransport()
		}
	}
	c.mu.Lock()
	err, lost, handed := c.closed, c.lost, c.handed
	c.lost = nil
	c.mu.Unlock()
	for _, e := range lost {
		e.sink.HandleClose(c, lostError(err, !e.inbound && e.end > handed))
	}
	c.tasks.Wait()
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

// err gives why the connection has ended, nil if it has not.
func (c *Conn) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

var errClosed = errors.New("connection closed")

// Close ends the connection at once; calls in flight fail. It does not wait for Run.
func (c *Conn) Close() { c.fail(errClosed) }

// fail ends the connection because of err. The first reason holds. It never waits and calls no
// sink, so that it may be called with locks held; Run does the rest.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return
	}
	c.closed = err
	c.handed = c.w.close(err)
	c.lost = c.calls.takeAll()
	c.inbound = 0
	c.signalIdle()
	running := c.running
	c.mu.Unlock()
	close(c.done)
	if !running {
		c.closeTransport()
	}
}

func (c *Conn) closeTransport() {
	c.w.mu.Lock()
	cut := c.w.cut
	c.w.mu.Unlock()
	if r, ok := c.t.(interface{ Reset() error }); ok && cut {
		_ = r.Reset() // it is gone either way; so below
	}
	_ = c.t.Close()
}

func lostError(err error, neverLeft bool) error {
	if neverLeft {
		return Errorf("call", Unavailable, "connection lost before the request left: %w", err)
	}
	return Errorf("call", MayHaveRun, "connection lost: %w", err)
}

// Goaway tells the peer to begin nothing new here; what is in flight goes on. reason is for logs.
func (c *Conn) Goaway(reason string) error {
	return c.sendSoon(&Frame{Type: TypeGoaway, Payload: []byte(cutText(reason, MaxErrorText))})
}

// Drain says goaway, serves what the peer began before it heard so, waits until no call is in flight
// or ctx ends, and closes the connection. It returns the context's error if calls were cut.
func (c *Conn) Drain(ctx context.Context, reason string) error {
	defer c.Close()
	if err := c.Goaway(reason); err != nil {
		return nil // already closed: nothing is in flight
	}
	// The answer to a ping comes after every request that the peer sent before it read the goaway.
	barrier, cancel := context.WithTimeout(ctx, barrierTimeout)
	_, _ = c.Ping(barrier) // a peer that does not answer has sent nothing either, most likely
	cancel()
	c.mu.Lock()
	c.draining = true
	if c.idle == nil {
		c.idle = make(chan struct{})
	}
	idle := c.idle
	c.signalIdle()
	c.mu.Unlock()
	select {
	case <-idle:
		c.w.flushed(ctx, c.done)
		return nil
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// barrierTimeout bounds the wait for the peer to have seen a goaway.
const barrierTimeout = time.Second

// signalIdle wakes Drain when no call is left. c.mu is held.
func (c *Conn) signalIdle() {
	if c.idle != nil && c.calls.len() == 0 {
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
	return c.inbound, c.calls.len() - c.inbound
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

// Open begins a call: it registers sink and queues the request. The request leaves with the next
// flush; see Flush. It fails with Unavailable when the connection has ended or the peer is leaving,
// with Overloaded when too much waits to be written, and with BadInput or TooLarge when the peer
// would not take the frame: the request then provably never left.
func (c *Conn) Open(f *Frame, sink Sink) (uint32, error) {
	_, err := c.open(f, sink, 0)
	return f.ID, err
}

// open is Open. It gives the number of this call if no other one is in flight, else 0. With a due the sink
// is a *pending.
func (c *Conn) open(f *Frame, sink Sink, due time.Duration) (alone uint64, err error) {
	f.Type = TypeRequest
	c.number(&f.Header)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return 0, Errorf("call", Unavailable, "connection lost before the request left: %w", c.closed)
	}
	if c.leaving.Load() {
		return 0, Errorf("call", Unavailable, "the peer is leaving")
	}
	f.ID = c.newID()
	end, err := c.w.add(f, MaxQueued/4*3) // the rest is for the frames of calls that have begun
	if err != nil {
		return 0, err
	}
	c.begun++
	c.calls.add(f.ID, entry{sink: sink, end: end, due: due})
	if due != 0 {
		c.armDue(due)
	}
	if c.calls.len() == 1 {
		alone = c.begun
	}
	return alone, nil
}

// newID gives the next id of this side's parity that is free: odd for the opener. c.mu is held.
func (c *Conn) newID() uint32 {
	for {
		c.nextID += 2
		if c.nextID != 0 && c.calls.find(c.nextID) == nil {
			return c.nextID
		}
	}
}

// number replaces the function's name by its number, once the peer has announced one.
func (c *Conn) number(h *Header) {
	if h.FuncNum != 0 {
		return
	}
	if p := c.hello.Load(); p != nil && len(p.Functions) > 0 {
		p.once.Do(p.index)
		if n, ok := p.numbers[h.Func]; ok {
			h.FuncNum, h.Func = n, ""
		}
	}
}

func (p *peerHello) index() {
	p.numbers = make(map[string]uint32, len(p.Functions))
	for i, name := range p.Functions {
		p.numbers[name] = uint32(i + 1)
	}
}

// Register says that the peer's call id, just accepted, will be answered later. sink gets its
// further frames, or is told at once that the connection has ended. Only Accept may call it, before
// it returns.
func (c *Conn) Register(id uint32, sink Sink) {
	c.mu.Lock()
	closed := c.closed
	if closed == nil {
		c.calls.add(id, entry{sink: sink, inbound: true})
		c.inbound++
	}
	c.mu.Unlock()
	if closed != nil {
		sink.HandleClose(c, lostError(closed, false))
	}
}

// Cancel tells the peer that nobody waits for call id any more. Its entry stays until the peer
// has confirmed with a reply, which nobody sees. It does not wait.
func (c *Conn) Cancel(id uint32) {
	c.mu.Lock()
	e := c.calls.find(id)
	if e != nil {
		e.sink, e.due = discard{}, 0
	}
	c.mu.Unlock()
	if e != nil {
		_ = c.sendSoon(&Frame{Type: TypeCancel, ID: id}) // a lost connection has canceled it already
	}
}

type discard struct{}

func (discard) HandleFrame(*Conn, *Frame) {}
func (discard) HandleClose(*Conn, error)  {}

// Queue appends a frame to what is to be written. A reply without body, or the end of its body,
// ends the peer's call. Errors: the connection has ended, or the peer would not take the frame; the
// call of a reply that cannot be sent is ended by an error in its place.
func (c *Conn) Queue(f *Frame) error {
	var err error
	if f.Type == TypeReply && !f.More || f.Type == TypeEnd {
		err = c.queueLast(f)
	} else {
		_, err = c.w.add(f, MaxQueued)
	}
	if err != nil {
		switch kind := KindOf(err); {
		case kind == Overloaded:
			c.fail(err)
		case f.Type == TypeReply && kind != Unavailable && f.Header.Kind != Failed:
			_ = c.Queue(ErrorReply(f.ID, Errorf("send reply", Failed, "%w", err))) // err says more
		}
	}
	return err
}

// queueLast queues what ends the peer's call, if f does. The call gives its place back before f can
// leave: a peer that makes as many calls as it may begins the next one as soon as it has read that. It
// is over only once f is queued, for which Drain waits.
func (c *Conn) queueLast(f *Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.calls.find(f.ID)
	inbound := e != nil && e.inbound
	if inbound && !e.left {
		e.left = true
		c.inbound--
	}
	_, err := c.w.add(f, MaxQueued)
	if err == nil && inbound {
		c.calls.remove(f.ID)
		c.signalIdle()
	}
	return err
}

// Flush writes what is queued, unless somebody is writing already, who then takes it along. It does
// not wait for the peer, unless the transport buffers less than smallFlush bytes.
func (c *Conn) Flush() {
	if c.direct {
		c.w.flushNow()
	} else if !c.w.flushSmall() {
		c.w.wake()
	}
}

// flushTogether is Flush for a caller. When other calls are in flight, more callers are likely to be
// about to call: one read has answered several. One of them lets the others run for as long as that
// brings more frames, and then writes for all; alone, a caller waits for nobody. See also Inbound.Together.
func (c *Conn) flushTogether(alone bool) {
	if !alone {
		if !c.gathering.CompareAndSwap(false, true) {
			return // who gathers has not flushed yet
		}
		for had, have, turn := 0, c.w.size(), 0; have > had && turn < maxGather; turn++ {
			runtime.Gosched()
			had, have = have, c.w.size()
		}
		c.gathering.Store(false)
	}
	c.Flush()
}

// maxGather is how often a caller lets others run before it writes for all.
const maxGather = 16

// Send is Queue and Flush.
func (c *Conn) Send(f *Frame) error {
	if err := c.Queue(f); err != nil {
		return err
	}
	c.Flush()
	return nil
}

// sendSoon is Send for those who must not wait in any case.
func (c *Conn) sendSoon(f *Frame) error {
	if err := c.Queue(f); err != nil {
		return err
	}
	c.w.flushNow()
	return nil
}
