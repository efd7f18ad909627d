package program

import (
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Phase says what the program is doing.
type Phase string

// The phases.
const (
	Idle     Phase = "idle"     // not running; the next request starts it
	Starting Phase = "starting" // running, but it has not said hello
	Running  Phase = "running"
	Frozen   Phase = "frozen"   // its processes are stopped where they are; the next request has them go on
	Stopping Phase = "stopping" // running, but it takes no new calls
	Failed   Phase = "failed"   // not running, because it could not be started or has crashed
	Closed   Phase = "closed"   // not running, and it will not be started again
)

// State is a picture of the program for people.
type State struct {
	Phase     Phase
	PID       int       // 0: not running
	Started   time.Time // of the process that runs, or ran last
	Starts    uint64    // starts tried
	Crashes   uint64    // processes that ended by themselves or lost their connection
	InFlight  int       // calls, those that wait for a start included
	Waiting   int       // requests that wait for a start
	LastExit  string    // how the last process ended: "exit status 1"; "": none has
	LastError string    // of the last start that failed or process that crashed; "" once one has succeeded
	LastHint  string    // what to try
	Swap      SwapState // of the last swap
	Counters  Counters
	Tier      string // of the sandbox, of the process that runs, or ran last; "": of none yet, or none at all
}

// Counters count since New.
type Counters struct {
	Served   uint64 // calls that have ended
	Refused  uint64 // calls that were Overloaded
	LogCut   uint64 // bytes of output that were cut
	BadLines uint64 // lines on the standard output of a jsonl program that are no answer
}

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// stableAfter is the life after which a program counts as started well (DESIGN, "Nucleus").
	stableAfter = 5 * time.Second
	// maxHeld is the longest pause after a crash that requests wait for. With a longer one they are
	// told at once, so that their callers can go elsewhere.
	maxHeld = time.Second
)

// backoff gives the pause after n failures in a row: none, 100 ms, doubling to 10 s.
func backoff(n int) time.Duration {
	switch {
	case n <= 0:
		return 0
	case n > 7: // 100 ms << 7 is past 10 s
		return maxBackoff
	}
	return min(minBackoff<<(n-1), maxBackoff)
}

// health decides when the program may be started again. It has no clock of its own.
type health struct {
	failures int              // in a row
	retryAt  time.Time        // not before
	held     bool             // requests wait for retryAt, if it is near; else they are told at once
	last     *cellproto.Error // nil after a success
}

// startFailed notes a start that failed, or a process that ended before it was of any use.
func (h *health) startFailed(now time.Time, err *cellproto.Error) {
	h.failures++
	pause := backoff(h.failures)
	h.retryAt, h.held, h.last = now.Add(pause), false, err
	h.last.RetryAfter = pause
}

// crashed notes a process that ended by itself after a life in which it served. The first time it
// may be started again at once: one crash must not fail the calls that come after it.
func (h *health) crashed(now time.Time, lived time.Duration, err *cellproto.Error) {
	if lived >= stableAfter {
		h.failures = 0
	}
	pause := backoff(h.failures)
	h.failures++
	h.retryAt, h.held, h.last = now.Add(pause), true, err
	h.last.RetryAfter = pause
}

// succeeded notes a process that was stopped in good order.
func (h *health) succeeded() { *h = health{} }

// mayStart says whether the program may be started now. If not, either pause is how long to wait for
// it, or err is what to answer.
func (h *health) mayStart(now time.Time) (pause time.Duration, err error) {
	left := h.retryAt.Sub(now)
	switch {
	case h.last == nil || left <= 0:
		return 0, nil
	case h.held && left <= maxHeld:
		return left, nil
	}
	e := *h.last
	e.RetryAfter = left
	return 0, &e
}
