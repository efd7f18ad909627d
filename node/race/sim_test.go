package race

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

// simulated is a provider of a simulated network.
type simulated struct {
	peer    cellproto.PeerID
	joins   time.Duration
	advert  time.Duration // until its advert is here; 0: never
	rtt     time.Duration // 0: no pings
	claim   Claim
	obs     Observed
	source  string
	relayed bool
	refuses cellproto.Kind // not 0: what comes instead of the advert
}

func (s simulated) measured() Measured {
	o := s.obs
	o.Ping = max(MicrosOf(s.rtt), 1)
	return Measured{Candidate: Candidate{Peer: s.peer, Source: s.source, Relayed: s.relayed}, Claim: s.claim, HasClaim: true, Observed: o}
}

type event struct {
	at   time.Duration
	what func(now time.Time)
}

// simulate runs a race in virtual time and returns the decision. It fails the test if the race
// does not end, asks too much, or would have to be ticked in the past.
func simulate(t rapid.TB, cfg Config, seed uint64, closes time.Duration, nodes []simulated) *Decision {
	r, err := New(cfg, seed, epoch)
	if err != nil {
		t.Fatal(err)
	}
	by := map[cellproto.PeerID]simulated{}
	var queue []event
	for _, n := range nodes {
		by[n.peer] = n
		queue = append(queue, event{n.joins, func(now time.Time) {
			r.Join(now, Candidate{Peer: n.peer, Source: n.source, Relayed: n.relayed}, n.obs)
		}})
	}
	queue = append(queue, event{closes, r.Close})
	busy := map[cellproto.PeerID]bool{}
	now := time.Duration(0)
	for range 10000 {
		ready := r.Ready()
		for _, a := range ready.Actions {
			n := by[a.Candidate.Peer]
			switch {
			case a.Do == AskCancel:
				delete(busy, n.peer)
				continue
			case a.Do == AskAdvert && n.refuses != 0:
				queue = append(queue, event{now + n.advert, func(now time.Time) { r.AdvertFailed(now, n.peer, n.refuses) }})
			case a.Do == AskAdvert && n.advert > 0:
				queue = append(queue, event{now + n.advert, func(now time.Time) { r.AdvertArrived(now, n.peer, n.claim) }})
			case a.Do == AskPing && n.rtt > 0:
				queue = append(queue, event{now + n.rtt, func(now time.Time) { r.PingArrived(now, n.peer, n.rtt) }})
			}
			busy[n.peer] = true
		}
		if len(busy) > cellproto.MaxProbed {
			t.Fatalf("%d candidates are probed at once", len(busy))
		}
		if ready.Decision != nil {
			return ready.Decision
		}
		tick := ready.Deadline.Sub(epoch)
		if tick < now {
			t.Fatalf("deadline %v is before %v", tick, now)
		}
		slices.SortStableFunc(queue, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		if len(queue) > 0 && queue[0].at <= tick {
			e := queue[0]
			queue = queue[1:]
			now = max(now, e.at)
			e.what(epoch.Add(now))
		} else {
			now = tick
			r.Tick(epoch.Add(now))
		}
	}
	t.Fatalf("the race does not end; it is %v", now)
	return nil
}

func genNode(peer string) *rapid.Generator[simulated] {
	return rapid.Custom(func(t *rapid.T) simulated {
		ms := func(most int, name string) time.Duration {
			return time.Duration(rapid.IntRange(0, most*10).Draw(t, name)) * 100 * time.Microsecond
		}
		n := simulated{
			peer: cellproto.PeerID(peer), joins: ms(50, "joins"), advert: ms(400, "advert"), rtt: ms(300, "rtt"),
			source:  rapid.SampledFrom([]string{"dht", "mdns", "static"}).Draw(t, "source"),
			relayed: rapid.Bool().Draw(t, "relayed"),
			claim: Claim{P50: Micros(rapid.IntRange(0, 50_000).Draw(t, "p50")), P99: Micros(rapid.IntRange(0, 200_000).Draw(t, "p99")),
				Queue: rapid.IntRange(-1, 100).Draw(t, "queue"), Capacity: rapid.IntRange(-1, 10).Draw(t, "capacity"), Free: rapid.IntRange(0, 10).Draw(t, "free")},
			obs: Observed{Ban: rapid.SampledFrom([]Ban{BanNone, BanNone, BanNone, BanFailing, BanLying}).Draw(t, "ban")},
		}
		if rapid.IntRange(0, 5).Draw(t, "refuses") == 0 {
			n.refuses = cellproto.Kind(rapid.IntRange(1, 14).Draw(t, "kind"))
		}
		return n
	})
}

func genNodes(t *rapid.T, least, most int) []simulated {
	nodes := make([]simulated, rapid.IntRange(least, most).Draw(t, "nodes"))
	for i := range nodes {
		nodes[i] = genNode(fmt.Sprintf("p%02d", i)).Draw(t, fmt.Sprintf("p%02d", i))
	}
	return nodes
}

// Whatever the network does, the race ends in time, and its table is in order.
func TestRaceEndsWithTheBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := genNodes(t, 0, 80)
		cfg := Config{Patient: rapid.Bool().Draw(t, "patient")}
		closes := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "closes")) * time.Millisecond
		d := simulate(t, cfg, rapid.Uint64().Draw(t, "seed"), closes, nodes)
		if d.Took > cellproto.DefaultTimeout {
			t.Fatalf("took %v", d.Took)
		}
		if d.Seen > cellproto.MaxProviders {
			t.Fatalf("looked at %d", d.Seen)
		}
		scored := 0
		for i, r := range d.Ranking {
			if r.Out != "" {
				continue
			}
			scored++
			if i > 0 && (d.Ranking[i-1].Out != "" || d.Ranking[i-1].Score > r.Score) {
				t.Fatalf("place %d is out of order", i)
			}
			if r.Winner != (r.Peer == d.Winner) || r.Score < d.Ranking[0].Score {
				t.Fatalf("the winner %s is not the least score", d.Winner)
			}
			for _, n := range nodes {
				if n.peer == r.Peer && (n.obs.Ban == BanLying || n.rtt == 0) {
					t.Fatalf("%s should not be ranked", r.Peer)
				}
			}
		}
		if (scored > 0) != (d.Winner != "") || (d.Winner == "") != (d.Err("race") != nil) {
			t.Fatalf("%d were measured but the winner is %q", scored, d.Winner)
		}
	})
}

// The first answer never waits for a slow candidate: whoever else takes part, the decision comes
// at the latest when the first one has finished and the others had as long again, or 50 ms.
func TestSlowCandidatesDelayNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := genNodes(t, 1, 4) // with two more they are as many as are probed of one sort
		good := genNode("good").Draw(t, "good")
		good.refuses, good.obs.Ban = 0, BanNone
		good.advert = min(max(good.advert, time.Millisecond), advertTimeout-time.Millisecond)
		good.rtt = max(good.rtt, time.Millisecond)
		alone := good.advert + pings*good.rtt
		bound := good.joins + alone + min(alone, grace)

		seed := rapid.Uint64().Draw(t, "seed")
		d := simulate(t, Config{}, seed, 20*time.Second, append(nodes, good))
		if d.Took > bound {
			t.Fatalf("decided after %v, later than %v", d.Took, bound)
		}
		// A slower one more does not move it, as long as somebody was waited for anyway.
		slow := good
		slow.peer, slow.rtt = "slow", good.rtt+time.Second
		e := simulate(t, Config{}, seed, 20*time.Second, append(nodes, good, slow))
		if e.Took > d.Took {
			t.Fatalf("a slower candidate delays the decision from %v to %v", d.Took, e.Took)
		}
	})
}

// When everybody answers in time, the winner is the best of all of them.
func TestWinnerIsTheBestOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := genNodes(t, 1, cellproto.MaxProbed)
		for i := range nodes {
			n := &nodes[i]
			n.joins, n.refuses, n.obs.Ban = 0, 0, BanNone
			n.advert = min(max(n.advert, time.Millisecond), advertTimeout-time.Millisecond)
			n.rtt = max(n.rtt, time.Millisecond)
		}
		d := simulate(t, Config{Patient: true}, rapid.Uint64().Draw(t, "seed"), 0, nodes)
		best := ScoreOf(nodes[0].measured()).Total()
		for _, n := range nodes {
			best = min(best, ScoreOf(n.measured()).Total())
		}
		if d.Ranking[0].Score > best && d.Took < patientGrace {
			t.Fatalf("won with %d, the best is %d", d.Ranking[0].Score, best)
		}
	})
}

// 63 strangers who never answer fill the list before the one good provider that is known from
// earlier calls: it is found all the same, and at once.
func TestFloodOfStrangers(t *testing.T) {
	for seed := range uint64(50) {
		var nodes []simulated
		for i := range 63 {
			nodes = append(nodes, simulated{peer: cellproto.PeerID(fmt.Sprintf("sybil%d", i)), source: "dht"})
		}
		nodes = append(nodes, simulated{peer: "good", joins: time.Millisecond, source: "dht", advert: 5 * time.Millisecond,
			rtt: time.Millisecond, obs: Observed{Calls: 100, P99: 5000}})
		d := simulate(t, Config{}, seed, time.Second, nodes)
		if d.Winner != "good" || d.Took > 20*time.Millisecond {
			t.Fatalf("seed %d: winner %q after %v", seed, d.Winner, d.Took)
		}
	}
}
