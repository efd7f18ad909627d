//go:build linux && !race

package cellproto

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// A processor that has nothing to do halts, and to be woken costs 10 to 40 µs in a virtual machine: more than all else of
// a call. So who waits for the messages of several processes in turn looks for the next one for a while before it
// sleeps, as Linux does for sockets (net.core.busy_read) and KVM before it gives a processor back (halt_poll_ns).

const (
	// busyFor is how long a wait is looked through.
	busyFor = 200 * time.Microsecond
	// busyNear is how long the last wait may have taken for the next one to be looked through: one that was slept through took
	// some wake-ups longer.
	busyNear = busyFor * 3 / 2
	// busyRest is how many waits at most go by after one that was looked through in vain.
	busyRest = 255
	// busyMost is how many readers look at a time: a caller's, a program's, and those of two peers.
	busyMost = 4
)

var busy atomic.Int32 // readers that look

// busyPoll says whether a reader that has nothing to read looks again, or sleeps. Its zero value is that of a reader that was asleep for
// long.
type busyPoll struct {
	began time.Time // of this wait; zero: it has not begun
	looks bool
	near  bool // the last wait was short
	pause int  // waits to go by after the next one that is looked through in vain,
	rest  int  // and now
}

// newBusyPoll gives nil where nobody but who looks could run.
func newBusyPoll() *busyPoll {
	if runtime.NumCPU() == 1 {
		return nil
	}
	return new(busyPoll)
}

// again is called when there is nothing to read, and takes the time of a look. It reports false if the reader is to sleep.
func (b *busyPoll) again() bool {
	now := time.Now()
	if b.began.IsZero() {
		b.began = now
		b.looks = b.starts()
	}
	if !b.looks {
		return false
	}
	if now.Sub(b.began) >= busyFor {
		b.stop()
		b.pause = min(2*b.pause+1, busyRest)
		b.rest = b.pause
		return false
	}
	runtime.Gosched()                                              // to who handles what came, on this processor,
	_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) // and to other processes
	return true
}

func (b *busyPoll) starts() bool {
	if b.rest > 0 {
		b.rest--
		return false
	}
	if !b.near {
		return false
	}
	if busy.Add(1) > busyMost {
		busy.Add(-1)
		return false
	}
	return true
}

func (b *busyPoll) stop() {
	b.looks = false
	busy.Add(-1)
}

// over ends a wait, if there was one.
func (b *busyPoll) over() {
	if b.began.IsZero() {
		return
	}
	if b.looks {
		b.stop()
		b.pause = 0
	}
	b.near = time.Since(b.began) < busyNear
	b.began = time.Time{}
}
