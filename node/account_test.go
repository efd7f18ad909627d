package node

import "testing"

// Three neighbours who have never heard of an account do not confirm that its log ends where a backup does.
func TestWhoKnowsAKeyLog(t *testing.T) {
	for _, c := range []struct {
		length, have uint64
		begun, want  bool
	}{
		{0, 0, false, true}, // there is no log yet, and nobody has one
		{0, 0, true, false}, // it was begun, and is lost here
		{4, 4, true, true},
		{5, 4, true, true},
		{0, 4, true, false},
		{3, 4, true, false},
	} {
		if got := says(c.length, c.have, c.begun); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
