package ledger

import "time"

// The window: how much may be used before the total of it is signed. A peer that vanishes costs this.
const (
	MinWindow   = 50_000     // µWh, of strangers: 50 mWh
	MaxWindow   = 50_000_000 // µWh: 50 Wh
	windowShare = 10         // of what was acknowledged before, one tenth
)

// Window gives how many µWh a caller may use without having signed for them, by what it has signed for
// before, in all.
func Window(acknowledged uint64) uint64 {
	return min(max(acknowledged/windowShare, MinWindow), MaxWindow)
}

// SignDue says whether a consumer signs the total again: every 10 s if there is anything new, and when
// half of the window is used.
func SignDue(unsigned, window uint64, since time.Duration) bool {
	return unsigned > 0 && (since >= 10*time.Second || unsigned >= window/2)
}

// PublishDue says whether a register is told to neighbours again: when it has grown by a tenth, after
// ten minutes if there is anything new, and at once when the caller has used more than half of its
// window since: who hurries from host to host is known sooner than it arrives.
func PublishDue(published, credit, window uint64, since time.Duration) bool {
	if credit <= published {
		return false
	}
	gain := credit - published
	return gain >= max(published/10, 1) || since >= 10*time.Minute || gain > window/2
}

// Class is the queue that a request waits in on a busy host.
type Class uint8

// The classes. Idle capacity is free to everybody.
const (
	ClassOwner    Class = iota + 1 // of the host: before all others
	ClassEarned                    // those to whom this host owes something: 95 % of the rest
	ClassStranger                  // all others together: 5 %
)

// String gives the class as status and metrics have it.
func (c Class) String() string {
	switch c {
	case ClassOwner:
		return "owner"
	case ClassEarned:
		return "earned"
	case ClassStranger:
		return "stranger"
	}
	return "unknown"
}

// WeightCap is how much credit counts in the queue, and MaxCurated how many times that a public good on
// a list that the host has chosen counts at most.
const (
	WeightCap  = MaxWindow
	MaxCurated = 4
)

// Standing is what a host knows of a caller when it asks.
type Standing struct {
	Owner        bool   // the host's own user or account
	Banned       bool   // its key log has forked
	Residual     uint64 // µWh that are owed to it (Graph.Residual)
	Room         uint64 // of them, those that the windows let through (Graph.Room)
	Acknowledged uint64 // µWh taken here that it has signed for, in all
	Unsigned     uint64 // µWh taken here that it has not
	Curated      uint64 // 0 or 1, or the factor of a list of public goods
}

// Rank gives the class of a caller and its weight in it. Past its window, or those by which it comes in,
// a caller is a stranger until there is a signature.
func (s Standing) Rank() (Class, uint64) {
	switch {
	case s.Owner:
		return ClassOwner, 1
	case s.Banned || s.Room == 0 || s.Unsigned >= Window(s.Acknowledged):
		return ClassStranger, 1
	}
	return ClassEarned, min(s.Residual, WeightCap) * min(max(s.Curated, 1), MaxCurated)
}
