package race

import (
	"testing"
	"time"
)

// A race for a peer regained is held at once, but not again for a minute, and the calls pay for it before the next one that
// only age asks for; who calls seldom waits for that for a minute at most.
func TestRegainedIsPaidFor(t *testing.T) {
	c := Cached{}
	won := func(at time.Duration) {
		c.Begin(c.ShouldRace(epoch.Add(at), Policy{}))
		c.Take(&Decision{Winner: "a", At: epoch.Add(at), Ranking: []Ranked{{Candidate: Candidate{Peer: "a"}}, {}, {}}})
	}
	want := func(at time.Duration, why Reason) {
		t.Helper()
		if got := c.ShouldRace(epoch.Add(at), Policy{}); got != why {
			t.Errorf("after %v: %q, want %q", at, got, why)
		}
	}
	calls := func(n int) {
		for range n {
			c.Called(time.Millisecond)
		}
	}
	won(0)
	calls(500)
	c.Regained()
	want(10*time.Second, Regained)
	won(10 * time.Second)
	if c.Owed != 8 { // 12 messages, of which 500 calls have paid for 4
		t.Errorf("%d messages are owed", c.Owed)
	}
	c.Regained()
	want(30*time.Second, NoReason)
	calls(1500) // for the next one only
	want(40*time.Second, NoReason)
	calls(1000)
	want(40*time.Second, Expired)
	won(40 * time.Second)
	want(69*time.Second, NoReason)
	c.Regained()
	want(69*time.Second, NoReason)
	want(70*time.Second, Expired) // nothing is owed any more
	won(70 * time.Second)
	c.Regained()
	want(75*time.Second, Regained)
	won(75 * time.Second)
	want(134*time.Second, NoReason)
	want(135*time.Second, Expired)
}
