package program

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// SwapPhase says how far the last swap has come.
type SwapPhase string

// The phases of a swap.
const (
	SwapNone       SwapPhase = ""            // there was none
	SwapWaiting    SwapPhase = "waiting"     // the file is still being written, as far as can be told
	SwapStarting   SwapPhase = "starting"    // the new program has not said hello, or is being looked at
	SwapTrial      SwapPhase = "trial"       // it serves, and the one before it stands by
	SwapDone       SwapPhase = "swapped"     // it has proven itself
	SwapRefused    SwapPhase = "refused"     // it could not be started or was not wanted; it never served
	SwapRolledBack SwapPhase = "rolled back" // it served and died early; the one before it serves again
)

// SwapState is how far the last swap has come, for people.
type SwapState struct {
	Phase  SwapPhase
	Reason string // of waiting, refused and rolled back
	Hint   string
	Since  time.Time
}

// Candidate is a program that is to take over from the one that runs.
type Candidate struct {
	// Fit is asked, once the new program has said hello, whether it may take over; its error is why
	// not. Nil: it may.
	Fit func(ctx context.Context, c *cellproto.Conn) error
	// Moved is called as soon as new requests go to it, before Swap returns. Nil: nothing.
	Moved func(c *cellproto.Conn)
}

// Swap replaces the program that runs by what is in Config.Binary now, without dropping a call: it
// starts the new one beside the old, waits until it says hello, asks c.Fit, and has new requests go to
// it. It returns then. The old one finishes its calls, and stands by until the new one has lived for
// 5 s; if that dies earlier, the old one takes over again, which Deps.RolledBack and State tell.
//
// The error is what is wrong with the new program, which is then not started again until the file is
// replaced, or Swap is called. Until it has taken over nothing is different for the old one. When ctx
// ends first, nothing has happened. One swap runs at a time; the others wait.
func (p *Program) Swap(ctx context.Context, c Candidate) error {
	op := "swap " + p.cfg.Name
	select {
	case p.swapping <- struct{}{}:
		defer func() { <-p.swapping }()
	case <-ctx.Done():
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w while another swap went on", ctx.Err())
	}
	if err := checkWhole(p.cfg, p.files.bin); err != nil {
		return p.swapFailed(nil, err)
	}
	p.files.forgive()
	in, before, err := p.launchBeside()
	if err != nil {
		return err
	}
	if err := p.audition(ctx, in, c); err != nil {
		stopped := isClosed(in.stop)
		in.askStop("it does not take over")
		switch {
		case ctx.Err() != nil:
			p.withdraw(before)
			return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w before the new program was ready", ctx.Err())
		case stopped: // by somebody who has not found fault with it
			p.withdraw(before)
			return err
		}
		return p.swapFailed(in, err)
	}
	if c.Moved != nil {
		c.Moved(in.conn)
	}
	return nil
}

// launchBeside launches the instance that is to take over, and gives the state of the last swap.
func (p *Program) launchBeside() (*instance, SwapState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, SwapState{}, cellproto.Errorf("swap "+p.cfg.Name, cellproto.Unavailable, "the nucleus is stopping")
	}
	before := p.swap
	p.candidate = p.launch()
	p.setSwap(SwapStarting, nil)
	return p.candidate, before, nil
}

// audition waits until in is ready, looks at it, and has it take over.
func (p *Program) audition(ctx context.Context, in *instance, c Candidate) error {
	select {
	case <-in.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	if in.startErr != nil {
		return in.startErr
	}
	if c.Fit != nil {
		if err := c.Fit(ctx, in.conn); err != nil && !p.isRetired(in) {
			return err
		}
	}
	if err := ctx.Err(); err != nil { // what Fit has found out may be nothing then
		return err
	}
	old, ok := p.move(in)
	if !ok { // it died, or all is being stopped
		<-in.gone
		if isClosed(in.stop) {
			return startError(p.cfg, "it was stopped while it started")
		}
		return explainCrash(p.cfg, time.Since(in.begun), in.status(exited), p.out.tail())
	}
	if old != nil {
		in.log.Info("the new program has taken over", zap.Int("pid", in.proc.pid), zap.Int("old_pid", old.proc.pid))
		p.runs.Go(func() { old.dismiss(cellproto.DrainTimeout) })
	}
	return nil
}

func (p *Program) isRetired(in *instance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return in.retired
}

// move has new requests go to in, and the one that they went to stand by. Calls in flight go on there.
func (p *Program) move(in *instance) (old *instance, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.candidate = nil
	if in.retired || p.closed || isClosed(in.stop) || !usable(in.conn) {
		return nil, false
	}
	if p.prev != nil { // of a swap that is still on trial: this one ends it
		p.prev.askStop(whySwap)
		p.prev = nil
	}
	switch {
	case p.cur != nil && (p.phase == Running || p.phase == Frozen):
		old = p.cur
	case p.cur != nil && p.phase == Starting: // of what was in bin/ before, perhaps
		p.cur.askStop(whySwap)
	}
	p.prev = old
	p.health.succeeded()
	p.takeOver(in, true)
	return old, true
}

// withdraw takes back a swap that nobody waits for any more.
func (p *Program) withdraw(before SwapState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.candidate = nil
	if p.swap.Phase == SwapStarting {
		p.swap = before
	}
}

// swapFailed notes why a new program does not take over. in is nil if it was not started.
func (p *Program) swapFailed(in *instance, cause error) error {
	e := asStartError(p.cfg, cause)
	phase := SwapRefused
	if Unfinished(cause) {
		phase = SwapWaiting
	}
	p.mu.Lock()
	p.candidate = nil
	told := phase == SwapWaiting && p.swap.Phase == phase && p.swap.Reason == e.Error() // it is looked at again and again
	if !told {
		p.setSwap(phase, e)
	}
	p.mu.Unlock()
	if told {
		return e
	}
	p.log.Warn("the new program does not take over", zap.Error(e), zap.String("hint", e.Hint))
	if in != nil && phase == SwapRefused {
		p.files.refuse(in.file, e.Error(), e.Hint)
		p.files.note()
	}
	return e
}

// setSwap notes how far the swap is. p.mu is held.
func (p *Program) setSwap(phase SwapPhase, why *cellproto.Error) {
	p.swap = SwapState{Phase: phase, Since: time.Now()}
	if why != nil {
		p.swap.Reason, p.swap.Hint = why.Error(), why.Hint
	}
}

// prove ends the trial of an instance that has lived long enough: it is the one to go back to now, and
// the one that stood by is stopped. Before that, left is how long the trial still takes. inUse is false
// for an instance that requests do not go to.
func (p *Program) prove(in *instance) (left time.Duration, inUse bool) {
	p.mu.Lock()
	if p.cur != in {
		p.mu.Unlock()
		return forever, false
	}
	trial := in.trial
	if trial {
		if left := p.trialTime - time.Since(in.begun); left > 0 {
			p.mu.Unlock()
			return left, true
		}
		in.trial = false
		p.setSwap(SwapDone, nil)
		if p.prev != nil {
			p.prev.askStop(whySwap)
			p.prev = nil
		}
	}
	p.mu.Unlock()
	if trial && in.grants != nil && p.proven != nil {
		p.proven()
	}
	if !in.proven {
		in.proven = true
		p.files.proven(in.file)
	}
	return 0, true
}

// rollBack has new requests go to the program that in has replaced: at once if it stands by, else it
// is started again once in is gone. Without one, in has crashed like any other. p.mu is held.
func (p *Program) rollBack(in *instance) {
	old := p.prev
	p.prev = nil
	switch {
	case old != nil && !old.retired && !isClosed(old.stop) && usable(old.conn):
		p.cur, p.hello, p.pid, p.started = old, &old.hello, old.proc.pid, old.begun
		p.phase = Frozen
		if !old.frozen.Load() {
			p.phase = Running
			p.ready.Store(old.conn)
		}
		old.kick()
	case !p.files.fallback(in.file):
		return
	}
	in.rolledBack = true
	p.files.refuse(in.file, "", "") // why is known when it has ended
	p.setSwap(SwapRolledBack, nil)
}

// refuse notes why the program before in is taken up again. p.mu is held.
func (p *Program) refuse(in *instance, why *cellproto.Error) {
	in.rolledBack = true
	p.files.refuse(in.file, why.Error(), why.Hint)
	p.setSwap(SwapRolledBack, why)
	p.log.Warn("the new program is no good, the one before it is taken up again", zap.Error(why), zap.String("hint", why.Hint))
}

// tellRolledBack tells whoever has to know that in does not serve any more.
func (p *Program) tellRolledBack(in *instance) {
	if p.rolledBack == nil {
		return
	}
	p.mu.Lock()
	reason := p.swap.Reason
	p.mu.Unlock()
	p.rolledBack(in.conn, errors.New(reason))
}

// Current gives the connection to the program that runs, frozen or not; nil if none does.
func (p *Program) Current() *cellproto.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == nil || p.phase != Running && p.phase != Frozen {
		return nil
	}
	return p.cur.conn
}

// NotWaiting says that nobody writes a new program any more.
func (p *Program) NotWaiting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swap.Phase == SwapWaiting {
		p.swap = SwapState{}
	}
}

// Binary gives the path of the file that runs, or that the next start executes: the one in bin/, or the
// last good one if that was refused.
func (p *Program) Binary() string {
	p.mu.Lock()
	cur := p.cur
	running := cur != nil && (p.phase == Running || p.phase == Frozen)
	p.mu.Unlock()
	if running {
		return p.files.of(cur.file)
	}
	if _, bad := p.files.refused(); bad {
		return p.files.kept()
	}
	return p.files.bin
}
