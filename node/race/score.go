package race

import (
	"cmp"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Micros is a length of time in microseconds, the unit of adverts, scores and tables. Values made
// by this package lie between 0 and one hour, except sums, which are a few hours at most.
type Micros int64

// maxMicros bounds every single quantity, so that no claim, however absurd, overflows a sum. An
// hour is beyond any call that could still be waiting.
const maxMicros = Micros(time.Hour / time.Microsecond)

// MicrosOf converts d; what is negative becomes 0, what is above one hour becomes one hour, and
// what is below a microsecond but not nothing becomes 1.
func MicrosOf(d time.Duration) Micros {
	if d > 0 && d < time.Microsecond {
		return 1
	}
	return Micros(d / time.Microsecond).clamp()
}

// Duration converts back.
func (m Micros) Duration() time.Duration { return time.Duration(m) * time.Microsecond }

func (m Micros) clamp() Micros { return min(max(m, 0), maxMicros) }

// faded is what remains of m, which is within its bounds, after d, as of a weight.
func (m Micros) faded(d, half time.Duration) Micros {
	n := max(d, 0) / half
	if n >= 32 {
		return 0
	}
	m >>= n
	return m - m*Micros(d%half/time.Millisecond)/Micros(2*half/time.Millisecond)
}

const (
	// RelayPenalty is added for a path through a relay. A relay of libp2p's circuit v2 gives a
	// connection 128 KiB and two minutes by default, so a direct path is worth a longer way; 50 ms
	// is about what the detour itself costs across a continent.
	RelayPenalty Micros = 50_000

	// NoAdvertPenalty is added for a candidate whose load is not known, because it gave no advert
	// and was not called before: as long as it was given for the advert.
	NoAdvertPenalty = Micros(advertTimeout / time.Microsecond)

	// defaultService stands in for the p50 of a provider that has a queue but claims to need no
	// time for a request: it cannot be right, and it must not make the queue look free.
	defaultService Micros = 1_000

	// maxQueue bounds a claimed queue: more than any nucleus lets in (cellproto.MaxStreams).
	maxQueue = 1 << 20

	// ownP99Calls is from how many of its own calls on a caller believes its own p99 and no longer
	// the provider's. Below it one cold start would be all there is.
	ownP99Calls = 10

	// ownHalf is how soon its own p99 weighs half against a claim that is worse.
	ownHalf = time.Minute

	// ownP50Calls is from how many of its own calls on the median counts as a lower bound of the
	// p99: the median of three already survives one outlier.
	ownP50Calls = 3
)

// Candidate is somebody who may provide the cell.
type Candidate struct {
	Peer    cellproto.PeerID `json:"peer"`
	Key     string           `json:"-"`                // the caller's own handle, such as addresses; opaque here
	Source  string           `json:"source,omitempty"` // local, mdns, static, dht or mirror
	Relayed bool             `json:"relayed,omitempty"`
}

// Claim is what a provider says of itself in its advert. Nothing in it is believed beyond the
// bounds of this package.
type Claim struct {
	P50, P99 Micros // of its own serving times, the network not included
	Queue    int    // requests that wait
	Capacity int    // requests that it serves at once
	Free     int    // of which are idle now

	Provided []cellproto.SchemaHash // the schemas that it serves
	Accepted []cellproto.SchemaHash // the schemas of callers that it still understands
}

// Fits reports whether the claim names one of the schemas that a caller accepts. A caller that
// accepts nothing in particular accepts everything.
func (c Claim) Fits(accepts []cellproto.SchemaHash) bool {
	if len(accepts) == 0 {
		return true
	}
	return slices.ContainsFunc(accepts, func(h cellproto.SchemaHash) bool {
		return slices.Contains(c.Provided, h) || slices.Contains(c.Accepted, h)
	})
}

// Observed is what a caller has itself measured of a peer. Reputation.Observed fills in all but
// Ping, which each race measures afresh.
type Observed struct {
	Ping        Micros        // median round trip; 0: not measured
	P50, P99    Micros        // of its own calls, from request to reply, the network included
	Calls       int           // how many recent calls P50 and P99 stand on
	Age         time.Duration // since the last of them
	Due         time.Time     // from when on it may be put on trial; zero: it was not measured, so that there is no need
	Failures    int           // recent ones
	Penalty     Micros        // what its reputation costs it
	Ban         Ban           // whether it should be asked at all
	BannedUntil time.Time     // with a Ban
}

// Measured is a candidate with everything that its score is made of.
type Measured struct {
	Candidate
	Claim    Claim
	HasClaim bool // false: it gave no advert
	Observed Observed
}

// Score says how long a call is expected to take, in parts. The least Total wins.
type Score struct {
	Ping       Micros `json:"ping_us"`
	Work       Micros `json:"work_us"`                 // half of the p99 of serving
	Queue      Micros `json:"queue_us,omitempty"`      // waiting behind others
	Relay      Micros `json:"relay_us,omitempty"`      // RelayPenalty
	Reputation Micros `json:"reputation_us,omitempty"` // Reputation.Penalty
	NoAdvert   Micros `json:"no_advert_us,omitempty"`  // NoAdvertPenalty
}

// Total is the sum of the parts.
func (s Score) Total() Micros {
	return s.Ping + s.Work + s.Queue + s.Relay + s.Reputation + s.NoAdvert
}

// ScoreOf scores a candidate: median ping + p99/2 + waiting + penalties.
//
// What the caller has itself observed replaces what the provider claims. Own calls include the
// round trip, which the score counts already, so the ping is taken off them: else whoever was
// called once would look twice as far away as its equal that was not.
//
// The score never falls when the ping, the claimed p99, the queue or a penalty rises.
func ScoreOf(m Measured) Score { return scoreOf(&m) }

func scoreOf(m *Measured) Score {
	p99, own := servingP99(m)
	s := Score{
		Ping:       m.Observed.Ping.clamp(),
		Work:       p99 / 2,
		Reputation: m.Observed.Penalty.clamp(),
	}
	if m.HasClaim {
		s.Queue = waiting(&m.Claim)
	} else if !own {
		s.NoAdvert = NoAdvertPenalty
	}
	if m.Relayed {
		s.Relay = RelayPenalty
	}
	return s
}

// servingP99 is the p99 of serving, without the network, and whether it is the caller's own.
func servingP99(m *Measured) (p99 Micros, own bool) {
	ping := m.Observed.Ping.clamp()
	var claimed Micros
	if m.HasClaim {
		claimed = max(m.Claim.P99.clamp(), m.Claim.P50.clamp())
	}
	if m.Observed.Calls >= ownP99Calls {
		p99 = (m.Observed.P99.clamp() - ping).clamp()
		if worse := claimed - p99; worse > 0 { // the older the measurement, the more what it says against itself counts
			p99 = claimed - worse.faded(m.Observed.Age, ownHalf)
		}
		return p99, true
	}
	p99 = claimed
	if m.Observed.Calls >= ownP50Calls {
		p99 = max(p99, m.Observed.P50.clamp()-ping)
	}
	return p99, false
}

// waiting is the expected wait behind the claimed queue. While all c servers are busy one becomes
// free every S/c on average (departures of an M/M/c queue, Kleinrock, Queueing Systems I, 3.5), and
// everyone in the queue goes first. S is the p50, which one long call does not distort. A full
// provider without a queue costs one such step.
func waiting(c *Claim) Micros {
	ahead := int64(min(max(c.Queue, 0), maxQueue))
	if c.Capacity > 0 && c.Free <= 0 {
		ahead++
	}
	if ahead == 0 {
		return 0
	}
	service := c.P50.clamp()
	if service == 0 {
		service = defaultService
	}
	return Micros(ahead * int64(service) / int64(max(c.Capacity, 1))).clamp()
}

// expectedP99 is the p99 of a whole call as the caller sees it: its own, or the claim on top of the
// round trip, where less than a millisecond of serving is not believed.
func expectedP99(m *Measured) Micros {
	p99, own := servingP99(m)
	if own {
		return max(m.Observed.P99.clamp(), (m.Observed.Ping.clamp() + p99).clamp(), 1)
	}
	return (m.Observed.Ping.clamp() + max(p99, defaultService)).clamp()
}

// Ranked is one line of a race's table.
type Ranked struct {
	Candidate
	Median Micros `json:"median_us"`         // of its pings
	P99    Micros `json:"p99_us"`            // of serving, as the score used it
	Own    bool   `json:"p99_own,omitempty"` // the p99 is the caller's own, not the provider's claim
	Queue  int    `json:"queue"`             // as claimed
	Score  Micros `json:"score_us"`          // the total; 0 with Out
	Parts  Score  `json:"parts,omitzero"`
	Winner bool   `json:"winner"`
	Out    string `json:"out,omitempty"` // why it was not scored; "" if it was

	// Kind is what Out says, for a program. 0 with Out: it had no time to answer, nothing is known
	// against it.
	Kind cellproto.Kind `json:"-"`
	// CallP99 is what 99 of 100 calls should stay under, the network included.
	CallP99 Micros `json:"-"`

	Hope  Micros    `json:"-"` // the score that it would have at its best, if what was measured of it were out of date
	Due   time.Time `json:"-"` // Observed.Due
	Trial bool      `json:"-"` // it was given for a trial: see Trials
}

// Rank scores the candidates and sorts them, the best first; equal ones keep their order. The
// first is marked as winner.
func Rank(ms []Measured) []Ranked {
	type key struct {
		total Micros
		i     int
	}
	keys := make([]key, len(ms))
	for i := range ms {
		keys[i] = key{scoreOf(&ms[i]).Total(), i}
	}
	slices.SortFunc(keys, func(a, b key) int {
		if a.total != b.total {
			return cmp.Compare(a.total, b.total)
		}
		return a.i - b.i
	})
	out := make([]Ranked, len(ms))
	for n, k := range keys {
		m, r := &ms[k.i], &out[n]
		r.Candidate = m.Candidate
		r.Median = m.Observed.Ping.clamp()
		r.P99, r.Own = servingP99(m)
		r.Queue = min(max(m.Claim.Queue, 0), maxQueue)
		r.Score, r.Parts = k.total, scoreOf(m)
		r.Winner = n == 0
		r.CallP99 = expectedP99(m)
		if r.Due = m.Observed.Due; !r.Due.IsZero() {
			r.Hope = hopeOf(m, &r.Parts)
		}
	}
	return out
}
