package race

import (
	"testing"
	"time"
)

// A peer that was lost and answers on a new connection is as good as new but for a rest; one that fails on
// the connection that it has is not, and no ban is lifted.
func TestBack(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fail := func(failures int) *Reputation {
		r := NewReputation()
		for i := range failures {
			r.Failed(start.Add(time.Duration(i)*time.Second), "p")
		}
		return r
	}
	last := start.Add(time.Second)
	now := start.Add(30 * time.Second)

	r := fail(2)
	before := r.Penalty(now, "p")
	r.Back(now, last.Add(-time.Millisecond), "p")
	if got := r.Penalty(now, "p"); got != before {
		t.Errorf("on its old connection the penalty goes from %v to %v", before, got)
	}
	r.Back(now, last.Add(time.Millisecond), "p")
	got := r.Penalty(now, "p")
	if got <= 0 || got > failurePenalty/4 {
		t.Errorf("on a new connection it goes from %v to %v", before, got)
	}
	r.Back(now.Add(time.Second), now.Add(time.Second/2), "p")
	if again := r.Penalty(now.Add(time.Second), "p"); again >= got || again < got*9/10 {
		t.Errorf("once more it goes from %v to %v", got, again)
	}

	r = fail(4)
	_, until := r.Banned(now.Add(-25*time.Second), "p")
	if until.IsZero() {
		t.Fatal("it is not banned")
	}
	r.Back(now.Add(-25*time.Second), now.Add(-25*time.Second), "p")
	if _, after := r.Banned(now.Add(-25*time.Second), "p"); !after.Equal(until) {
		t.Errorf("its ban ends at %v, not at %v", after, until)
	}
	r = NewReputation()
	r.Succeeded(start, "p", time.Second)
	r.Failed(start.Add(time.Millisecond), "p")
	r.Failed(last, "p")
	now = last.Add(2 * time.Second)
	if r.Back(now, start.Add(-time.Millisecond), "p") {
		t.Error("its old connection is none that it has come back on")
	}
	if o := r.Observed(now, "p"); o.Calls != 1 || !o.Due.After(now) {
		t.Errorf("on its old connection it is as slow as it was: %+v", o)
	}
	if !r.Back(now, last.Add(time.Millisecond), "p") || r.Back(now, last.Add(time.Millisecond), "p") {
		t.Error("on a new one it comes back once")
	}
	if o := r.Observed(now, "p"); o.Calls != 1 || o.Due.IsZero() || o.Due.After(now) {
		t.Errorf("on a new one it may show at once that it is not: %+v", o)
	}
	r.TrialBegan(now, "p")
	r.TrialLost(now, "p")
	r.Back(now, now.Add(time.Millisecond), "p")
	if o := r.Observed(now, "p"); o.Due.Before(now.Add(2 * trialAfter)) {
		t.Errorf("it is tried after each connection that it makes: %+v", o)
	}
	r.Back(now, now, "stranger")
	if r.Len() != 1 {
		t.Error("a stranger is remembered")
	}
}
