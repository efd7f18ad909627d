package race

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// vendor is a provider of a simulated market.
type vendor struct {
	peer  cellproto.PeerID
	ping  time.Duration
	claim Claim
	takes func(at time.Duration, called int) time.Duration // a whole call

	called, tried, lost int
}

// market is a caller with its providers, in simulated time: each call is over when the next one begins.
type market struct {
	t       *testing.T
	at      time.Duration
	book    *Reputation
	cached  Cached
	trials  Trials
	d       *Decision
	vendors []*vendor
	calls   int
	races   int
	winners []cellproto.PeerID // of the races and trials, without repeats
}

func newMarket(t *testing.T, vendors ...*vendor) *market {
	m := &market{t: t, book: NewReputation(), vendors: vendors}
	m.race(NoWinner)
	return m
}

func (m *market) now() time.Time { return epoch.Add(m.at) }

func (m *market) race(why Reason) {
	m.cached.Begin(why)
	var ms []Measured
	for _, v := range m.vendors {
		obs := m.book.Observed(m.now(), v.peer)
		if obs.Ban != BanNone {
			continue
		}
		obs.Ping = MicrosOf(v.ping)
		ms = append(ms, Measured{Candidate: Candidate{Peer: v.peer}, Claim: v.claim, HasClaim: true, Observed: obs})
	}
	r := Rank(ms)
	m.d = &Decision{Winner: r[0].Peer, Ranking: r, At: m.now()}
	m.cached.Take(m.d)
	m.races++
	m.won()
}

// won notes who has won.
func (m *market) won() {
	if n := len(m.winners); n == 0 || m.winners[n-1] != m.d.Winner {
		m.winners = append(m.winners, m.d.Winner)
	}
}

func (m *market) vendor(p cellproto.PeerID) *vendor {
	return m.vendors[slices.IndexFunc(m.vendors, func(v *vendor) bool { return v.peer == p })]
}

// call makes a call, of a pure function or not, and races when that is due.
func (m *market) call(pure bool) (v *vendor, took time.Duration) {
	m.calls++
	who, first, trial := m.trials.Next(m.now(), m.d, func() bool { return pure })
	if !trial {
		who = m.d.Ranking[0]
	}
	v = m.vendor(who.Peer)
	if first {
		m.book.TrialBegan(m.now(), v.peer)
		v.tried++
	}
	took = v.takes(m.at, v.called)
	v.called++
	m.at += took
	m.book.Called(m.now(), v.peer, 0, took, 0)
	if v.peer == m.cached.Peer {
		m.cached.Called(took)
	}
	if trial {
		switch verdict, all := m.trials.Ended(v.peer, took, 0); verdict {
		case Lost:
			v.lost++
			m.book.TrialLost(m.now(), v.peer)
		case Passed:
			m.book.TrialPassed(m.now(), v.peer, all)
			m.d = m.d.Tried(v.peer, m.book.Observed(m.now(), v.peer))
			if m.d.Winner == v.peer {
				m.cached.Yield(&m.d.Ranking[0])
				m.won()
			}
		}
	}
	if why := m.cached.ShouldRace(m.now(), Policy{}); why != NoReason {
		m.race(why)
	}
	return v, took
}

// run makes calls at a rate until then.
func (m *market) run(until, gap time.Duration) {
	for m.at < until {
		next := m.at + gap
		m.call(m.calls%5 == 0)
		m.at = max(m.at, next)
	}
}

const (
	msec  = time.Millisecond
	quick = 6 * msec
	far   = 65 * msec
	slow  = 500 * msec
)

func always(d time.Duration) func(time.Duration, int) time.Duration {
	return func(time.Duration, int) time.Duration { return d }
}

func farVendor() *vendor {
	return &vendor{peer: "far", ping: 60 * msec, claim: Claim{P50: 1000, P99: 4000, Capacity: 10, Free: 10}, takes: always(far)}
}

func nearVendor(takes func(time.Duration, int) time.Duration) *vendor {
	return &vendor{peer: "near", ping: 5 * msec, claim: Claim{P50: 500, P99: 1000, Capacity: 10, Free: 10}, takes: takes}
}

// A peer that was slow for a moment, as when it was just started, has its place back soon after, however old
// what was measured of it.
func TestBadMomentPasses(t *testing.T) {
	for _, bad := range []time.Duration{time.Second, 10 * time.Second, 5 * time.Minute} {
		for _, gap := range []time.Duration{20 * msec, time.Second} {
			t.Run(fmt.Sprint(bad, " of calls every ", gap), func(t *testing.T) {
				near := nearVendor(func(at time.Duration, _ int) time.Duration {
					if at < bad {
						return slow
					}
					return quick
				})
				m := newMarket(t, farVendor(), near)
				m.run(bad, gap)
				if bad >= 10*time.Second && gap == 20*msec && m.cached.Peer != "far" {
					t.Fatalf("%s serves while the near one is slow", m.cached.Peer)
				}
				begin := m.at
				for m.cached.Peer != "near" && m.at < begin+2*time.Hour {
					m.run(m.at+gap, gap)
				}
				took, most := m.at-begin, bad+trialAfter+trialPatience+20*gap
				if took > most {
					t.Errorf("it is back after %v, want %v at most", took, most)
				}
				m.run(m.at+time.Minute, gap)
				if m.cached.Peer != "near" {
					t.Errorf("%s serves a minute later", m.cached.Peer)
				}
			})
		}
	}
}

// What an advert says against its provider is believed the sooner, the longer that was not called.
func TestOldPraiseFades(t *testing.T) {
	m := Measured{HasClaim: true, Claim: Claim{P50: 100_000, P99: 100_000}, Observed: Observed{Ping: 1000, P50: 3000, P99: 5000, Calls: 100}}
	for age, want := range map[time.Duration]Micros{
		0: 4000, time.Second: 4800, time.Minute: 52_000, 10 * time.Minute: 99_907, time.Hour: 100_000,
	} {
		m.Observed.Age = age
		if p99, own := servingP99(&m); p99 != want || !own {
			t.Errorf("after %v it is %d", age, p99)
		}
	}
	m.Claim.P50, m.Claim.P99, m.Observed.Age = 0, 0, time.Hour
	if p99, _ := servingP99(&m); p99 != 4000 {
		t.Errorf("its own praise makes it %d", p99)
	}
}

// A peer that is slow for good does not get back what it has lost, whatever it claims and however often it
// connects anew: one call at a time, more and more rarely, and never more than one in a hundred.
func TestSlowPeerStaysAway(t *testing.T) {
	for name, c := range map[string]struct {
		gap   time.Duration
		hours int
		back  bool
	}{
		"50 a second":             {20 * msec, 2, false},
		"50 a second, reconnects": {20 * msec, 2, true},
		"one in ten seconds":      {10 * time.Second, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			near := nearVendor(always(slow))
			near.claim = Claim{P50: 1, P99: 1, Capacity: 1000, Free: 1000}
			m := newMarket(t, farVendor(), near)
			m.run(2*time.Minute, c.gap)
			if m.cached.Peer != "far" {
				t.Fatalf("%s serves", m.cached.Peer)
			}
			calls, called, lost := m.calls, near.called, near.lost
			m.winners = nil
			for end := m.at + time.Duration(c.hours)*time.Hour; m.at < end; {
				if c.back {
					m.book.Back(m.now(), m.now(), "near")
				}
				m.run(m.at+time.Second, c.gap)
			}
			calls, called, lost = m.calls-calls, near.called-called, near.lost-lost
			t.Logf("%d of %d calls went to it, in %d trials", called, calls, lost)
			if called != lost {
				t.Errorf("%d calls in %d trials: it had more than one call each", called, lost)
			}
			if lost == 0 || lost > calls/trialCost+1 || lost > 6+c.hours*6 {
				t.Errorf("%d trials of %d calls", lost, calls)
			}
			if len(m.winners) > 1 || m.winners[0] != "far" {
				t.Errorf("the winners were %v", m.winners)
			}
		})
	}
}

// One that is quick while it is tried and slow when it has won gains less and less by it.
func TestTurncoat(t *testing.T) {
	near := nearVendor(nil)
	near.claim = Claim{P50: 1, P99: 1, Capacity: 1000, Free: 1000}
	m := newMarket(t, farVendor(), near)
	near.takes = func(time.Duration, int) time.Duration {
		if m.cached.Peer == "near" {
			return slow
		}
		return quick
	}
	m.run(time.Hour, 20*msec)
	wins := 0
	for _, w := range m.winners {
		if w == "near" {
			wins++
		}
	}
	t.Logf("%d of %d calls went to it, it has won %d times, %d races", near.called, m.calls, wins, m.races)
	if wins > 14 || near.called*100 > m.calls {
		t.Errorf("it has won %d times, and got %d of %d calls", wins, near.called, m.calls)
	}
}

// In steady state nobody is tried, among equals and where what is far claims to be no better.
func TestNothingToFindOut(t *testing.T) {
	equal := func(p cellproto.PeerID) *vendor {
		v := nearVendor(always(quick))
		v.peer = p
		return v
	}
	a, b, c := equal("a"), equal("b"), farVendor()
	m := newMarket(t, a, b, c)
	m.run(time.Hour, 20*msec)
	if n := a.tried + b.tried + c.tried; n > 0 {
		t.Errorf("%d trials", n)
	}
}

// A trial is one call at a time, waits for a pure function unless that takes long, and goes on over races.
func TestTrialStepByStep(t *testing.T) {
	decision := func(at time.Duration, due time.Duration) *Decision {
		return &Decision{Winner: "far", At: epoch.Add(at), Ranking: []Ranked{
			{Candidate: Candidate{Peer: "far"}, Winner: true, Score: 62_000, CallP99: 66_000},
			{Candidate: Candidate{Peer: "near"}, Score: 200_000, Hope: 6000, Due: epoch.Add(due)},
			{Candidate: Candidate{Peer: "hardly better"}, Score: 90_000, Hope: 50_000, Due: epoch},
			{Candidate: Candidate{Peer: "gone"}, Out: "unavailable", Hope: 1, Due: epoch},
		}}
	}
	never, yes := func() bool { return false }, func() bool { return true }
	var tr Trials
	d := decision(0, 5*time.Second)
	next := func(at time.Duration, pure func() bool) (first, ok bool) {
		t.Helper()
		who, first, ok := tr.Next(epoch.Add(at), d, pure)
		if ok && (who.Peer != "near" || !who.Trial || who.CallP99 != 66_000) {
			t.Errorf("the call goes to %+v", who)
		}
		return first, ok
	}
	if _, ok := next(4*time.Second, yes); ok {
		t.Error("it is not due")
	}
	if _, ok := next(6*time.Second, never); ok {
		t.Error("not with a function that is not pure")
	}
	if first, ok := next(6*time.Second, yes); !first || !ok {
		t.Error("it does not begin")
	}
	if _, ok := next(6*time.Second, yes); ok {
		t.Error("a second call at the same time")
	}
	for i := range ownP99Calls - 1 {
		if i == 3 { // what it has to show for itself outlives a race, by which its next trial is far off
			d = decision(7*time.Second, time.Hour)
		}
		if v, _ := tr.Ended("near", 66*msec, 0); v != Undecided {
			t.Errorf("after call %d it is %d", i, v)
		}
		if i%4 == 0 { // an error of the function now and then
			next(8*time.Second, never)
			if v, _ := tr.Ended("near", msec, cellproto.FuncError); v != Undecided {
				t.Errorf("after an error it is %d", v)
			}
		}
		if first, ok := next(8*time.Second, never); first || !ok {
			t.Errorf("call %d is not made", i+1)
		}
	}
	if v, took := tr.Ended("near", msec, 0); v != Passed || len(took) != ownP99Calls {
		t.Errorf("after ten calls it is %d, with %v", v, took)
	}
	d = decision(9*time.Second, 0) // who passes costs nothing: the next one may begin at once
	for _, end := range []struct {
		took time.Duration
		kind cellproto.Kind
	}{{67 * msec, 0}, {msec, cellproto.Unavailable}, {msec, cellproto.FuncError}} {
		if first, ok := next(d.At.Sub(epoch), yes); !first || !ok {
			t.Error("it does not begin")
		}
		if v, _ := tr.Ended("near", end.took, end.kind); v != Lost {
			t.Errorf("it is %d after %+v", v, end)
		}
		if v, _ := tr.Ended("near", msec, 0); v != Undecided {
			t.Error("a call that belongs to no trial counts")
		}
		if _, ok := next(d.At.Sub(epoch), yes); ok {
			t.Error("it is tried again before the next race")
		}
		d = decision(d.At.Sub(epoch)+time.Second, 0)
		for range trialCost - 2 {
			if _, ok := next(d.At.Sub(epoch), yes); ok {
				t.Fatal("two trials in a hundred calls have gone wrong")
			}
		}
	}
}

// What a trial has shown counts at once, in place of what was known: whoever it puts in front of all others wins.
func TestTriedIsRankedAnew(t *testing.T) {
	own := func(peer cellproto.PeerID, ping, p99 Micros, penalty Micros) Measured {
		return Measured{Candidate: Candidate{Peer: peer}, HasClaim: true, Observed: Observed{Ping: ping, P50: p99, P99: p99, Calls: 20, Penalty: penalty}}
	}
	d := &Decision{Winner: "a", At: epoch, Ranking: append(
		Rank([]Measured{own("a", 2000, 22_000, 0), own("b", 1000, 61_000, 0), own("c", 1000, 1_000_000, 9000)}),
		Ranked{Candidate: Candidate{Peer: "gone"}, Out: "unavailable", Kind: cellproto.Unavailable})}
	before := fmt.Sprintf("%+v", d)
	order := func(d *Decision) (all string) {
		for _, k := range d.Ranking {
			if all += " " + string(k.Peer); k.Winner {
				all += "!"
			}
		}
		return all
	}
	for name, c := range map[string]struct {
		peer  cellproto.PeerID
		obs   Observed
		want  string
		score Micros
	}{
		"better than all":    {"c", Observed{P99: 5000, Calls: 10}, " c! a b gone", 3000},
		"with a penalty":     {"c", Observed{P99: 5000, Calls: 10, Penalty: 7000}, " c! a b gone", 10_000},
		"better than one":    {"c", Observed{P99: 31_000, Calls: 10}, " a! c b gone", 16_000},
		"as good":            {"c", Observed{P99: 23_000, Calls: 10}, " a! c b gone", 12_000},
		"still the worst":    {"c", Observed{P99: 91_000, Calls: 10}, " a! b c gone", 46_000},
		"too few calls":      {"c", Observed{P99: 5000, Calls: 9}, " a! b c gone", 509_500},
		"the winner itself":  {"a", Observed{P99: 4000, Calls: 10}, " a! b c gone", 3000},
		"no winner any more": {"a", Observed{P99: 91_000, Calls: 10}, " b! a c gone", 46_500},
		"not measured":       {"gone", Observed{P99: 1, Calls: 10}, " a! b c gone", 0},
	} {
		got := d.Tried(c.peer, c.obs)
		i := slices.IndexFunc(got.Ranking, func(k Ranked) bool { return k.Peer == c.peer })
		if order(got) != c.want || got.Ranking[i].Score != c.score || got.Ranking[i].Score != got.Ranking[i].Parts.Total() {
			t.Errorf("%s:%s, want%s; score %d, want %d", name, order(got), c.want, got.Ranking[i].Score, c.score)
		}
		if fmt.Sprintf("%+v", d) != before {
			t.Fatalf("%s: the decision itself was changed", name)
		}
	}
}

// When to race again does not change when another one is called because of its trial.
func TestYield(t *testing.T) {
	var c Cached
	c.Begin(NoWinner)
	c.Take(&Decision{Winner: "a", At: epoch, Ranking: []Ranked{{Candidate: Candidate{Peer: "a"}, CallP99: 1000}}})
	c.Outrun()
	c.Yield(&Ranked{Candidate: Candidate{Peer: "b"}, Score: 500, CallP99: 800})
	if c.Peer != "b" || c.P99 != 800 || !c.Serves(epoch.Add(time.Second), Policy{}) {
		t.Errorf("it is %+v", c)
	}
	for at, want := range map[time.Duration]Reason{29 * time.Second: NoReason, 30 * time.Second: Expired} {
		if why := c.ShouldRace(epoch.Add(at), Policy{}); why != want {
			t.Errorf("after %v: %q", at, why)
		}
	}
}
