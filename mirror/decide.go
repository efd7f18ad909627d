package mirror

import (
	"fmt"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// Bounds of Decide.
const (
	// MissesToPlace is how many races in a row the best candidate must miss the objective.
	MissesToPlace = 5
	// DonorPatience is how long donors may take to answer.
	DonorPatience = 2 * time.Second
	// DonorsAgain is how long an answer of a donor counts, and how long nobody is asked again.
	DonorsAgain = 5 * time.Minute
	// YesHolds is how long the yes of a donor counts: less than the 15 s for which it waits to be taken at its word
	// (mirror/offer). Where another one has dawdled for longer, all are asked anew.
	YesHolds = 10 * time.Second
	// RetireIdle is how long nobody must have called a mirror that a newer version has replaced.
	RetireIdle = 10 * time.Minute

	firstRetry = time.Minute // after a placement that failed; doubled each time, up to lastRetry
	lastRetry  = time.Hour
)

// Objective is what a caller wants of a cell. Zero fields are no objective.
type Objective struct {
	MaxP99       time.Duration // of the best candidate, as a race scores it
	MinBandwidth int64         // Mbit/s
	Clone        bool          // a copy may be made when it is missed
}

// Empty says that nothing is wanted.
func (o Objective) Empty() bool { return o.MaxP99 == 0 && o.MinBandwidth == 0 }

// Outcome is what a race said of its best candidate.
type Outcome struct {
	Score     time.Duration // 0: nobody answered
	Bandwidth int64         // Mbit/s, measured; 0: not measured, which is no miss
}

// Misses says whether an outcome is below the objective. That nobody answered always is.
func (o Objective) Misses(r Outcome) bool {
	switch {
	case r.Score <= 0:
		return true
	case o.MaxP99 > 0 && r.Score > o.MaxP99:
		return true
	}
	return o.MinBandwidth > 0 && r.Bandwidth > 0 && r.Bandwidth < o.MinBandwidth
}

// Copy is how far the copy of a cell is.
type Copy uint8

// The states of a copy.
const (
	NoCopy Copy = iota // there is none, here or at a donor
	Making             // somebody makes one
	Here               // it is on this machine
	There              // it is at a donor
)

// Donor is what one donor has answered.
type Donor struct {
	Peer cellproto.PeerID
	RTT  time.Duration // to it
	Yes  bool
	When time.Time // it may be asked again then; zero: no
}

// Situation is all that a decision about one cell rests on.
type Situation struct {
	Objective Objective
	Races     []Outcome          // the newest last
	Placement celltoml.Placement // of the manifest
	Alone     signed.Alone       // of the manifest
	Friend    bool               // the owner of the cell is a friend of this machine's, or the same
	Copy      Copy
	Replaced  bool      // a newer version than that of the copy serves
	LastCall  time.Time // of the copy
	Follows   bool      // a version before it has a copy here that is in use

	HereAllowed bool      // this machine may have a copy: its owner wants so, and a sandbox works
	HaveDonors  bool      // there is somebody to be asked
	AskedDonors time.Time // zero: not yet
	Donors      []Donor   // their answers so far
	Awaited     int       // donors that have not answered

	Failures int       // placements that failed, in a row
	Failed   time.Time // the last of them
}

// Action is what is to be done.
type Action uint8

// The actions.
const (
	Nothing    Action = iota
	AskDonors         // ask the donors in the neighbourhood
	PlaceAt           // have Decision.Donor take the cell up
	MirrorHere        // make a copy on this machine
	Retire            // stop the copy on this machine
)

// String gives the action for people.
func (a Action) String() string {
	return [...]string{"nothing", "ask donors", "place at donor", "mirror here", "retire"}[a]
}

// Decision is what Decide says.
type Decision struct {
	Action Action
	Donor  cellproto.PeerID // with PlaceAt
	Why    string
	Again  time.Time // when to ask again though nothing has changed; zero: no need
}

// Decide says what is to be done about one cell. It is pure.
func Decide(now time.Time, s Situation) Decision {
	if s.Copy != NoCopy {
		return keep(now, s)
	}
	switch {
	case s.Placement == celltoml.PlacementLocal:
		return Decision{Why: "its owner keeps it on one machine"}
	case s.Placement == celltoml.PlacementFriends && !s.Friend:
		return Decision{Why: "its owner gives it to friends only"}
	case s.Alone != "":
		return Decision{Why: s.Alone.String()}
	case s.Follows: // what made the one before worth a copy holds for this one
	case s.Objective.Empty():
		return Decision{Why: "there is no objective"}
	case !s.Objective.Clone:
		return Decision{Why: "no copy is wanted"}
	}
	if n := misses(s.Objective, s.Races); !s.Follows && n < MissesToPlace {
		return Decision{Why: fmt.Sprintf("missed %d times in a row, %d are needed", n, MissesToPlace)}
	}
	if again := s.Failed.Add(backoff(s.Failures)); s.Failures > 0 && now.Before(again) {
		return Decision{Why: fmt.Sprintf("the last of %d placements failed", s.Failures), Again: again}
	}
	if s.Follows {
		return here(s, "the version before it has a copy here")
	}
	return place(now, s)
}

// keep decides about a copy that there is.
func keep(now time.Time, s Situation) Decision {
	switch {
	case s.Copy == Making:
		return Decision{Why: "a copy is being made"}
	case s.Copy == There:
		return Decision{Why: "a donor has a copy"}
	case !s.Replaced:
		return Decision{Why: "there is a copy here"}
	}
	if again := s.LastCall.Add(RetireIdle); now.Before(again) {
		return Decision{Why: "a newer version serves, but this one is still called", Again: again}
	}
	return Decision{Action: Retire, Why: "a newer version serves, and nobody calls this one"}
}

// Missed says that the objective was missed often enough for a copy to be due.
func (s *Situation) Missed() bool { return misses(s.Objective, s.Races) >= MissesToPlace }

// misses counts how often the best candidate missed the objective, back from the newest race.
func misses(o Objective, races []Outcome) (n int) {
	for i := len(races) - 1; i >= 0 && o.Misses(races[i]); i-- {
		n++
	}
	return n
}

func backoff(failures int) time.Duration {
	d := firstRetry
	for i := 1; i < failures && d < lastRetry; i++ {
		d *= 2
	}
	return min(d, lastRetry)
}

// place chooses the place of a copy that is due: a donor near enough, else this machine.
func place(now time.Time, s Situation) Decision {
	if !s.HaveDonors {
		return here(s, "no donor is known")
	}
	if s.AskedDonors.IsZero() || now.Sub(s.AskedDonors) >= DonorsAgain || slices.ContainsFunc(s.Donors, func(d Donor) bool {
		return d.When.After(s.AskedDonors) && !now.Before(d.When)
	}) {
		return Decision{Action: AskDonors, Why: "the objective was missed", Again: now.Add(DonorPatience)}
	}
	if best, ok := nearest(s); ok && now.Sub(s.AskedDonors) >= YesHolds {
		return Decision{Action: AskDonors, Why: "donors have said yes too long ago", Again: now.Add(DonorPatience)}
	} else if ok {
		return Decision{Action: PlaceAt, Donor: best.Peer, Why: fmt.Sprintf("a donor %v away takes it", best.RTT)}
	}
	if until := s.AskedDonors.Add(DonorPatience); s.Awaited > 0 && now.Before(until) {
		return Decision{Why: "donors have not answered yet", Again: until}
	}
	d := here(s, "no donor that is near enough takes it")
	if d.Action == Nothing {
		d.Again = s.AskedDonors.Add(DonorsAgain)
		for _, donor := range s.Donors {
			if donor.When.After(now) && donor.When.Before(d.Again) {
				d.Again = donor.When
			}
		}
	}
	return d
}

func here(s Situation, why string) Decision {
	if !s.HereAllowed {
		return Decision{Why: why + ", and this machine may not"}
	}
	return Decision{Action: MirrorHere, Why: why}
}

// nearest gives the donor that takes the cell and whose round trip is the shortest, if it would meet the
// objective.
func nearest(s Situation) (best Donor, ok bool) {
	for _, d := range s.Donors {
		near := s.Objective.MaxP99 == 0 || d.RTT <= s.Objective.MaxP99
		if d.Yes && near && (!ok || d.RTT < best.RTT) {
			best, ok = d, true
		}
	}
	return best, ok
}
