package program

import (
	"context"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const (
	// busyRetryAfter is what callers are told to wait when all slots are taken: a few times the
	// duration of a usual call.
	busyRetryAfter = 50 * time.Millisecond
	// killGrace is how long Stop waits for a killed process, which only a stuck kernel can delay.
	killGrace = 5 * time.Second
)

// Program is the cell's program, running or not. A caller begins each call with Begin, takes the
// connection from Ready, or from Conn when that gives none, opens the call on it, and calls End when
// it is over:
//
//	if err := p.Begin(); err != nil { ... }
//	defer p.End()
//	c, err := p.Conn(ctx)
//
// A call that was begun is never cut by the program's idling. A connection can still be lost before
// the call is opened on it; Open then fails with Unavailable, and Conn gives the next one.
type Program struct {
	cfg    Config
	log    *zap.Logger
	out    *output
	accept func(*cellproto.Conn, *cellproto.Frame)

	rolledBack func(*cellproto.Conn, error)
	proven     func()

	files     *files
	pids      *pids
	trialTime time.Duration // stableAfter, but in tests

	ready    atomic.Pointer[cellproto.Conn]
	inFlight atomic.Int64
	lastEnd  atomic.Int64 // when inFlight fell to 0, in ns since epoch
	served   atomic.Uint64
	refused  atomic.Uint64
	resting  atomic.Bool // nothing is begun; see Rest
	bad      atomic.Uint64
	epoch    time.Time // only differences to it are used, so that the wall clock may jump

	runs sync.WaitGroup // goroutines that supervise an instance

	swapping chan struct{} // capacity 1: taken while a swap goes on

	mu                            sync.Mutex
	all                           map[*instance]struct{} // that are not gone
	cur                           *instance              // that requests go to; nil: there is none
	phase                         Phase                  // of cur: Starting, Running, Frozen or Stopping
	prev                          *instance              // that cur has replaced, while cur is on trial; else nil
	candidate                     *instance              // that is to replace cur; else nil
	swap                          SwapState
	closed                        bool
	waiting                       int
	health                        health
	hello                         *cellproto.Hello // of the last start that succeeded
	met                           *meeting         // of the last start, if it succeeded
	starts                        uint64
	crashes                       uint64
	grantedServed, grantedRefused uint64 // of runs that have ended, and of others as of the last look
	pid                           int
	started                       time.Time
	lastExit                      string
	tier                          string // of the sandbox of pid
}

// New makes a program that does not run yet. The error is that of Config.Validate.
func New(cfg Config, deps Deps) (*Program, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = zap.NewNop()
	}
	if deps.Output == nil {
		deps.Output = io.Discard
	}
	return &Program{
		cfg: cfg.withDefaults(), log: deps.Log, out: newOutput(deps.Output, deps.Log), accept: deps.Accept, epoch: time.Now(),
		rolledBack: deps.RolledBack, proven: deps.Proven,
		files: newFiles(cfg, deps.Log), pids: newPIDs(cfg.Dir, deps.Log), trialTime: stableAfter,
		all: map[*instance]struct{}{}, swapping: make(chan struct{}, 1),
	}, nil
}

// Begin takes a slot for a call. When Config.Concurrency are taken it fails with Overloaded.
func (p *Program) Begin() error {
	if p.resting.Load() {
		p.refused.Add(1)
		return p.restError()
	}
	if p.inFlight.Add(1) <= int64(p.cfg.Concurrency) {
		return nil
	}
	p.release()
	p.refused.Add(1)
	e := cellproto.Errorf("call "+p.cfg.Name, cellproto.Overloaded, "%d calls are in flight, as many as it takes", p.cfg.Concurrency)
	e.RetryAfter = busyRetryAfter
	return e
}

// End gives the slot of a call back. It does not block.
func (p *Program) End() {
	p.served.Add(1)
	p.release()
}

func (p *Program) release() {
	if p.inFlight.Add(-1) == 0 {
		p.lastEnd.Store(int64(time.Since(p.epoch)))
	}
}

// Ready gives the connection to the program if it runs, else nil: call Conn. It does not block. The
// order of Begin and Ready matters: it is what keeps a program from being stopped as idle in between.
func (p *Program) Ready() *cellproto.Conn { return p.ready.Load() }

// Conn gives the connection to the program, and starts the program if it does not run. All who ask
// meanwhile wait for the same start, at most cellproto.MaxWaiting of them; further ones get
// Overloaded. When the program cannot be started the error is Unavailable: what is wrong, what to
// try, and after what time it makes sense to ask again, before which the answer is the same. When ctx
// ends first, the start goes on for the others.
func (p *Program) Conn(ctx context.Context) (*cellproto.Conn, error) {
	for {
		if c := p.ready.Load(); c != nil && usable(c) {
			return c, nil
		}
		p.mu.Lock()
		in, pause, err := p.next()
		if err == nil && in == nil && pause == 0 {
			c := p.ready.Load()
			p.lastEnd.Store(int64(time.Since(p.epoch))) // who asks is about to use it
			p.mu.Unlock()
			return c, nil
		}
		if err == nil && p.waiting >= cellproto.MaxWaiting {
			e := cellproto.Errorf("start "+p.cfg.Name, cellproto.Overloaded, "%d requests wait for the program already", p.waiting)
			e.RetryAfter = 2 * busyRetryAfter
			p.refused.Add(1)
			err = e
		}
		if err != nil {
			p.mu.Unlock()
			return nil, err
		}
		p.waiting++
		p.mu.Unlock()
		err = p.await(ctx, in, pause)
		p.mu.Lock()
		p.waiting--
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

func usable(c *cellproto.Conn) bool { return !c.Leaving() && !isClosed(c.Done()) }

// next says what a request has to wait for: the start or the end of an instance, or a pause. Nothing
// of the three: the program is ready. p.mu is held.
func (p *Program) next() (in *instance, pause time.Duration, err error) {
	if p.closed {
		return nil, 0, cellproto.Errorf("start "+p.cfg.Name, cellproto.Unavailable, "the nucleus is stopping")
	}
	if p.resting.Load() {
		return nil, 0, p.restError()
	}
	if p.cur != nil && p.phase == Running {
		if c := p.ready.Load(); c != nil && usable(c) {
			return nil, 0, nil
		}
		if p.cur.conn.Leaving() {
			p.cur.askStop(whyGoaway)
		}
		return p.cur, 0, nil
	}
	if p.cur != nil && p.phase == Frozen && usable(p.cur.conn) {
		p.thaw(p.cur)
		return nil, 0, nil
	}
	if p.cur != nil && (p.phase == Starting || p.phase == Frozen) {
		return p.cur, 0, nil
	}
	if pause, err = p.health.mayStart(time.Now()); err != nil || pause > 0 {
		return nil, pause, err
	}
	if p.cur == nil {
		p.begin()
	}
	return p.cur, 0, nil
}

// await waits until in has started or, if it has before, until it has left, or else is gone; without
// in, for pause. The error is that of the start, or of ctx.
func (p *Program) await(ctx context.Context, in *instance, pause time.Duration) error {
	var over <-chan struct{}
	var timer <-chan time.Time
	starting := false
	switch {
	case in == nil:
		t := time.NewTimer(pause)
		defer t.Stop()
		timer = t.C
	case isClosed(in.left):
		over = in.gone
	case isClosed(in.started):
		over = in.left
	default:
		over, starting = in.started, true
	}
	select {
	case <-over:
		if starting && in.startErr != nil {
			return in.startErr
		}
		return nil
	case <-timer:
		return nil
	case <-ctx.Done():
		return cellproto.Errorf("start "+p.cfg.Name, cellproto.KindOf(ctx.Err()), "%w while the request waited for the program", ctx.Err())
	}
}

// Stop stops the program if it runs, and returns when nothing of it is left: goaway, and
// Config.StopTimeout for the calls in flight and for its exit; SIGTERM and as long again; SIGKILL to
// its process group. When ctx ends first, it is killed at once, and the error is that of ctx. A later
// Conn starts it again.
func (p *Program) Stop(ctx context.Context) error {
	p.mu.Lock()
	all := slices.Collect(maps.Keys(p.all))
	p.mu.Unlock()
	for _, in := range all {
		if p.resting.Load() {
			in.askHurry() // to end in good order it would have to run
		}
		in.askStop("stop")
	}
	for _, in := range all {
		select {
		case <-in.gone:
		case <-ctx.Done():
			return p.kill(ctx, all)
		}
	}
	return nil
}

// kill ends what does not stop in time.
func (p *Program) kill(ctx context.Context, all []*instance) error {
	for _, in := range all {
		in.askHurry()
	}
	for _, in := range all {
		if !wait(in.gone, killGrace, nil) {
			return cellproto.Errorf("stop "+p.cfg.Name, cellproto.Failed, "process %d does not die", p.State().PID)
		}
	}
	return cellproto.Errorf("stop "+p.cfg.Name, cellproto.KindOf(ctx.Err()), "the program was killed: %w", ctx.Err())
}

// Close stops the program as Stop does, for good: every later Conn fails with Unavailable.
func (p *Program) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.Stop(ctx)
	if cellproto.KindOf(err) != cellproto.Failed {
		p.runs.Wait()
	}
	return err
}

// Hello gives what the program said when it was started last, and false if it never was.
func (p *Program) Hello() (cellproto.Hello, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hello == nil {
		return cellproto.Hello{}, false
	}
	return *p.hello, true
}

// Served counts the calls that have ended.
func (p *Program) Served() uint64 { return p.served.Load() }

// InFlight gives the number of calls that have begun and not ended.
func (p *Program) InFlight() int { return int(p.inFlight.Load()) }

// State gives a picture of the program.
func (p *Program) State() State {
	why, bad := p.files.refused()
	p.mu.Lock()
	defer p.mu.Unlock()
	if bad && p.swap.Phase == SwapNone { // an earlier nucleus did
		p.swap = SwapState{Phase: SwapRefused, Reason: why.Reason, Hint: why.Hint, Since: why.At}
	}
	s := State{
		Phase: Idle, PID: p.pid, Started: p.started, Starts: p.starts, Crashes: p.crashes,
		InFlight: p.InFlight(), Waiting: p.waiting, LastExit: p.lastExit, Swap: p.swap, Tier: p.tier,
		Counters: Counters{
			Served: p.served.Load(), Refused: p.refused.Load(), LogCut: p.out.cut.Load(), BadLines: p.bad.Load(),
		},
	}
	if last := p.health.last; last != nil && (p.cur == nil || p.phase == Starting || p.phase == Stopping) {
		s.LastError, s.LastHint = last.Error(), last.Hint
	}
	switch {
	case p.cur != nil:
		s.Phase = p.phase
	case p.closed:
		s.Phase = Closed
	case s.LastError != "":
		s.Phase = Failed
	}
	return s
}
