package race

import (
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const (
	// MaxPeers is how many peers a Reputation remembers; evict says which one goes first.
	MaxPeers = 1024

	maxLiars = MaxPeers / 2 // of these that are spared for their lies, about

	// FirstBan and MaxBan bound a ban; each further one in a row is twice as long.
	FirstBan = 15 * time.Second
	MaxBan   = time.Hour

	maxBans = 9 // in a row that are counted: 15 s doubled eight times is past an hour

	// One failure weighs weightOne; the weight halves every failureHalf and with each success.
	// Three in a minute without a success between them ban: a peer that fails every other call
	// stays below that and is only scored down.
	weightOne   = 1000
	weightBan   = 2500 // two and a half, so that three failures spread over 20 s still count
	weightMost  = 8 * weightOne
	failureHalf = time.Minute

	// Failures this close together are one: a lost connection takes all its calls with it.
	failureBurst = 100 * time.Millisecond

	// What is left, at most, of the failures of a peer that has come back: a quarter of one. Else than by an answer
	// it comes back once in so long.
	weightBack = weightOne / 4
	backAgain  = time.Hour

	// A failed attempt costs a caller about this much: to notice, and to start again elsewhere.
	failurePenalty Micros = 100_000

	// A wrong answer costs far more than any delay. Time alone makes it forgotten.
	wrongPenalty Micros = 1_000_000
	wrongHalf           = time.Hour
	wrongMost           = 64 * weightOne

	// Latencies of long ago were measured on another network or another machine. What is left of them speaks
	// for an hour: see trial.go for how a peer lives down what was measured in a bad moment.
	latencyHalf = 10 * time.Minute
	latencyKept = 2 * ownP99Calls
	latencyGone = time.Hour

	// A peer that calls itself overloaded is believed for this long at most.
	maxBusy = time.Minute
)

// Ban says whether a peer should be asked at all.
type Ban uint8

// The sorts of ban.
const (
	BanNone    Ban = 0
	BanFailing Ban = 1 // it failed; asked only if there is nobody else
	BanLying   Ban = 2 // it gave wrong answers; not asked
)

// record is what is remembered of one peer.
type record struct {
	Peer      cellproto.PeerID `json:"peer"`
	Latency   *Latency         `json:"latency,omitempty"`
	Aged      time.Time        `json:"aged,omitzero"`      // until when Latency's records have been halved
	At        time.Time        `json:"at,omitzero"`        // of the last record
	Borne     time.Time        `json:"borne,omitzero"`     // when a call last bore Latency's p99 out
	Met       time.Time        `json:"met,omitzero"`       // when it was connected to, if that was after Borne
	Trials    int              `json:"trials,omitempty"`   // that count; see trial.go
	TriedAt   time.Time        `json:"tried_at,omitzero"`  // when the last one began
	Failures  int              `json:"failures,omitempty"` // weight, in thousandths of a failure
	FailedAt  time.Time        `json:"failed_at,omitzero"` // as of when Failures stands
	BackAt    time.Time        `json:"back_at,omitzero"`   // when it came back, if it has answered no call since
	Wrong     int              `json:"wrong,omitempty"`    // weight, in thousandths of a wrong answer
	WrongAt   time.Time        `json:"wrong_at,omitzero"`
	Bans      int              `json:"bans,omitempty"` // in a row
	BanUntil  time.Time        `json:"ban_until,omitzero"`
	BanFrom   time.Time        `json:"ban_from,omitzero"`
	Lying     bool             `json:"lying,omitempty"` // the sort of the last ban
	BusyUntil time.Time        `json:"busy_until,omitzero"`
	NoDonor   time.Time        `json:"no_donor,omitzero"` // until then it is not asked for a place; see AvoidDonor

	used uint64
	p99  Micros // of Latency, when somebody asked last
}

// Reputation remembers how peers have served this caller: latencies, failures, wrong answers. It
// deprioritises by Penalty, then bans for 15 s doubling to an hour. All of it fades: failures with
// time and with each success, latencies and wrong answers with time.
//
// It is not safe for concurrent use. Its JSON is deterministic.
type Reputation struct {
	peers map[cellproto.PeerID]*record
	clock uint64 // counts uses, for the order of use
}

// NewReputation makes one that remembers nobody.
func NewReputation() *Reputation {
	return &Reputation{peers: map[cellproto.PeerID]*record{}}
}

// Len is how many peers are remembered.
func (r *Reputation) Len() int { return len(r.peers) }

// Liars says whether the last ban of anybody that is remembered was for wrong answers.
func (r *Reputation) Liars() bool {
	for _, rec := range r.peers {
		if rec.Lying {
			return true
		}
	}
	return false
}

// Called records what became of a call: err's kind (0: it succeeded) and how long it took from
// request to reply. This is the one method that a caller needs after each call, except Wrong.
//
// An error of the function, and one that the caller is to blame for, say nothing about the peer: they cost nothing to
// make, and make up for no failure. Nor does Canceled; nor that it refuses the call, as long as nobody else has taken
// it: see Failed.
func (r *Reputation) Called(now time.Time, peer cellproto.PeerID, kind cellproto.Kind, took, retryAfter time.Duration) {
	switch kind {
	case 0:
		r.Succeeded(now, peer, took)
	case cellproto.Overloaded:
		r.Busy(now, peer, retryAfter)
	case cellproto.Corrupt, cellproto.BadReply:
		r.Wrong(now, peer)
	case cellproto.Canceled, cellproto.FuncError, cellproto.BadInput, cellproto.Denied, cellproto.NotFound,
		cellproto.Incompatible, cellproto.Unsupported, cellproto.TooLarge:
	default:
		r.Failed(now, peer)
	}
}

// Succeeded records a call that was answered. It halves the weight of failures and ends a ban for
// failures, so that a peer that was restarted comes back at once.
func (r *Reputation) Succeeded(now time.Time, peer cellproto.PeerID, took time.Duration) {
	rec := r.touch(now, peer)
	if rec == nil {
		return
	}
	rec.record(now, took)
	rec.forgive(now)
}

// Outlasted records that a call was answered by another peer when this one had been silent for so long. That
// is no failure, and no success; but not to count it would have every peer look quick whose slow calls are hedged.
func (r *Reputation) Outlasted(now time.Time, peer cellproto.PeerID, silent time.Duration) {
	if rec := r.touch(now, peer); rec != nil {
		rec.record(now, silent)
	}
}

// Failed records a call that got no answer through the peer's fault, or the network's; or that it has refused, time
// and again, and another one has answered.
func (r *Reputation) Failed(now time.Time, peer cellproto.PeerID) {
	if rec := r.peers[peer]; rec != nil && rec.Failures >= weightOne {
		if d := now.Sub(rec.FailedAt); d >= 0 && d < failureBurst {
			r.touch(now, peer)
			return
		}
	}
	r.FailedApart(now, peer)
}

// FailedApart is Failed for a failure that is known to be another one than the last, however close together they are.
func (r *Reputation) FailedApart(now time.Time, peer cellproto.PeerID) {
	rec := r.touch(now, peer)
	if rec == nil {
		return
	}
	rec.Failures = min(faded(rec.Failures, now.Sub(rec.FailedAt), failureHalf)+weightOne, weightMost)
	rec.FailedAt = now
	// Whoever fails right after a ban has not changed: once is enough.
	probation := rec.bans(now) > 0 && !rec.Lying
	if rec.Failures >= weightBan || probation {
		rec.ban(now, false)
	}
}

// Back records that a peer answers on a connection that was made at the given time, and says whether that
// changes anything. One that had failed before that was lost, and has come back: what was wrong with it is over,
// or will show at once. Who fails again without an answer between has not come back, however often it breaks its
// connections. How slow it was on another connection is worth a trial. A ban stays.
func (r *Reputation) Back(now, connected time.Time, peer cellproto.PeerID) (changed bool) {
	rec := r.peers[peer]
	if rec == nil {
		return false
	}
	again := rec.BackAt.IsZero() || now.Sub(rec.BackAt) >= backAgain
	if again && rec.Failures > weightBack && connected.After(rec.FailedAt) {
		rec.Failures = min(faded(rec.Failures, now.Sub(rec.FailedAt), failureHalf), weightBack)
		rec.FailedAt, rec.BackAt, changed = now, now, true
	}
	if rec.Latency != nil && connected.After(rec.Borne) && connected.After(rec.Met) {
		rec.Met, changed = connected, true
	}
	return changed
}

// Wrong records an answer that was proven false: by a quorum, or by a signature or a hash. It bans
// at once.
func (r *Reputation) Wrong(now time.Time, peer cellproto.PeerID) {
	rec := r.touch(now, peer)
	if rec == nil {
		return
	}
	rec.Wrong = min(rec.lies(now)+weightOne, wrongMost)
	rec.WrongAt = now
	rec.ban(now, true)
}

// Busy records that the peer is overloaded and asked to be left alone for a while, of which a
// minute at most is honoured. It is no failure.
func (r *Reputation) Busy(now time.Time, peer cellproto.PeerID, retryAfter time.Duration) {
	if rec := r.touch(now, peer); rec != nil {
		rec.BusyUntil = now.Add(min(max(retryAfter, failureBurst), maxBusy))
	}
}

// AvoidDonor has a peer that said that it would take a cell up, and has not, not be asked for that for so long,
// MaxBan at most.
func (r *Reputation) AvoidDonor(now time.Time, peer cellproto.PeerID, d time.Duration) {
	if rec := r.touch(now, peer); rec != nil {
		rec.NoDonor = now.Add(min(d, MaxBan))
	}
}

// AvoidsDonor says whether it is not to be asked now.
func (r *Reputation) AvoidsDonor(now time.Time, peer cellproto.PeerID) bool {
	rec := r.peers[peer]
	return rec != nil && now.Before(rec.NoDonor) && rec.NoDonor.Sub(now) <= MaxBan // else the clock was set back
}

// Penalty is what the peer's reputation adds to its score, in µs: recent failures, wrong answers,
// and the rest of the time for which it asked to be left alone.
func (r *Reputation) Penalty(now time.Time, peer cellproto.PeerID) Micros {
	rec := r.peers[peer]
	if rec == nil {
		return 0
	}
	p := Micros(faded(rec.Failures, now.Sub(rec.FailedAt), failureHalf)) * failurePenalty / weightOne
	p += Micros(rec.lies(now)) * wrongPenalty / weightOne
	p += MicrosOf(min(rec.BusyUntil.Sub(now), maxBusy))
	return p.clamp()
}

// Banned says whether the peer is banned now and until when; never longer than an hour from now.
func (r *Reputation) Banned(now time.Time, peer cellproto.PeerID) (Ban, time.Time) {
	rec := r.peers[peer]
	if rec == nil || !rec.banned(now) {
		return BanNone, time.Time{}
	}
	until := rec.BanUntil
	if most := now.Add(MaxBan); until.After(most) { // the clock was set back
		until = most
	}
	if rec.Lying {
		return BanLying, until
	}
	return BanFailing, until
}

// Observed gives what a race needs to know of the peer. It counts as no use.
func (r *Reputation) Observed(now time.Time, peer cellproto.PeerID) Observed {
	rec := r.peers[peer]
	if rec == nil {
		return Observed{}
	}
	o := Observed{
		Failures: (faded(rec.Failures, now.Sub(rec.FailedAt), failureHalf) + weightOne/2) / weightOne,
		Penalty:  r.Penalty(now, peer),
	}
	o.Ban, o.BannedUntil = r.Banned(now, peer)
	rec.age(now)
	if l := rec.Latency; l != nil {
		o.P50, o.P99, o.Calls = l.P50(), l.P99(), l.Count()
		o.Age, o.Due = max(now.Sub(rec.At), 0), rec.due(now)
		rec.p99 = o.P99
	}
	return o
}

// touch finds or makes the record of a peer and marks it as used; nil for no name or one that is
// none.
func (r *Reputation) touch(now time.Time, peer cellproto.PeerID) *record {
	if peer == "" || len(peer) > maxPeerID {
		return nil
	}
	rec := r.peers[peer]
	if rec == nil {
		if len(r.peers) >= MaxPeers {
			r.evict(now)
		}
		rec = &record{Peer: peer}
		r.peers[peer] = rec
	}
	r.clock++
	rec.used = r.clock
	return rec
}

// evict makes room for a peer. Those that lied, and it still counts, stay the longest, lest a liar wash itself clean with
// a thousand new names; but as many names as one likes can be had to lie with, so of them at most maxLiars. Beyond that
// the one goes of whose lies the least is left; else whoever was least recently used.
func (r *Reputation) evict(now time.Time) {
	liars := r.lying(now)
	var victim *record
	least := 0
	for _, rec := range r.peers {
		lies := rec.lies(now)
		if liars > maxLiars && lies == 0 {
			continue
		}
		if victim == nil || lies < least || lies == least && rec.used < victim.used {
			victim, least = rec, lies
		}
	}
	delete(r.peers, victim.Peer)
}

// lying is how many have lied so that it still counts.
func (r *Reputation) lying(now time.Time) (n int) {
	for _, rec := range r.peers {
		if rec.lies(now) > 0 {
			n++
		}
	}
	return n
}

// lies is what is left of the weight of a peer's wrong answers.
func (rec *record) lies(now time.Time) int { return faded(rec.Wrong, now.Sub(rec.WrongAt), wrongHalf) }

// byUse orders the records, the least recently used first.
func (r *Reputation) byUse() []*record {
	out := make([]*record, 0, len(r.peers))
	for _, rec := range r.peers {
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b *record) int {
		if a.used < b.used {
			return -1
		}
		return 1
	})
	return out
}

// record takes in how long a call took.
func (rec *record) record(now time.Time, took time.Duration) {
	rec.age(now)
	if rec.Latency == nil {
		rec.Latency, rec.Aged, rec.Borne, rec.p99 = new(Latency), now, now, 0
	}
	rec.Latency.Record(took)
	rec.At = now
	if 2*MicrosOf(took) >= rec.p99 {
		rec.Borne = now
	}
}

// age halves the latencies for the time that has passed, and forgets them once nothing has borne them out for
// long.
func (rec *record) age(now time.Time) {
	if rec.Latency == nil {
		return
	}
	if now.Before(rec.Borne) { // the clock was set back
		rec.Borne, rec.At, rec.Met = now, now, time.Time{}
	}
	if now.Before(rec.TriedAt) {
		rec.TriedAt = now
	}
	if now.Sub(rec.Borne) >= latencyGone {
		rec.Latency = nil
		return
	}
	rec.Aged = rec.Latency.Fade(now, rec.Aged, latencyHalf, latencyKept)
}

func (rec *record) banned(now time.Time) bool {
	return now.Before(rec.BanUntil) && !now.Before(rec.BanFrom.Add(-MaxBan))
}

// bans is how many bans in a row still count: each hour since the last one forgives one.
func (rec *record) bans(now time.Time) int {
	if rec.BanUntil.IsZero() {
		return 0
	}
	quiet := max(now.Sub(rec.BanUntil), 0)
	return max(rec.Bans-int(quiet/time.Hour), 0)
}

// ban bans for twice as long as the time before. Whatever else happens while a ban lasts is the
// same trouble still, and does not make it longer; but a lie outranks failures.
func (rec *record) ban(now time.Time, lying bool) {
	if rec.banned(now) && (rec.Lying || !lying) {
		return
	}
	rec.Bans = min(rec.bans(now)+1, maxBans)
	rec.Lying = lying
	rec.BanFrom = now
	rec.BanUntil = now.Add(min(FirstBan<<(rec.Bans-1), MaxBan))
}

// forgive is what an answer does for a peer.
func (rec *record) forgive(now time.Time) {
	rec.BackAt = time.Time{}
	if rec.Failures > 0 {
		rec.Failures = faded(rec.Failures, now.Sub(rec.FailedAt), failureHalf) / 2
		rec.FailedAt = now
	}
	if rec.Lying || rec.BanUntil.IsZero() {
		return
	}
	rec.Bans = max(rec.bans(now)-1, 0)
	rec.BanFrom, rec.BanUntil = now, now // ends a ban that runs, and begins the quiet time anew
	if rec.Bans == 0 {
		rec.BanUntil, rec.BanFrom = time.Time{}, time.Time{}
	}
}

// faded is what remains of a weight after d: half after each half-life, linear between, in whole
// numbers, so that every machine gives the same. Time that ran backwards changes nothing.
func faded(weight int, d, half time.Duration) int {
	if d <= 0 || weight == 0 {
		return weight
	}
	n := d / half
	if n >= 32 {
		return 0
	}
	weight >>= n
	return weight - int(int64(weight)*int64(d%half)/int64(2*half))
}
