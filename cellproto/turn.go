package cellproto

import (
	"sync"
	"sync/atomic"
	"time"
)

// turn says who reads a connection on which only this side calls. A caller that is alone reads its own
// answer: no other goroutine has to be woken to read it, and none to be told. Otherwise, and when
// nobody has called for a while, the connection's reading goroutine does.
type turn struct {
	mu     sync.Mutex
	who    whose
	reader *reader      // while it is nobody's turn
	wanted atomic.Bool  // the last caller was alone all the time: the next one may read itself
	taken  uint64       // how many turns callers have had
	seen   uint64       // of them, at the last tick
	timer  *time.Timer  // ticks unless it is the goroutine's turn
	resume chan *reader // capacity 1: makes it the goroutine's turn
}

type whose int

const (
	goroutines whose = iota
	callers
	nobodys
)

const (
	// turnTick is how long, at most twice, nobody reads after the last answer, and a caller that is not
	// answered reads: so late it may see its context end.
	turnTick = 5 * time.Millisecond
	// turnLeast is how much of its deadline a caller that reads has left, at the least.
	turnLeast = 4 * turnTick
)

// interruptible is a transport whose Read can be made to return.
type interruptible interface {
	SetReadDeadline(t time.Time) error
}

// newTurn gives nil for a connection that only its own goroutine reads.
func newTurn(t Transport, cfg *Config) *turn {
	if _, ok := t.(interruptible); !ok || !cfg.Opener || cfg.Accept != nil || cfg.Event != nil {
		return nil
	}
	return &turn{resume: make(chan *reader, 1)}
}

// takeTurn makes it the turn of call number alone (0: there are others) if it is nobody's and the
// caller has time; else it sees to it that somebody reads. budget is 0 for a caller without a deadline.
func (c *Conn) takeTurn(alone uint64, budget time.Duration) *reader {
	t := c.turn
	if t == nil {
		return nil
	}
	if alone == 0 || budget > 0 && budget < turnLeast {
		c.needTurn()
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.who != nobodys {
		return nil
	}
	r := t.reader
	t.who, t.reader = callers, nil
	t.taken++
	return r
}

// wasAlone notes whether call number alone, just answered, was the only one all the time.
func (c *Conn) wasAlone(alone uint64) {
	t := c.turn
	if t == nil || alone == 0 && !t.wanted.Load() {
		return
	}
	c.mu.Lock()
	t.wanted.Store(c.begun == alone)
	c.mu.Unlock()
}

// needTurn makes it the goroutine's turn if it is nobody's: something is waited for.
func (c *Conn) needTurn() {
	t := c.turn
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.who == nobodys {
		t.toGoroutine(t.reader)
		t.reader = nil
	}
}

// toGoroutine gives the reading goroutine its turn. t.mu is held.
func (t *turn) toGoroutine(r *reader) {
	t.who = goroutines
	t.resume <- r
}

// readTurn reads for p, and for whoever calls meanwhile, until p has its answer. When that takes long
// it is left to the reading goroutine.
func (c *Conn) readTurn(r *reader, p *pending, alone uint64) {
	defer c.recovered()
	for !p.isSettled() {
		err := c.fill(r)
		switch {
		case err == errInterrupted:
			c.endTurn(r, 0)
			return
		case err != nil:
			c.fail(err)
			return
		case !c.dispatchAll(r):
			return // the connection has ended
		}
		c.flushDirty(r)
	}
	c.endTurn(r, alone)
}

// endTurn ends the turn of call number last. It is nobody's then, if no other call was begun in it,
// and else the goroutine's; so with a last of 0.
func (c *Conn) endTurn(r *reader, last uint64) {
	t := c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	c.mu.Lock()
	nothing := c.begun == last && c.calls.len() == 0 && r.from == r.to
	c.mu.Unlock()
	if nothing {
		t.who, t.reader = nobodys, r
		return
	}
	t.toGoroutine(r)
}

// yieldTurn makes it nobody's turn when there is nothing to read and the last caller would have liked
// to read, and waits until it is the goroutine's again. It reports false when the connection has ended.
func (c *Conn) yieldTurn(r *reader) bool {
	t := c.turn
	if t == nil {
		return true
	}
	t.mu.Lock()
	c.mu.Lock()
	nothing := c.calls.len() == 0 && r.from == r.to // and with t.mu held it stays so
	c.mu.Unlock()
	if !nothing || !t.wanted.Load() {
		t.mu.Unlock()
		return true
	}
	t.who, t.reader, t.seen = nobodys, r, t.taken
	t.wanted.Store(false)
	if t.timer == nil {
		t.timer = time.AfterFunc(turnTick, c.tickTurn)
	} else {
		t.timer.Reset(turnTick)
	}
	t.mu.Unlock()
	select {
	case <-t.resume:
		return true
	case <-c.done:
		return false
	}
}

// tickTurn makes it the goroutine's turn when no caller has had one since the last tick, and
// interrupts a caller whose turn has lasted as long.
func (c *Conn) tickTurn() {
	t := c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	idle := t.taken == t.seen
	t.seen = t.taken
	switch {
	case t.who == goroutines:
		return
	case idle && t.who == nobodys:
		t.toGoroutine(t.reader)
		t.reader = nil
		return
	case idle:
		_ = c.t.(interruptible).SetReadDeadline(time.Unix(1, 0)) // a lost connection needs no interrupt
	}
	t.timer.Reset(turnTick)
}

// stopTurn ends the ticking, with the connection.
func (c *Conn) stopTurn() {
	t := c.turn
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.who = goroutines
	if t.timer != nil {
		t.timer.Stop()
	}
}

// interrupted reports that a read ended because of tickTurn, perhaps in an earlier turn, or because the
// reading goroutine is to look up, and makes the next ones wait again.
func (c *Conn) interrupted(err error) bool {
	t, ok := c.t.(interruptible)
	if !ok || !isTimeout(err) {
		return false
	}
	if c.turn != nil {
		c.turn.mu.Lock()
		defer c.turn.mu.Unlock()
	}
	_ = t.SetReadDeadline(time.Time{}) // a lost connection fails the next read
	return true
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
