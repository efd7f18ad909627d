package program

import (
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// launch makes an instance and has it supervised. p.mu is held.
func (p *Program) launch() *instance {
	in := p.instance()
	p.starts++
	p.all[in] = struct{}{}
	p.runs.Go(func() { p.supervise(in) })
	return in
}

// instance makes an instance that has no process yet.
func (p *Program) instance() *instance {
	in := &instance{
		cfg: p.cfg, log: p.log, out: p.out, bad: &p.bad, files: p.files, pids: p.pids, before: p.met,
		stop: make(chan struct{}), hurry: make(chan struct{}), look: make(chan struct{}, 1), parking: make(chan chan struct{}),
		started: make(chan struct{}), left: make(chan struct{}), gone: make(chan struct{}), lending: make(chan struct{}),
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
	return in
}

// begin launches the instance that requests go to. p.mu is held.
func (p *Program) begin() { p.cur, p.phase = p.launch(), Starting }

// supervise is the life of one instance.
func (p *Program) supervise(in *instance) {
	err := in.start()
	took := time.Since(in.begun)
	p.noteStart(in, err)
	if err != nil {
		p.end(in, unstarted)
		return
	}
	p.log.Info("program started", zap.Int("pid", in.proc.pid), zap.Duration("took", took)) // nobody waits for it
	p.attend(in)
}

// attend is the life of one instance from when it has started.
func (p *Program) attend(in *instance) {
	if why := p.watch(in); why != parked {
		p.end(in, why)
	}
}

// end ends what is left of an instance.
func (p *Program) end(in *instance, why reason) {
	p.retire(in, why)
	in.shutdown(why)
	p.noteEnd(in, why)
}

// noteStart notes how the start of an instance went. One that is to replace another takes over later.
func (p *Program) noteStart(in *instance, err *cellproto.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(in.started)
	mine := p.cur == in
	if err == nil || mine {
		p.met = in.meet(err)
	}
	switch {
	case err == nil && mine:
		p.takeOver(in, in.file.trial)
		return
	case err == nil && in != p.candidate: // a swap was faster
		in.askStop(whySwap)
		return
	case err == nil:
		return
	}
	if mine {
		p.phase = Stopping
	}
	// Who stops it while it starts has not found fault with it.
	if mine && !isClosed(in.stop) {
		if in.file.trial {
			p.refuse(in, err)
			return // the requests wait for the one before it
		}
		p.health.startFailed(time.Now(), err)
		p.log.Warn("cannot start the program", zap.Error(err), zap.String("hint", err.Hint), zap.Duration("retry_after", err.RetryAfter))
	}
	in.startErr = err
}

// takeOver has new requests go to in. p.mu is held.
func (p *Program) takeOver(in *instance, trial bool) {
	p.cur, p.phase, p.hello = in, Running, &in.hello
	p.pid, p.started, p.tier = in.proc.pid, in.begun, in.proc.tier
	in.trial = trial
	p.lastEnd.Store(int64(time.Since(p.epoch)))
	p.ready.Store(in.conn)
	in.kick()
	if trial {
		p.setSwap(SwapTrial, nil)
	}
}

// watch waits until the instance ends, is asked to, or is idle for too long. What has lived long
// enough meanwhile has proven itself.
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
		case told := <-in.parking:
			close(told)
			return parked
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
	if p.resting.Load() {
		return forever, false // Rise has it looked at again
	}
	again, inUse := p.prove(in)
	if !inUse || again > 0 {
		return again, false
	}
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
	if in.grants != nil {
		n, at := in.grants.use()
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
	if p.cur != in || isClosed(in.stop) || p.resting.Load() {
		return false
	}
	// A call is begun first and takes the connection then; here the connection goes first and the
	// calls are counted then. So one of the two sees the other. It is the same with the program's own
	// calls and frozen; see launch.
	wasFrozen := in.frozen.Load()
	p.ready.Store(nil)
	in.frozen.Store(phase == Frozen || wasFrozen)
	if idle, busy := p.idleFor(in); busy || idle < limit || in.grants != nil && in.grants.open() > 0 {
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
	if p.cur == in && p.phase == Frozen && !p.resting.Load() {
		p.thaw(in)
	}
}

// retire gives in to nobody any more. A new program that dies early gives way to the one before it.
func (p *Program) retire(in *instance, why reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready.CompareAndSwap(in.conn, nil)
	in.retired = true
	close(in.left)
	if p.resting.Load() && in.frozen.Load() {
		in.askHurry() // to end in good order it would have to run
	}
	if !isClosed(in.hurry) {
		in.thaw() // so that it can end in good order
	}
	if p.cur != in {
		return
	}
	p.phase = Stopping
	if in.trial && in.byItself(why) {
		p.rollBack(in)
	}
}

// noteEnd notes how an instance ended, after which the next one may begin.
func (p *Program) noteEnd(in *instance, why reason) {
	p.mu.Lock()
	p.noteEndLocked(in, why)
	close(in.gone)
	rolledBack := in.rolledBack
	p.mu.Unlock()
	if rolledBack {
		p.files.note()
		p.tellRolledBack(in)
	}
	p.files.dropped(in.file)
}

func (p *Program) noteEndLocked(in *instance, why reason) {
	if in.grants != nil {
		p.countGrants(in)
	}
	delete(p.all, in)
	mine := p.cur == in
	if mine {
		p.cur, p.pid = nil, 0
	}
	if p.prev == in {
		p.prev = nil
	}
	if in.proc != nil {
		p.lastExit = in.proc.status
	}
	if why == unstarted {
		return
	}
	now := time.Now()
	lived := now.Sub(in.begun)
	left := why == asked && in.why == whyGoaway || why != asked && in.conn.Leaving() && in.proc.clean
	if why == asked && !left || left && lived >= stableAfter {
		if mine {
			p.health.succeeded()
		}
		p.log.Info("program stopped", zap.String("exit", in.proc.status), zap.Duration("lived", lived))
		return
	}
	p.crashes++
	err := explainCrash(p.cfg, lived, in.status(why), p.out.tail())
	p.log.Warn("program ended by itself", zap.Error(err))
	switch {
	case in.rolledBack:
		p.refuse(in, err)
	case !mine: // another one serves
	case in.useful() || lived >= stableAfter:
		p.health.crashed(now, lived, err)
	default:
		p.health.startFailed(now, err)
	}
}
