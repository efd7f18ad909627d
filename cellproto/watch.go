package cellproto

import (
	"context"
	"time"
)

// watch checks the time limits now and then, until the connection ends.
func (c *Conn) watch() {
	period := c.cfg.FrameTimeout / 2
	if c.cfg.IdleTimeout > 0 {
		period = min(period, c.cfg.IdleTimeout/2)
	}
	tick := time.NewTicker(max(period, time.Millisecond))
	defer tick.Stop()
	use := usage{at: c.born}
	for {
		select {
		case <-c.done:
			return
		case now := <-tick.C:
			c.checkTime(now, &use)
		}
	}
}

// usage is when a call was last in flight, as far as the watch has seen.
type usage struct {
	at    time.Time
	begun uint64
	busy  bool // when it looked last
	ended bool // the connection is being closed because nobody uses it
}

func (c *Conn) checkTime(now time.Time, use *usage) {
	limit := c.cfg.FrameTimeout
	if at := c.partial.Load(); at != 0 && now.Sub(c.born)-time.Duration(at) > limit {
		c.fail(Errorf("read frame", Timeout, "a frame was not complete after %v", limit))
	}
	if c.w.stalled(now) {
		c.fail(Errorf("write frame", Timeout, "the peer took nothing for %v", StallTimeout))
	}
	if c.cfg.IdleTimeout == 0 || use.ended {
		return
	}
	if c.hello.Load() == nil && now.Sub(c.born) > limit {
		c.fail(Errorf("read frame", Timeout, "the peer has not said hello for %v", limit))
	}
	c.mu.Lock()
	busy := c.calls.len() > 0
	if busy || use.busy || c.begun != use.begun {
		use.at, use.begun, use.busy = now, c.begun, busy
	}
	c.mu.Unlock()
	if now.Sub(use.at) >= c.cfg.IdleTimeout {
		use.ended = true
		c.tasks.Go(func() { _ = c.Drain(context.Background(), "idle") }) // without a limit it cuts no call
	}
}
