package race

import (
	"encoding/json"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Reason says why it is time to race.
type Reason string

// The reasons to race.
const (
	NoReason   Reason = ""          // go on with the winner
	NoWinner   Reason = "no winner" // nothing is known yet
	Failure    Reason = "failure"   // a call to the winner failed
	Slow       Reason = "slow call" // a call took over 1.5 times the p99, and 5 ms more than it
	ManyCalls  Reason = "calls"     // Policy.EveryCalls were made since the last race
	Expired    Reason = "expired"   // the decision is older than Policy.Keep
	Unfinished Reason = "hurried"   // the last race did not wait for everyone
	Missed     Reason = "objective" // the caller's objective was missed; for the caller to say
	Watched    Reason = "watched"   // somebody watches the races; likewise
)

// Policy says how long a winner is believed. The zero value is the default; so is a zero field.
type Policy struct {
	Keep  time.Duration // a winner is raced again after this; default 30 s
	Stale time.Duration // past this it is not used until a race has confirmed it; default 10 min
	// EveryCalls is after how many calls it is raced again as well. Default: 1,000, or 125 for each message
	// of the last race if that is more, so that racing stays below a hundredth of the calls.
	EveryCalls int
	// MinGap is the least time between two races for any reason but a failure; default 1 s. So
	// that heavy tails, which are slow now and then by nature, do not make a caller race all the
	// time, the gap for slow calls doubles with each race that they were the reason for, up to Keep,
	// until there was none between two races. The same goes for failures once the race that one was
	// the reason for was won by who had failed: it answers pings, and a further race finds no more.
	MinGap time.Duration
}

// slowNum/slowDen is the 1.5 of "a call took over 1.5x the cached p99". By less than slowLeast any call is late
// now and then: that is the scheduler of one of the two machines, and no other provider would do better.
const (
	slowNum, slowDen = 3, 2
	slowLeast        = 5000 // µs
)

func (p Policy) withDefaults() Policy {
	if p.Keep <= 0 {
		p.Keep = 30 * time.Second
	}
	if p.Stale <= 0 {
		p.Stale = 10 * time.Minute
	}
	if p.MinGap <= 0 {
		p.MinGap = time.Second
	}
	return p
}

// Cached is the winner that calls go to, and what has happened since it won. The zero value has no
// winner. It is stored as winner.json.
//
// The old winner serves while a new race runs: Begin, then Take or Give up.
type Cached struct {
	Peer    cellproto.PeerID `json:"peer"`
	Source  string           `json:"source,omitempty"`
	Score   Micros           `json:"score_us"`
	P99     Micros           `json:"p99_us"` // of whole calls, as expected when it won
	Decided time.Time        `json:"decided"`
	Calls   int              `json:"calls"`             // since then
	Hurried bool             `json:"hurried,omitempty"` // Decision.Hurried
	Slows   int              `json:"slows,omitempty"`   // races for slow calls in a row
	Fails   int              `json:"fails,omitempty"`   // races for failures in a row that it has won in spite of them
	Asked   int              `json:"asked,omitempty"`   // candidates that the race measured

	slow   bool
	failed bool      // since the last success
	outrun bool      // likewise
	hurt   bool      // a failure that no race has followed yet
	racing Reason    // why the race that runs now was begun
	gaveUp time.Time // when the last race ended without a result
}

// Called counts a call to the winner that was answered, and notes whether it was slow. Calls with
// bodies are as slow as the body is long: for them took is 0.
func (c *Cached) Called(took time.Duration) {
	c.Calls++
	c.failed, c.outrun = false, false
	c.slow = c.slow || c.isSlow(took)
}

// Replied counts a call to the winner that it has answered with an error, which is not to its credit.
func (c *Cached) Replied() { c.Calls++ }

// Failed notes that a call to the winner failed by its fault. Until the next success or the next
// race it does not serve.
func (c *Cached) Failed() { c.failed, c.hurt = true, true }

// Outrun notes that the winner was silent on a call for so long that another one answered it. Until its
// next success or the next race it does not serve; that race is due as for any slow call.
func (c *Cached) Outrun() { c.outrun, c.slow = true, true }

// Late notes that a call took so long, of which somebody else has answered the end.
func (c *Cached) Late(took time.Duration) {
	c.Calls++
	c.slow = c.slow || c.isSlow(took)
}

// Yield has calls go to one that is better from now on, though there was no race: see Decision.Tried. When to race
// again stays as it was.
func (c *Cached) Yield(to *Ranked) {
	c.Peer, c.Source, c.Score, c.P99 = to.Peer, to.Source, to.Score, to.CallP99
	c.Fails, c.slow, c.failed, c.outrun = 0, false, false, false
}

func (c *Cached) isSlow(took time.Duration) bool {
	late := MicrosOf(took) - c.P99
	return c.P99 > 0 && late > slowLeast && late*slowDen > c.P99*(slowNum-slowDen)
}

// Serves says that calls go to the winner now, whether a race runs or not. If not, a call takes the
// next of the last ranking or waits for a race.
func (c *Cached) Serves(now time.Time, p Policy) bool {
	return c.Peer != "" && !c.failed && !c.outrun && !c.stale(now, p.withDefaults())
}

// stale says that the decision is too old to call the winner unasked. One from the future, but for
// the moment by which concurrent callers read their clocks apart, was made before the clock was set
// back: its age is unknown.
func (c *Cached) stale(now time.Time, p Policy) bool {
	age := now.Sub(c.Decided)
	return age >= p.Stale || age < -p.MinGap
}

// ShouldRace says whether to begin a race now, and why. It costs a few nanoseconds, so that it can
// be asked at every call. While a race runs the answer is NoReason.
func (c *Cached) ShouldRace(now time.Time, p Policy) Reason {
	p = p.withDefaults()
	age := now.Sub(c.Decided) // or, if later, since a race was given up
	if c.gaveUp.After(c.Decided) {
		age = now.Sub(c.gaveUp)
	}
	switch {
	case c.racing != NoReason:
		return NoReason
	case c.Peer == "":
		return NoWinner
	case (c.hurt || c.failed) && (c.Fails == 0 || age >= p.gap(c.Fails-1)):
		return Failure
	case age >= p.Keep, c.stale(now, p):
		return Expired
	case c.slow && age >= p.gap(c.Slows):
		return Slow
	case age < p.MinGap:
		return NoReason
	case c.Calls >= c.everyCalls(p):
		return ManyCalls
	case c.Hurried:
		return Unfinished
	}
	return NoReason
}

// gap is MinGap, doubled so often, up to Keep.
func (p Policy) gap(doubled int) time.Duration {
	return min(p.MinGap<<min(doubled, 20), max(p.Keep, p.MinGap))
}

// everyCalls is after how many calls to race again.
func (c *Cached) everyCalls(p Policy) int {
	if p.EveryCalls > 0 {
		return p.EveryCalls
	}
	return max(defaultEvery, messageShare*(1+pings)*c.Asked)
}

const (
	defaultEvery = 1000
	messageShare = 125 // calls for each message of a race: an advert, and the pings
)

// Begin notes that a race for this reason has begun.
func (c *Cached) Begin(why Reason) {
	c.racing = why
	c.hurt = false
}

// Take switches to the winner of the race that Begin noted. A race without one is given up.
func (c *Cached) Take(d *Decision) {
	why := c.racing
	if d.Winner == "" {
		c.GiveUp(d.At)
		return
	}
	w := d.Ranking[0]
	next := Cached{
		Peer: w.Peer, Source: w.Source, Score: w.Score, P99: w.CallP99,
		Decided: d.At, Hurried: d.Hurried,
		hurt: c.hurt && c.Peer == w.Peer, // it failed again while the race ran
	}
	for i := range d.Ranking {
		if d.Ranking[i].Out == "" {
			next.Asked++
		}
	}
	if c.Peer == w.Peer && (why == Failure || c.failed || c.hurt) {
		next.Fails = c.Fails + 1
	}
	if why == Slow {
		next.Slows = c.Slows + 1
	} else if c.slow {
		next.Slows = c.Slows
	}
	*c = next
}

// GiveUp notes that the race ended without a result. The winner stays as it was, and what was due,
// unless it is a failure, is due again later.
func (c *Cached) GiveUp(now time.Time) {
	c.racing = NoReason
	c.slow, c.Hurried, c.Calls = false, false, 0
	c.gaveUp = now
}

// ParseCached reads winner.json. What cannot be is an error of kind Corrupt: race as if there were
// no file.
func ParseCached(data []byte) (Cached, error) {
	const op = "read winner.json"
	var c Cached
	if len(data) > maxWinnerJSON {
		return Cached{}, cellproto.Errorf(op, cellproto.Corrupt, "%d bytes are more than it can have", len(data))
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return Cached{}, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	if c.Peer == "" || len(c.Peer) > maxPeerID || c.Score < 0 || c.P99 < 0 || c.P99 > maxMicros || c.Calls < 0 || c.Slows < 0 || c.Fails < 0 || c.Asked < 0 || c.Asked > cellproto.MaxProviders {
		return Cached{}, cellproto.Errorf(op, cellproto.Corrupt, "impossible values")
	}
	return c, nil
}
