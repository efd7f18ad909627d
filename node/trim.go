package node

import (
	"context"
	"runtime/debug"
	"sync"
	"time"
)

// trimAfter is for how long nobody has asked for anything when memory is given back to the system.
const trimAfter = 3 * time.Second

// trim gives memory back that starting, publishing or a burst of calls has left, once each time it has
// become quiet: by itself the runtime keeps it for minutes, and a nucleus is one of many on a machine.
func (n *nucleus) trim(started *closers) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(trimAfter)
		defer tick.Stop()
		var trimmed time.Time
		for {
			select {
			case now := <-tick.C:
				if trimDue(now, n.lastUsed(), trimmed) {
					debug.FreeOSMemory()
					trimmed = now
				}
			case <-ctx.Done():
				return
			}
		}
	})
	started.add(func() { cancel(); running.Wait() })
}

// trimDue says whether it has been quiet since last for long enough, and memory was not given back since.
func trimDue(now, last, trimmed time.Time) bool {
	return last.After(trimmed) && now.Sub(last) >= trimAfter
}

// lastUsed is when a call or a control request ended last, or began.
func (n *nucleus) lastUsed() time.Time {
	last := n.load().LastEnded
	if at := time.Unix(0, n.active.Load()); at.After(last) {
		return at
	}
	return last
}
