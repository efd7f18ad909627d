package program

import (
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// begin makes the next instance and has it supervised. p.mu is held.
func (p *Program) begin() {
	in := &instance{
		cfg: p.cfg, log: p.log, out: p.out, bad: &p.bad, dismissed: p.retireGranted,
		stop: make(chan struct{}), hurry: make(chan struct{}), look: make(chan struct{}, 1),
		started: make(chan struct{}), gone: make(chan struct{}),
	}
	if p.accept != nil {
		in.accept = func(c *cellproto.Conn, f *cellproto.Frame) {
			p.accept(c, f)
			p.lastEnd.Store(int64(time.Since(p.epoch))) // who calls others is no sleeper
			if in.frozen.Load() {
				p.unfreeze(in)
			}
		}
	}
	p.cur, p.phase = in, Starting
	p.starts++
	p.runs.Go(func() { p.supervise(in) })
}

// supervise is the life of one instance.
func (p *Program) supervise(in *instance) {
	err := in.start()
	p.noteStart(in, err)
	why := unstarted
	if err == nil {
		why = p.watch(in)
		p.retire(in)
	}
	in.shutdown(why)
	p.noteEnd(in, why)
}

func (p *Program) noteStart(in *instance, err *cellproto.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(in.started)
	p.started = in.begun
	if in.proc != nil {
		p.pid = in.proc.pid
	}
	if err != nil {
		p.phase = Stopping
		if !isClosed(in.stop) { // who stops it while it starts has not found fault with it
			p.health.startFailed(time.Now(), err)
			p.log.Warn("cannot start the program", zap.Error(err), zap.String("hint", err.Hint), zap.Duration("retry_after", err.RetryAfter))
		}
		in.startErr = err
		return
	}
	p.hello = &in.hello
	p.phase = Running
	p.lastEnd.Store(int64(time.Since(p.epoch)))
	p.ready.Store(in.conn)
	p.log.Info("program started", zap.Int("pid", p.pid), zap.Duration("took", time.Since(in.begun)))
}

// watch waits until the instance ends, is asked to, or is idle for too long.
func (p *Program) watch(in *instance) reason {
	timer := time.NewTimer(forever)
	defer timer.Stop()
	for {
		again, over := p.tend(in)
		if over {
			in.askStop("idle")
			return asked
		}
		timer.Reset(again)
		select {
		case <-in.stop:
			return asked
		case <-in.proc.exited:
			return exited
		case <-in.connDone:
			return connLost
		case <-in.look:
		case <-timer.C:
		}
	}
}

// forever is longer than any nucleus runs.
const forever = 100 * 365 * 24 * time.Hour

// tend freezes an instance that nobody has used for FreezeAfter, and says that it is over for one that
// nobody has used for IdleTimeout; it has retired that. Else it gives after what time to look again.
func (p *Program) tend(in *instance) (again time.Duration, over bool) {
	idle, busy := p.idleFor(in)
	stop, freeze := p.cfg.IdleTimeout, p.cfg.FreezeAfter
	if in.background || in.frozen.Load() {
		freeze = 0
	}
	if busy {
		idle = 0
	}
	stopNow, freezeNow := stop > 0 && idle >= stop, freeze > 0 && idle >= freeze
	if stopNow || freezeNow {
		in.dismiss(dismissGrace)
	}
	switch {
	case stopNow && p.retireIdle(in, stop, Stopping):
		return 0, true
	case !stopNow && freezeNow && p.retireIdle(in, freeze, Frozen):
		freeze = 0
	case stopNow || freezeNow: // somebody came meanwhile
		idle = 0
	}
	again = forever
	if stop > 0 {
		again = min(again, stop-idle)
	}
	if freeze > 0 {
		again = min(again, freeze-idle)
	}
	return max(again, 0), false
}

// idleFor gives how long nobody has used in, unless somebody does.
func (p *Program) idleFor(in *instance) (idle time.Duration, busy bool) {
	inbound, outbound := in.conn.InFlight()
	busy = p.inFlight.Load() > 0 || inbound+outbound > 0
	last := time.Duration(p.lastEnd.Load())
	if p.granted != nil {
		n, at := p.granted(in.conn)
		busy = busy || n > 0
		last = max(last, at.Sub(p.epoch))
	}
	return time.Since(p.epoch) - last, busy
}

// retireIdle takes away the connection to an instance that has been idle for limit, and has it stop,
// or freezes it. It reports false when somebody has begun to use it.
func (p *Program) retireIdle(in *instance, limit time.Duration, phase Phase) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isClosed(in.stop) {
		return false
	}
	// A call is begun first and takes the connection then; here the connection goes first and the
	// calls are counted then. So one of the two sees the other. It is the same with the program's own
	// calls and frozen: see instance.take.
	wasFrozen := in.frozen.Load()
	p.ready.Store(nil)
	in.frozen.Store(phase == Frozen || wasFrozen)
	if idle, busy := p.idleFor(in); busy || idle < limit {
		in.frozen.Store(wasFrozen)
		if wasFrozen {
			p.thaw(in)
		} else {
			p.ready.Store(in.conn)
		}
		return false
	}
	p.phase = phase
	if phase == Frozen {
		in.proc.signal(syscall.SIGSTOP)
		p.log.Debug("program frozen", zap.Int("pid", in.proc.pid))
	}
	return true
}

// thaw has a frozen instance go on. p.mu is held.
func (p *Program) thaw(in *instance) {
	if in.thaw() {
		p.lastEnd.Store(int64(time.Since(p.epoch)))
		p.log.Debug("program thawed", zap.Int("pid", in.proc.pid))
	}
	p.phase = Running
	p.ready.Store(in.conn)
	in.kick()
}

// unfreeze is thaw for a program that has called somebody just before it was frozen.
func (p *Program) unfreeze(in *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == in && p.phase == Frozen {
		p.thaw(in)
	}
}

// retire gives in to nobody any more.
func (p *Program) retire(in *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready.CompareAndSwap(in.conn, nil)
	p.phase = Stopping
	in.thaw() // so that it can end in good order
}

// noteEnd notes how an instance ended, after which the next one may begin.
func (p *Program) noteEnd(in *instance, why reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(in.gone)
	p.cur, p.pid = nil, 0
	if in.proc != nil {
		p.lastExit = in.proc.status
	}
	now := time.Now()
	lived := now.Sub(in.begun)
	left := why == asked && in.why == whyGoaway || why != asked && why != unstarted && in.conn.Leaving() && in.proc.clean
	switch {
	case why == unstarted:
		return
	case why == asked && !left, left && lived >= stableAfter:
		p.health.succeeded()
		p.log.Info("program stopped", zap.String("exit", in.proc.status), zap.Duration("lived", lived))
		return
	}
	p.crashes++
	err := explainCrash(p.cfg, lived, in.status(why), p.out.tail())
	if in.useful() || lived >= stableAfter {
		p.health.crashed(now, lived, err)
	} else {
		p.health.startFailed(now, err)
	}
	p.log.Warn("program ended by itself", zap.Error(err), zap.Duration("retry_after", err.RetryAfter))
}
