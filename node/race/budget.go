package race

// Budget bounds how many calls of a cell are made twice, so that a provider that becomes slow, which delays all
// calls, does not have its callers double the load of all others at that moment. Every call gives a share of a
// token back, as with the throttling of retries in gRPC; to ask one more provider takes a token. The zero value
// is full.
type Budget struct{ spent int } // in calls

const (
	// budgetShare is how many calls there are for one that is made twice. At most one in a hundred outlasts the
	// p99 of a provider that is as it was.
	budgetShare = 50
	// budgetMost is how many may be made twice at once, of which hedges that could well wait take but the half.
	budgetMost = 10 * budgetShare
)

// Called counts a call.
func (b *Budget) Called() { b.spent = max(b.spent-1, 0) }

// Take takes a token for asking one more provider. early says that this could wait.
func (b *Budget) Take(early bool) bool {
	most := budgetMost
	if early {
		most /= 2
	}
	if b.spent+budgetShare > most {
		return false
	}
	b.spent += budgetShare
	return true
}
