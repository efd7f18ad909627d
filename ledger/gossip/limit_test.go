package gossip

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// How long a host that was away for a week takes to hear of all that is new, computed from the limits on what one peer may send, on what all of it may
// cost, and on what is asked of one neighbour in one go: from one neighbour, and from eight who all tell the same in the same order. No entry is sent.
func TestCatchingUp(t *testing.T) {
	const registers, size = 10_000, 310                                            // bytes of an entry
	const verify, known, look = 150 * time.Microsecond, 10 * time.Microsecond, 5e6 // of a slow machine; ns between looks at the clock
	catchUp := func(neighbours int) time.Duration {
		var l Limiter
		begin := time.Unix(1000, 0)
		read := make([]int, neighbours)     // how far each is read
		answered := make([]int, neighbours) // bytes, in this minute
		have := make([]bool, registers)
		for now, missing := begin, registers; ; now = now.Add(look) {
			if now.Sub(begin)%pullEvery == 0 {
				clear(answered)
			}
			for n := range read {
				p := peer.ID(fmt.Sprint(n))
				for read[n] < registers && answered[n] < maxRanges*maxPull && l.Wait(now, p) == 0 {
					cost := verify
					if have[read[n]] {
						cost = known
						l.Known(p)
					} else if have[read[n]] = true; missing == 1 {
						return now.Sub(begin)
					} else {
						missing--
					}
					l.Spent(now, cost)
					read[n], answered[n] = read[n]+1, answered[n]+size
				}
			}
		}
	}
	one, eight := catchUp(1), catchUp(8)
	t.Logf("%d new registers: %.0f s from one neighbour, %.0f s from eight", registers, one.Seconds(), eight.Seconds())
	if want := (registers - entryBurst) / entryRate * time.Second; one < want-time.Second || one > want+10*time.Second {
		t.Errorf("from one %v: its rate allows for %v", one, want)
	}
	if eight > time.Minute+15*time.Second {
		t.Errorf("from eight %v", eight)
	}
}
