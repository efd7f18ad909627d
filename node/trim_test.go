package node

import (
	"testing"
	"time"
)

func TestTrimDue(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		last, trimmed time.Time
		want          bool
	}{
		"quiet for the first time": {now.Add(-trimAfter), time.Time{}, true},
		"not for long enough":      {now.Add(1 - trimAfter), time.Time{}, false},
		"already given back":       {now.Add(-time.Minute), now.Add(-50 * time.Second), false},
		"used again since":         {now.Add(-10 * time.Second), now.Add(-50 * time.Second), true},
		"in use":                   {now, now.Add(-time.Minute), false},
	} {
		if got := trimDue(now, c.last, c.trimmed); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
