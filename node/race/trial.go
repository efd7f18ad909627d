package race

import (
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// What was measured of a peer in a bad moment would keep callers away for good, since who is not called is not
// measured. And what it says of itself must not win it back: that costs a liar nothing. So a peer that would be
// much better than the winner if its measurements were out of date gets one call. If that is as quick as the
// winner's are, it gets the next ones, and ten of these replace what was measured before. If not, it waits twice
// as long for the next trial. All trials that went wrong are at most a hundredth of the calls.

const (
	// trialAfter is how long after the last call that was slow there is a first trial, and twice as long for
	// each one that counts; trialMost is the longest wait, and one of them is forgiven after so long each.
	trialAfter = 5 * time.Second
	trialMost  = 10 * time.Minute
	maxTrials  = 16

	// trialCost is how many calls there are for a trial that goes wrong.
	trialCost = 100

	// trialPatience is for how long a trial that is due waits for a call of a pure function: that is asked of
	// the winner too when it takes long.
	trialPatience = 10 * time.Second

	// lookAhead is for how long a race is the last one, about.
	lookAhead = time.Minute

	// What it hopes for is at most 3/4 of the winner's score: among equals there is nothing to be found out.
	hopeNum, hopeDen = 3, 4
)

// due is from when on the peer may be put on trial. On a connection of which nothing was measured that is slow
// it need not wait since then.
func (rec *record) due(now time.Time) time.Time {
	wait := min(trialAfter<<rec.trials(now), trialMost)
	at := rec.TriedAt.Add(wait)
	if slow := rec.Borne.Add(wait); !rec.Met.After(rec.Borne) && slow.After(at) {
		at = slow
	}
	return at
}

// trials is how many trials still count.
func (rec *record) trials(now time.Time) int {
	return max(rec.Trials-int(max(now.Sub(rec.TriedAt), 0)/trialMost), 0)
}

// TrialBegan records that a peer is put on trial. It counts whatever comes of it: who is quick only while it is
// tried is tried ever more rarely.
func (r *Reputation) TrialBegan(now time.Time, peer cellproto.PeerID) {
	if rec := r.peers[peer]; rec != nil {
		rec.Trials, rec.TriedAt = min(rec.trials(now)+1, maxTrials), now
	}
}

// TrialLost records that a peer is as slow as it was.
func (r *Reputation) TrialLost(now time.Time, peer cellproto.PeerID) {
	if rec := r.peers[peer]; rec != nil {
		rec.Borne = now
	}
}

// TrialPassed replaces what was measured of a peer by how long its calls took in the trial.
func (r *Reputation) TrialPassed(now time.Time, peer cellproto.PeerID, took []time.Duration) {
	rec := r.peers[peer]
	if rec == nil {
		return
	}
	rec.Latency, rec.Aged, rec.At, rec.Borne, rec.p99 = new(Latency), now, now, now, 0
	for _, d := range took {
		rec.Latency.Record(d)
	}
}

// hopeOf is the score of a candidate at its best: as if nothing had been measured but its pings, and the median
// that it claims for a p99, since its own one may stand on the same bad moment.
func hopeOf(m *Measured, s *Score) Micros {
	hope := s.Total() - s.Work
	if m.HasClaim {
		return hope + m.Claim.P50.clamp()/2
	}
	return hope - s.NoAdvert + NoAdvertPenalty
}

// Trials decides which calls of a cell go to a candidate that was slow. The zero value is ready.
type Trials struct {
	debt  int       // calls that have to be made before the next trial
	of    time.Time // of the decision that was looked at
	who   Ranked    // who may be tried; no peer: nobody
	bound Micros    // what each call has to stay under
	begun bool      // the trial is under way
	open  bool      // one of its calls is
	wrong int       // calls that ended with an error of the function
	took  []time.Duration
}

// Next counts a call, and gives whom to ask instead of the winner of d, if anybody. first is that its trial
// begins. Once the call is over, Ended is due. pure says whether the function is; it is asked only if that
// matters.
func (t *Trials) Next(now time.Time, d *Decision, pure func() bool) (who Ranked, first, ok bool) {
	t.debt = max(t.debt-1, 0)
	if !d.At.Equal(t.of) {
		t.look(d)
	}
	if t.who.Peer == "" || t.open {
		return Ranked{}, false, false
	}
	if !t.begun {
		if now.Before(t.who.Due) || t.debt > 0 || now.Before(t.who.Due.Add(trialPatience)) && !pure() {
			return Ranked{}, false, false
		}
		t.begun, first = true, true
		t.debt += trialCost
	}
	t.open = true
	return t.who, first, true
}

// look finds who may be tried: who is under trial already, if that is still of use, else who hopes for the most.
func (t *Trials) look(d *Decision) {
	t.of = d.At
	before := *t
	t.end()
	w := slices.IndexFunc(d.Ranking, func(k Ranked) bool { return k.Winner })
	if w < 0 {
		return
	}
	winner := &d.Ranking[w]
	for _, k := range d.Ranking {
		if k.Out != "" || k.Winner || k.Due.IsZero() || k.Hope*hopeDen > winner.Score*hopeNum {
			continue
		}
		if before.begun && k.Peer == before.who.Peer {
			t.who, t.begun, t.open, t.wrong, t.took = k, true, before.open, before.wrong, before.took
			break
		}
		if !k.Due.After(d.At.Add(lookAhead)) && (t.who.Peer == "" || k.Hope < t.who.Hope) {
			t.who = k
		}
	}
	t.bound = winner.CallP99
	t.who.CallP99, t.who.Trial = t.bound, true
}

// Verdict is what a call of a trial says.
type Verdict uint8

// The verdicts.
const (
	Undecided Verdict = 0 // or the trial is not under way any more
	Lost      Verdict = 1
	Passed    Verdict = 2
)

// Ended takes in how a call to the one on trial went: how long it took, and the kind of its error, 0 for none.
// An error of the function says nothing, as long as they are not the most: it is easy to be quick with those.
// When the trial is passed it gives how long its calls took.
func (t *Trials) Ended(peer cellproto.PeerID, took time.Duration, kind cellproto.Kind) (Verdict, []time.Duration) {
	if !t.open || t.who.Peer != peer {
		return Undecided, nil
	}
	t.open = false
	switch {
	case MicrosOf(took) > t.bound:
		kind = cellproto.Timeout
	case kind == 0:
		t.took = append(t.took, took)
	case kind == cellproto.FuncError, kind == cellproto.BadInput:
		if t.wrong++; t.wrong <= len(t.took) {
			kind = 0
		}
	}
	all := t.took
	switch {
	case kind != 0:
		t.end()
		return Lost, nil
	case len(all) < ownP99Calls:
		return Undecided, nil
	}
	t.end()
	t.debt = max(t.debt-trialCost, 0)
	return Passed, all
}

// end has nobody be tried until the next race.
func (t *Trials) end() {
	t.who, t.begun, t.open, t.wrong, t.took = Ranked{}, false, false, 0, nil
}
