package node

import (
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// Only calls keep a hosted mirror: that its nucleus ends and is started anew, as after each pause, is none.
func TestUnusedAcrossRestarts(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	h, c := &hosting{}, &hostedCell{used: begin}
	for _, s := range []struct {
		after  time.Duration
		served int64
		unused time.Duration
	}{
		{time.Minute, 0, time.Minute},
		{2 * time.Minute, 5, 0},
		{5 * time.Minute, 5, 3 * time.Minute},
		{time.Hour, 0, 58 * time.Minute}, // started anew
		{2 * time.Hour, 1, 0},
		{3 * time.Hour, 1, time.Hour},
	} {
		if got := h.note(c, &ctl.Metrics{Served: s.served}, begin.Add(s.after)); got != s.unused {
			t.Errorf("after %v it was unused for %v, want %v", s.after, got, s.unused)
		}
	}
}
