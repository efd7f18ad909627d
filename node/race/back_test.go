package race

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
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

// Whoever fails each call and breaks its connection each time, so that every race finds it on a new one, is banned like
// anybody else; and is forgiven again once it has answered.
func TestBackWithoutAnAnswer(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := NewReputation()
	failures := 0
	for ban := BanNone; ban == BanNone; ban, _ = r.Banned(now, "p") {
		if failures++; failures > 4 {
			t.Fatalf("after %d failures in a row it is not banned", failures-1)
		}
		r.Failed(now, "p")
		now = now.Add(200 * time.Millisecond)
		r.Back(now, now.Add(-100*time.Millisecond), "p")
	}
	r.Succeeded(now, "p", time.Millisecond)
	r.Failed(now.Add(time.Second), "p")
	now = now.Add(2 * time.Second)
	if !r.Back(now, now, "p") || r.Penalty(now, "p") > failurePenalty/4 {
		t.Errorf("it has answered and comes back with a penalty of %v", r.Penalty(now, "p"))
	}
}

// An error costs nothing to make, and makes up for no failure.
func TestErrorsForgiveNothing(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, kind := range []cellproto.Kind{cellproto.FuncError, cellproto.BadInput} {
		r := NewReputation()
		for i := range 3 {
			r.Failed(now.Add(time.Duration(i)*time.Second), "p")
			r.Called(now.Add(time.Duration(i)*time.Second), "p", kind, time.Millisecond, 0)
		}
		if ban, _ := r.Banned(now.Add(3*time.Second), "p"); ban != BanFailing {
			t.Errorf("%v: it has ban %v", kind, ban)
		}
	}
}

// What is forgiven long after a ban can be read again.
func TestForgivenLongAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := NewReputation()
	for range 3 {
		for i := range 3 {
			r.Failed(now.Add(time.Duration(i)*time.Second), "p")
		}
		now = now.Add(20 * time.Minute)
	}
	r.Succeeded(now.Add(time.Hour), "p", time.Millisecond)
	data, err := json.Marshal(r)
	if err == nil {
		err = NewReputation().UnmarshalJSON(data)
	}
	if err != nil {
		t.Errorf("%s: %v", data, err)
	}
}
