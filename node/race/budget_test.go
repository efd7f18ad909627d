package race

import "testing"

// However many would like to be made twice, at most one in fifty is, and ten more; those that could wait leave
// half of these to the others.
func TestBudget(t *testing.T) {
	for name, c := range map[string]struct {
		early bool
		burst int
	}{"early": {true, 5}, "late": {false, 10}} {
		t.Run(name, func(t *testing.T) {
			var b Budget
			taken := 0
			for b.Take(c.early) {
				taken++
			}
			if taken != c.burst {
				t.Errorf("%d at once", taken)
			}
			const calls = 10_000
			for range calls {
				b.Called()
				if b.Take(c.early) {
					taken++
				}
			}
			if most := calls/budgetShare + c.burst; taken > most || taken < most-1 {
				t.Errorf("%d of %d calls are made twice, want %d", taken, calls, most)
			}
		})
	}
	var b Budget
	for b.Take(true) {
	}
	if !b.Take(false) {
		t.Error("those that could wait leave nothing")
	}
	for range 100 * budgetMost {
		b.Called()
	}
	n := 0
	for b.Take(false) {
		n++
	}
	if n != budgetMost/budgetShare {
		t.Errorf("%d tokens have been saved up", n)
	}
}
