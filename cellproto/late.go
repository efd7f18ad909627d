package cellproto

import (
	"context"
	"sync"
	"time"
)

// lateContext is a context with a deadline that makes its timer when somebody asks for Done. Most calls end
// long before: Conn.Call does not ask, since the connection has one timer for all of them.
type lateContext struct {
	context.Context // the parent
	deadline        time.Time

	mu     sync.Mutex
	inner  context.Context // nil: nobody has asked
	cancel context.CancelFunc
	over   bool
}

// WithTimeout is context.WithTimeout for who makes calls: it costs little where nobody waits for the
// context itself. from is the time now.
func WithTimeout(parent context.Context, from time.Time, timeout time.Duration) (context.Context, context.CancelFunc) {
	deadline := from.Add(timeout)
	if sooner, ok := parent.Deadline(); ok && sooner.Before(deadline) {
		return context.WithCancel(parent)
	}
	c := &lateContext{Context: parent, deadline: deadline}
	return c, c.end
}

func (c *lateContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.inner != nil {
		c.cancel()
	}
}

// Deadline is that of context.Context, as are the others.
func (c *lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *lateContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithDeadline(c.Context, c.deadline)
		if c.over {
			c.cancel()
		}
	}
	return c.inner.Done()
}

func (c *lateContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inner != nil:
		return c.inner.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case c.over:
		return context.Canceled
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value finds inner as what a context made of this one is canceled by.
func (c *lateContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.Context.Value(key)
}

// wait is what a caller waits for besides its answer.
type wait struct {
	done <-chan struct{}
	due  time.Duration // after Conn.born; 0: done tells of the deadline
}

func (c *Conn) waitOf(ctx context.Context) wait {
	if late, ok := ctx.(*lateContext); ok {
		return wait{late.Context.Done(), max(late.deadline.Sub(c.born), 1)}
	}
	return wait{done: ctx.Done()}
}

// armDue sees to it that expire comes at due. c.mu is held.
func (c *Conn) armDue(due time.Duration) {
	if c.nextDue != 0 && c.nextDue <= due {
		return
	}
	c.nextDue = due
	left := due - time.Since(c.born)
	if c.dueTimer == nil {
		c.dueTimer = time.AfterFunc(left, c.expire)
	} else {
		c.dueTimer.Reset(left)
	}
}

// expire ends the calls whose time is over. Their entries stay, as after Cancel, which the callers call: what
// still comes for them is dropped.
func (c *Conn) expire() {
	var late []*pending
	c.mu.Lock()
	now, next := time.Since(c.born), time.Duration(0)
	c.calls.each(func(e *entry) {
		switch {
		case e.due == 0:
		case e.due > now:
			if next == 0 || e.due < next {
				next = e.due
			}
		default:
			// With the entry here no last frame is on its way to it: it is still this call's.
			late = append(late, e.sink.(*pending))
			e.sink, e.due = discard{}, 0
		}
	})
	if c.nextDue = 0; next != 0 && c.closed == nil {
		c.armDue(next)
	}
	c.mu.Unlock()
	for _, p := range late {
		p.mu.Lock()
		p.settle(context.DeadlineExceeded)
		p.mu.Unlock()
	}
}

// stopDue stops the timer, with the connection.
func (c *Conn) stopDue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dueTimer != nil {
		c.dueTimer.Stop()
	}
}
