//go:build linux && !race

package cellproto

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestBusyPoll: a reader looks while messages come quickly, no longer than it may, and ever more rarely while it looks in vain.
func TestBusyPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(busyPoll)
		// wait is one that ends after d; it reports whether it was looked through, to its end or to that of its time.
		wait := func(d time.Duration) (looked bool) {
			for end := time.Now().Add(d); b.again(); time.Sleep(busyFor / 4) {
				looked = true
				if !time.Now().Before(end) {
					break
				}
				if waited := time.Since(b.began); waited >= busyFor {
					t.Fatalf("it looks for %v", waited)
				}
			}
			if !b.looks && !b.began.IsZero() {
				time.Sleep(max(0, d-time.Since(b.began)))
			}
			b.over()
			if n := busy.Load(); n != 0 {
				t.Fatalf("%d look after a wait", n)
			}
			return looked
		}
		for i, w := range []struct {
			took   time.Duration
			looked bool
		}{
			{busyNear / 2, false}, // nothing is known
			{busyFor / 2, true},
			{busyFor / 2, true},
			{time.Second, true}, // in vain
			{busyFor / 2, false},
			{busyFor / 2, true},
			{3 * busyFor, true}, // in vain
			{3 * busyFor, false},
			{busyNear / 2, false}, // the last one took too long
			{busyFor / 2, true},
		} {
			if got := wait(w.took); got != w.looked {
				t.Errorf("wait %d, of %v: looked: %t", i, w.took, got)
			}
		}
		// What comes a little too late costs a look in 256.
		looks := 0
		for range 10 * (busyRest + 1) {
			if wait(busyFor + busyFor/4) {
				looks++
			}
		}
		if looks < 8 || looks > 20 {
			t.Errorf("%d of %d waits were looked through in vain", looks, 10*(busyRest+1))
		}
	})
}

// TestBusyMost: no more than so many readers look at a time.
func TestBusyMost(t *testing.T) {
	readers := make([]busyPoll, busyMost+2)
	looks := 0
	for i := range readers {
		readers[i].near = true
		if readers[i].again() {
			looks++
		}
	}
	for i := range readers {
		readers[i].over()
	}
	if looks != busyMost || busy.Load() != 0 {
		t.Errorf("%d look at a time, %d after it", looks, busy.Load())
	}
}
