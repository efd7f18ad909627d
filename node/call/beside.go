package call

import (
	"context"
	"sync"
	"sync/atomic"
)

// beside is what goes on beside a call that takes long: it waits, then asks others, and ends with the call. The zero
// value is ready, and costs a call that is answered soon nothing.
type beside[T any] struct {
	settled atomic.Bool // there is an answer that counts, of the call itself or of others

	mu      sync.Mutex
	over    bool               // nobody else is to be asked
	cancel  context.CancelFunc // ends what was begun; nil: nothing yet
	outcome chan T             // gets what came of asking others; nil: nobody is asked
}

// begin gives the context of what goes on, unless the call is over.
func (b *beside[T]) begin(call context.Context) (ctx context.Context, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil, false
	}
	ctx, b.cancel = context.WithCancel(call)
	return ctx, true
}

// asks notes that others are asked now, unless the call is over. Then outcome is due.
func (b *beside[T]) asks() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.outcome = make(chan T, 1)
	}
	return !b.over
}

// ended says of a call that was answered for good, or, if that is not final, has failed, that this is what came of it:
// nobody else has answered before, or is being asked. What goes on beside it ends then; else outcome tells.
func (b *beside[T]) ended(final bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if final {
		b.over = b.settled.CompareAndSwap(false, true)
	} else {
		b.over = b.outcome == nil
	}
	if b.over && b.cancel != nil {
		b.cancel()
	}
	return b.over
}
