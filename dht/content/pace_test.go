package content

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const window = 10 * time.Second
	type step struct {
		bytes  int
		waited time.Duration
		left   time.Duration // after it
	}
	least := func() int { p := newPace(window); return p.least() }()
	if least != 80<<10 {
		t.Fatalf("at least %d bytes in %s", least, window)
	}
	for name, steps := range map[string][]step{
		"waiting in vain":           {{0, 4 * time.Second, 6 * time.Second}, {0, 6 * time.Second, 0}},
		"a byte now and then":       {{1, 4 * time.Second, 6 * time.Second}, {1, 4 * time.Second, 2 * time.Second}, {1, 4 * time.Second, 0}},
		"just enough":               {{least / 2, 5 * time.Second, 5 * time.Second}, {least - least/2, 5 * time.Second, window}},
		"one byte too few":          {{least - 1, window, 0}},
		"fast, then nothing":        {{least, time.Millisecond, window}, {0, window, 0}},
		"what it has saved is gone": {{100 * least, time.Millisecond, window}, {least - 1, window, 0}},
	} {
		p := newPace(window)
		for i, s := range steps {
			p.count(s.bytes, s.waited)
			if got := p.left(); got != s.left {
				t.Errorf("%s, step %d: %s are left, want %s", name, i, got, s.left)
			}
		}
	}
}
