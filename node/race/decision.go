package race

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Decision is the end of a race.
type Decision struct {
	Winner  cellproto.PeerID // "" if nobody could be measured
	Ranking []Ranked         // the measured ones, the best first, then those that are out
	At      time.Time
	Took    time.Duration
	Seen    int // candidates that joined, also those that were never asked

	// Hurried says that somebody might still have answered, so that it is worth racing again,
	// patiently, in the background.
	Hurried bool
}

// decide ranks what has been measured by now, and ends the race.
func (r *Race) decide(now time.Time) {
	pending, _ := r.pending()
	measured := make([]Measured, 0, len(r.runners))
	for _, rn := range r.byFinish() {
		if m, ok := r.measure(rn); ok {
			measured = append(measured, m)
		}
	}
	d := &Decision{
		Ranking: Rank(measured),
		At:      now,
		Took:    now.Sub(r.began),
		Seen:    len(r.runners),
		Hurried: !r.cfg.Patient && (pending > 0 || !r.closed),
	}
	if len(d.Ranking) > 0 {
		d.Winner = d.Ranking[0].Peer
	}
	for _, rn := range r.runners {
		if _, ok := r.measure(rn); ok {
			continue
		}
		switch {
		case rn.state == out:
			d.Ranking = append(d.Ranking, Ranked{Candidate: rn.Candidate, Out: rn.why, Kind: rn.kind})
		case rn.state == waits && rn.obs.Ban != BanNone:
			d.Ranking = append(d.Ranking, Ranked{Candidate: rn.Candidate, Out: "banned after failures", Kind: cellproto.Unavailable})
		case rn.state != waits:
			d.Ranking = append(d.Ranking, Ranked{Candidate: rn.Candidate, Out: "not in time"})
		}
	}
	r.decision = d
	r.actions = nil
}

// measure gives what is known of a candidate that can be ranked: it has a ping, and an advert where
// one is needed. Whoever is in the middle of its pings is ranked by those it has.
func (r *Race) measure(rn *runner) (Measured, bool) {
	if rn.npings == 0 || rn.state != done && rn.state != pinging || !r.enough(rn) {
		return Measured{}, false
	}
	obs := rn.obs
	obs.Ping = median(rn.pings[:rn.npings])
	return Measured{Candidate: rn.Candidate, Claim: rn.claim, HasClaim: rn.hasClaim, Observed: obs}, true
}

// byFinish orders the candidates by when they finished, the unfinished last: of two equal scores
// the quicker one wins.
func (r *Race) byFinish() []*runner {
	rs := slices.Clone(r.runners)
	slices.SortStableFunc(rs, func(a, b *runner) int {
		switch {
		case a.state == done && b.state == done:
			return a.finished.Compare(b.finished)
		case a.state == done:
			return -1
		case b.state == done:
			return 1
		}
		return 0
	})
	return rs
}

// median is the middle one, of an even number the lower of the two in the middle. It keeps its input.
func median(ms []Micros) Micros {
	var buf [maxPings]Micros
	s := buf[:copy(buf[:], ms)]
	slices.Sort(s)
	return s[(len(s)-1)/2]
}

// Next gives the best candidate for which tried is false: the ranked ones in order, then those that
// merely had no time to answer. False when there is nobody left.
func (d *Decision) Next(tried func(cellproto.PeerID) bool) (Ranked, bool) {
	for i := range d.Ranking {
		if r := &d.Ranking[i]; (r.Out == "" || r.Kind == 0) && !tried(r.Peer) {
			return *r, true
		}
	}
	return Ranked{}, false
}

// Ranks says that a peer was measured.
func (d *Decision) Ranks(peer cellproto.PeerID) bool {
	return slices.ContainsFunc(d.Ranking, func(r Ranked) bool { return r.Peer == peer && r.Out == "" })
}

// Demoted gives the decision with a peer behind all others that were measured; d itself if it is there.
func (d *Decision) Demoted(peer cellproto.PeerID) *Decision {
	measured := 0
	for measured < len(d.Ranking) && d.Ranking[measured].Out == "" {
		measured++
	}
	i := slices.IndexFunc(d.Ranking[:measured], func(r Ranked) bool { return r.Peer == peer })
	if i < 0 || i == measured-1 {
		return d
	}
	out := *d
	out.Ranking = slices.Clone(d.Ranking)
	copy(out.Ranking[i:], d.Ranking[i+1:measured])
	out.Ranking[measured-1] = d.Ranking[i]
	return &out
}

// Tried gives the decision with what a trial has shown of a peer in place of what was known of it. It goes before the
// first that it is better than now, and whoever is first then is the winner, without a race: nothing that a race
// measures says more than ten calls do. Without enough calls, or for who was not measured, it gives d itself.
func (d *Decision) Tried(peer cellproto.PeerID, obs Observed) *Decision {
	i := slices.IndexFunc(d.Ranking, func(r Ranked) bool { return r.Peer == peer && r.Out == "" })
	if i < 0 || obs.Calls < ownP99Calls {
		return d
	}
	k := d.Ranking[i]
	k.P99, k.Own, k.Due = (obs.P99.clamp() - k.Median).clamp(), true, obs.Due
	k.Parts.Work, k.Parts.Reputation, k.Parts.NoAdvert = k.P99/2, obs.Penalty.clamp(), 0
	k.Score, k.CallP99 = k.Parts.Total(), max(obs.P99.clamp(), k.Median, 1)
	out := *d
	out.Ranking = slices.Delete(slices.Clone(d.Ranking), i, i+1)
	place := slices.IndexFunc(out.Ranking, func(r Ranked) bool { return r.Out != "" || r.Score > k.Score })
	if place < 0 {
		place = len(out.Ranking)
	}
	out.Ranking = slices.Insert(out.Ranking, place, k)
	for j := range out.Ranking {
		out.Ranking[j].Winner = j == 0
	}
	out.Winner = out.Ranking[0].Peer
	return &out
}

// Err is nil if there is a winner. Else it says how far the race got, with the kind that all
// candidates share, or Unavailable when they differ; NotFound when there were none.
func (d *Decision) Err(op string) error {
	if d.Winner != "" {
		return nil
	}
	if d.Seen == 0 {
		return cellproto.Errorf(op, cellproto.NotFound, "no provider found in %v", d.Took.Round(time.Millisecond)).
			WithHint("Check that somebody runs the cell and announces it, and with cellctl doctor that this machine reaches the network.")
	}
	count := map[string]int{}
	var names []string
	kind := cellproto.Kind(0)
	for i, r := range d.Ranking {
		if count[r.Out] == 0 {
			names = append(names, r.Out)
		}
		count[r.Out]++
		if i == 0 {
			kind = r.Kind
		} else if kind != r.Kind {
			kind = cellproto.Unavailable
		}
	}
	for i, n := range names {
		names[i] = fmt.Sprintf("%d %s", count[n], n)
	}
	switch kind {
	case cellproto.Denied, cellproto.Incompatible, cellproto.Corrupt, cellproto.Overloaded, cellproto.Timeout, cellproto.NotFound:
	default:
		kind = cellproto.Unavailable
	}
	e := cellproto.Errorf(op, kind, "no provider of %d could be used after %v: %s",
		d.Seen, d.Took.Round(time.Millisecond), strings.Join(names, ", "))
	return e.WithHint("See each of them with cellctl race; a provider that was just started may need some seconds to be reachable.")
}
