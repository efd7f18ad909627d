package call

import (
	"fmt"
	"testing"
)

// However many networks take as much as they get, none has most of it, there is something for a hundred more, and all is given back.
func TestShares(t *testing.T) {
	const most = 512
	s := newShares(most)
	has := map[string]int64{}
	for i := range 128 {
		group := fmt.Sprint(i)
		for s.take(group, 1) {
			has[group]++
		}
		if i == 0 && has[group] != most*3/8 {
			t.Errorf("one alone has %d of %d", has[group], most)
		}
		if has[group] == 0 {
			t.Fatalf("there is nothing for network %d", i)
		}
	}
	if s.take("large", most) {
		t.Error("more is given than there is")
	}
	for group, n := range has {
		s.give(group, n)
	}
	if s.all != 0 || len(s.of) != 0 || !s.take("large", most) {
		t.Errorf("%d are still taken, by %v", s.all, s.of)
	}
}
