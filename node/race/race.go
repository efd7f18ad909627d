package race

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Ask is what a race wants done.
type Ask uint8

// What a race can want.
const (
	AskAdvert Ask = 1 // connect, fetch and verify the advert; then AdvertArrived, AdvertFailed or Failed
	AskPing   Ask = 2 // one ping; then PingArrived or Failed. The round trip counts from the sending
	AskCancel Ask = 3 // nothing more is wanted of this candidate
)

// Action is one thing that the race wants done for one candidate, in the background.
type Action struct {
	Do        Ask
	Candidate Candidate
}

// Ready is what a race hands to its driver.
type Ready struct {
	Actions  []Action  // new since the last Ready
	Decision *Decision // not nil: the race is over and nothing more is wanted of anyone
	Deadline time.Time // when to Tick if nothing else happens before; zero once decided
}

type state uint8

const (
	waits   state = iota // known, not asked yet
	asked                // its advert was asked for
	pinging              // pings are under way
	done                 // measured
	out                  // will not be ranked
)

// runner is a candidate in the race.
type runner struct {
	Candidate
	obs      Observed
	claim    Claim
	hasClaim bool
	hasPath  bool           // Relayed is what was measured
	noAdvert cellproto.Kind // not 0: there will be no advert
	state    state
	started  time.Time // of its probe
	since    time.Time // of what it is waited for now
	finished time.Time // with done
	pings    [maxPings]Micros
	npings   int
	allPings bool // no further ping is coming
	kind     cellproto.Kind
	why      string
}

// stranger says that nothing is known of the candidate but what the network said.
func (rn *runner) stranger() bool { return rn.Source == "dht" && rn.obs.Calls == 0 }

// Race is one race. Candidates may join until it is decided.
//
// Each candidate is asked for its advert and then pinged, one ping after the other. The race is
// decided when all have finished, or a little after the first has: see Config.Grace. At most
// Config.MaxProbed take part at once, in random order; whoever falls out makes room for the next.
type Race struct {
	cfg      Config
	rng      *rand.Rand
	began    time.Time
	now      time.Time
	runners  []*runner
	closed   bool
	actions  []Action
	decision *Decision
}

// New begins a race. The seed decides the order in which candidates are probed: a fresh random one
// for each race, so that nobody can arrange to be probed first. The error is of kind BadInput.
func New(cfg Config, seed uint64, now time.Time) (*Race, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Race{
		cfg:   cfg.withDefaults(),
		rng:   rand.New(rand.NewPCG(seed, 0x63656c6c)),
		began: now,
		now:   now,
	}, nil
}

// Join adds a candidate and what is known of it. One that is in the race already is left alone, but
// that a direct path replaces a relayed one, unless Path has said which it is, and any other source
// the DHT. False says that no more are looked at, so that the search can end: the race is decided,
// closed or full.
func (r *Race) Join(now time.Time, c Candidate, obs Observed) bool {
	if r.decision != nil || r.closed || len(r.runners) >= r.cfg.MaxSeen {
		return false
	}
	if c.Peer == "" {
		return true
	}
	if rn := r.find(c.Peer); rn != nil {
		if rn.Relayed && !c.Relayed && !rn.hasPath {
			rn.Relayed, rn.Key = false, c.Key
		}
		if rn.Source == "dht" {
			rn.Source = c.Source
		}
		return true
	}
	rn := &runner{Candidate: c, obs: obs}
	r.runners = append(r.runners, rn)
	if obs.Ban == BanLying {
		r.drop(rn, cellproto.Corrupt, "banned for wrong answers")
	}
	r.step(now)
	return r.decision == nil && len(r.runners) < r.cfg.MaxSeen
}

// Close says that no more candidates will join.
func (r *Race) Close(now time.Time) {
	r.closed = true
	r.step(now)
}

// Path says whether the connection to the candidate goes through a relay, once that is known.
func (r *Race) Path(peer cellproto.PeerID, relayed bool) {
	if rn := r.find(peer); rn != nil && r.decision == nil {
		rn.Relayed, rn.hasPath = relayed, true
	}
}

// Observe replaces what is known of a candidate, which the race itself may have brought to light.
func (r *Race) Observe(peer cellproto.PeerID, obs Observed) {
	if rn := r.find(peer); rn != nil && r.decision == nil {
		rn.obs = obs
	}
}

// AdvertArrived hands in the advert of a candidate, verified by the caller.
func (r *Race) AdvertArrived(now time.Time, peer cellproto.PeerID, c Claim) {
	if rn := r.active(peer); rn != nil && !rn.hasClaim {
		rn.claim, rn.hasClaim = c, true
		switch {
		case !c.Fits(r.cfg.Accepts):
			r.drop(rn, cellproto.Incompatible, "provides no schema that is accepted here")
		case rn.state == asked:
			r.ping(rn, now)
		}
	}
	r.step(now)
}

// AdvertFailed says that there will be no advert. After Timeout, Unsupported and Overloaded the
// candidate stays, to be judged by its pings, unless Config.Accepts asks for a schema; every other
// kind (no connection, a false signature, another cell) puts it out.
func (r *Race) AdvertFailed(now time.Time, peer cellproto.PeerID, kind cellproto.Kind) {
	if rn := r.active(peer); rn != nil && !rn.hasClaim {
		rn.noAdvert = kind
		alive := kind == cellproto.Timeout || kind == cellproto.Unsupported || kind == cellproto.Overloaded
		switch {
		case !alive || r.strict():
			r.drop(rn, kind, "")
		case rn.state == asked:
			r.ping(rn, now)
		}
	}
	r.step(now)
}

// PingArrived hands in one round trip.
func (r *Race) PingArrived(now time.Time, peer cellproto.PeerID, rtt time.Duration) {
	if rn := r.active(peer); rn != nil && rn.state == pinging && !rn.allPings {
		rn.pings[rn.npings] = max(MicrosOf(rtt), 1)
		rn.npings++
		if rn.npings < r.cfg.Pings {
			r.ping(rn, now)
		} else {
			rn.allPings = true
		}
	}
	r.step(now)
}

// Failed says that the candidate cannot be used: the dial failed, the connection broke, it sent
// garbage. Also one that has finished is out by it.
func (r *Race) Failed(now time.Time, peer cellproto.PeerID, kind cellproto.Kind) {
	if rn := r.find(peer); rn != nil && rn.state != out && r.decision == nil {
		r.drop(rn, kind, "")
	}
	r.step(now)
}

// Tick lets time pass. It is due at Ready.Deadline and harmless at any other time.
func (r *Race) Tick(now time.Time) { r.step(now) }

// Ready hands out what there is to do. Actions are handed out once. Only here are places given to
// candidates: who joined since the last Ready is drawn from as a whole, not in order of arrival, which
// an attacker could arrange.
func (r *Race) Ready() Ready {
	if r.decision == nil {
		r.fill(r.now)
	}
	a := r.actions
	r.actions = nil
	return Ready{Actions: a, Decision: r.decision, Deadline: r.deadline()}
}

func (r *Race) find(peer cellproto.PeerID) *runner {
	for _, rn := range r.runners {
		if rn.Peer == peer {
			return rn
		}
	}
	return nil
}

// active finds a candidate that answers are still taken from.
func (r *Race) active(peer cellproto.PeerID) *runner {
	rn := r.find(peer)
	if rn == nil || r.decision != nil || rn.state == waits || rn.state == out {
		return nil
	}
	return rn
}

// strict says that a candidate without an advert cannot be used.
func (r *Race) strict() bool { return len(r.cfg.Accepts) > 0 }

func (r *Race) drop(rn *runner, kind cellproto.Kind, why string) {
	if rn.state != waits {
		r.actions = append(r.actions, Action{AskCancel, rn.Candidate})
	}
	if kind == 0 {
		kind = cellproto.Failed
	}
	if why == "" {
		why = kind.String()
	}
	rn.state, rn.kind, rn.why = out, kind, why
}

func (r *Race) ping(rn *runner, now time.Time) {
	rn.state, rn.since = pinging, r.clock(now)
	r.actions = append(r.actions, Action{AskPing, rn.Candidate})
}

// clock never goes back: events that were stamped by different goroutines may arrive out of order.
func (r *Race) clock(now time.Time) time.Time {
	if now.After(r.now) {
		r.now = now
	}
	return r.now
}

// step moves everything that the time or the last event allows to move.
func (r *Race) step(now time.Time) {
	now = r.clock(now)
	if r.decision != nil {
		return
	}
	for _, rn := range r.runners {
		if at, ok := r.limit(rn); ok && !now.Before(at) {
			r.expire(rn, now)
		}
		if rn.state == pinging && rn.allPings && r.enough(rn) {
			rn.state, rn.finished = done, now
		}
	}
	if r.due(now) {
		r.decide(now)
	}
}

// enough says that the candidate may be ranked once it has a ping.
func (r *Race) enough(rn *runner) bool { return rn.hasClaim || !r.strict() }

// limit is when the patience with a candidate ends; false when it is not waited for.
func (r *Race) limit(rn *runner) (time.Time, bool) {
	switch {
	case rn.state == asked:
		return rn.since.Add(r.cfg.AdvertTimeout), true
	case rn.state != pinging:
		return time.Time{}, false
	case rn.npings == 0 || rn.allPings: // all pings are here, but the advert, without which it is no use, is not
		return rn.started.Add(r.cfg.ProbeTimeout), true
	default:
		return rn.since.Add(r.cfg.PingTimeout), true
	}
}

func (r *Race) expire(rn *runner, now time.Time) {
	switch {
	case rn.state == asked:
		r.ping(rn, now)
	case rn.npings == 0 || rn.allPings:
		r.drop(rn, cellproto.Timeout, "")
	default:
		rn.allPings = true
	}
}

// fill starts candidates while there is room.
func (r *Race) fill(now time.Time) {
	room := r.cfg.MaxProbed
	for _, rn := range r.runners {
		if rn.state == asked || rn.state == pinging || rn.state == done {
			room--
		}
	}
	for ; room > 0; room-- {
		rn := r.next(now)
		if rn == nil {
			return
		}
		rn.state, rn.started, rn.since = asked, now, now
		r.actions = append(r.actions, Action{AskAdvert, rn.Candidate})
	}
}

// next picks who is probed next, at random. Neither those that are known (called before, or named
// by the owner or the local network) nor strangers get the last quarter of the places while the
// other sort may still come: a flood of strangers cannot crowd out a proven provider, nor the proven
// ones a new copy nearby. Who is banned for failures comes last, and only when nobody else is left.
func (r *Race) next(now time.Time) *runner {
	var waiting [2][]*runner // known, strangers
	var taken [2]int
	var banned []*runner
	busy := false
	for _, rn := range r.runners {
		sort := 0
		if rn.stranger() {
			sort = 1
		}
		switch {
		case rn.state == out:
		case rn.state != waits:
			taken[sort]++
			busy = busy || rn.obs.Ban == BanNone
		case rn.obs.Ban != BanNone:
			banned = append(banned, rn)
		default:
			waiting[sort] = append(waiting[sort], rn)
		}
	}
	share := r.cfg.MaxProbed - r.cfg.MaxProbed/4
	for sort, w := range waiting {
		other := 1 - sort
		if len(w) > 0 && (taken[sort] < share || r.closed && len(waiting[other]) == 0) {
			return w[r.rng.IntN(len(w))]
		}
	}
	if len(banned) > 0 && !busy && len(waiting[0])+len(waiting[1]) == 0 &&
		(r.closed || !now.Before(r.began.Add(lastResort))) {
		return slices.MinFunc(banned, func(a, b *runner) int {
			return a.obs.BannedUntil.Compare(b.obs.BannedUntil)
		})
	}
	return nil
}

// pending counts those that may still finish; hopeful adds the banned ones that may yet be tried.
func (r *Race) pending() (pending, hopeful int) {
	for _, rn := range r.runners {
		switch {
		case rn.state == asked, rn.state == pinging, rn.state == waits && rn.obs.Ban == BanNone:
			pending++
			hopeful++
		case rn.state == waits:
			hopeful++
		}
	}
	return pending, hopeful
}

// graceEnd is when the first answer has waited long enough for the others; false before there is one.
func (r *Race) graceEnd() (end time.Time, ok bool) {
	for _, rn := range r.runners {
		if rn.state != done {
			continue
		}
		wait := min(rn.finished.Sub(rn.started), r.cfg.Grace)
		if r.cfg.Patient {
			wait = patientGrace
		}
		if at := rn.finished.Add(wait); !ok || at.Before(end) {
			end, ok = at, true
		}
	}
	return end, ok
}

// due says that the race is to be decided now.
func (r *Race) due(now time.Time) bool {
	if !now.Before(r.began.Add(r.cfg.Timeout)) {
		return true
	}
	pending, hopeful := r.pending()
	end, ok := r.graceEnd()
	if ok {
		return !now.Before(end) || r.closed && pending == 0
	}
	return r.closed && hopeful == 0
}

// deadline is the next moment at which the passing of time alone changes something.
func (r *Race) deadline() time.Time {
	if r.decision != nil {
		return time.Time{}
	}
	at := r.began.Add(r.cfg.Timeout)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	for _, rn := range r.runners {
		if t, ok := r.limit(rn); ok {
			sooner(t)
		}
		if t := r.began.Add(lastResort); rn.state == waits && rn.obs.Ban != BanNone && t.After(r.now) {
			sooner(t)
		}
	}
	if t, ok := r.graceEnd(); ok {
		sooner(t)
	}
	return at
}
