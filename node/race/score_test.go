package race

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

func TestScoreOf(t *testing.T) {
	claim := func(p50, p99 Micros, queue, capacity, free int) Measured {
		return Measured{HasClaim: true, Claim: Claim{P50: p50, P99: p99, Queue: queue, Capacity: capacity, Free: free}, Observed: Observed{Ping: 1000}}
	}
	own := func(m Measured, p50, p99 Micros, calls int) Measured {
		m.Observed.P50, m.Observed.P99, m.Observed.Calls = p50, p99, calls
		return m
	}
	relayed := claim(0, 0, 0, 1, 1)
	relayed.Relayed = true
	disliked := claim(0, 0, 0, 1, 1)
	disliked.Observed.Penalty = 777
	tests := []struct {
		name string
		m    Measured
		want Score
	}{
		{"idle", claim(1000, 4000, 0, 4, 4), Score{Ping: 1000, Work: 2000}},
		{"nothing claimed", claim(0, 0, 0, 0, 0), Score{Ping: 1000}},
		{"full, no queue", claim(1000, 4000, 0, 4, 0), Score{Ping: 1000, Work: 2000, Queue: 250}},
		{"full, queue of 7", claim(1000, 4000, 7, 4, 0), Score{Ping: 1000, Work: 2000, Queue: 2000}},
		{"queue while slots are free", claim(1000, 4000, 4, 4, 2), Score{Ping: 1000, Work: 2000, Queue: 1000}},
		{"queue, no capacity given", claim(1000, 4000, 4, 0, 0), Score{Ping: 1000, Work: 2000, Queue: 4000}},
		{"queue, no time claimed", claim(0, 0, 3, 1, 0), Score{Ping: 1000, Queue: 4000}},
		{"p99 below p50", claim(4000, 0, 0, 1, 1), Score{Ping: 1000, Work: 2000}},
		{"absurd", claim(math.MaxInt64, math.MaxInt64, math.MaxInt, -5, -5), Score{Ping: 1000, Work: maxMicros / 2, Queue: maxMicros}},
		{"negative", claim(-1, -1, -1, -1, 1), Score{Ping: 1000}},
		{"own p99 replaces the claim", own(claim(10, 10, 0, 1, 1), 21_000, 31_000, 10), Score{Ping: 1000, Work: 15_000}},
		{"own p99 below the claim", own(claim(10, 90_000, 0, 1, 1), 2000, 3000, 10), Score{Ping: 1000, Work: 1000}},
		{"own p99 below the ping", own(claim(10, 90_000, 0, 1, 1), 200, 300, 10), Score{Ping: 1000}},
		{"few own calls bound the claim", own(claim(10, 10, 0, 1, 1), 21_000, 99_000, 3), Score{Ping: 1000, Work: 10_000}},
		{"too few own calls", own(claim(10, 10, 0, 1, 1), 21_000, 99_000, 2), Score{Ping: 1000, Work: 5}},
		{"no advert", Measured{Observed: Observed{Ping: 1000}}, Score{Ping: 1000, NoAdvert: 200_000}},
		{"no advert but own calls", own(Measured{Observed: Observed{Ping: 1000}}, 2000, 5000, 10), Score{Ping: 1000, Work: 2000}},
		{"relayed", relayed, Score{Ping: 1000, Relay: 50_000}},
		{"penalty", disliked, Score{Ping: 1000, Reputation: 777}},
	}
	for _, tt := range tests {
		if got := ScoreOf(tt.m); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestFits(t *testing.T) {
	h := hashes("a,b,c")
	c := Claim{Provided: h[:1], Accepted: h[1:2]}
	for _, tt := range []struct {
		accepts []cellproto.SchemaHash
		want    bool
	}{{nil, true}, {h[:1], true}, {h[1:2], true}, {h[2:], false}, {h, true}} {
		if got := c.Fits(tt.accepts); got != tt.want {
			t.Errorf("Fits(%v) = %v", tt.accepts, got)
		}
	}
	if (Claim{}).Fits(h) {
		t.Error("a claim without a schema fits a caller that needs one")
	}
}

func genMeasured(t *rapid.T) Measured {
	m := func(name string) Micros { return Micros(rapid.Int64().Draw(t, name)) }
	if rapid.Bool().Draw(t, "sane") {
		m = func(name string) Micros { return Micros(rapid.Int64Range(0, 500_000).Draw(t, name)) }
	}
	return Measured{
		Candidate: Candidate{Relayed: rapid.Bool().Draw(t, "relayed")},
		HasClaim:  rapid.Bool().Draw(t, "advert"),
		Claim:     Claim{P50: m("p50"), P99: m("p99"), Queue: rapid.Int().Draw(t, "queue"), Capacity: rapid.Int().Draw(t, "capacity"), Free: rapid.Int().Draw(t, "free")},
		Observed:  Observed{Ping: m("ping"), P50: m("own p50"), P99: m("own p99"), Calls: rapid.IntRange(0, 20).Draw(t, "calls"), Penalty: m("penalty")},
	}
}

func TestScoreIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := genMeasured(t)
		more := Micros(rapid.Int64Range(0, 1_000_000).Draw(t, "more"))
		base := ScoreOf(m).Total()
		if base < 0 || base > 6*maxMicros {
			t.Fatalf("score %d", base)
		}
		raise := map[string]func(*Measured){
			"ping":    func(m *Measured) { m.Observed.Ping = max(m.Observed.Ping, m.Observed.Ping+more) },
			"p99":     func(m *Measured) { m.Claim.P99 = max(m.Claim.P99, m.Claim.P99+more) },
			"queue":   func(m *Measured) { m.Claim.Queue = max(m.Claim.Queue, m.Claim.Queue+int(more)) },
			"penalty": func(m *Measured) { m.Observed.Penalty = max(m.Observed.Penalty, m.Observed.Penalty+more) },
			"own p99": func(m *Measured) { m.Observed.P99 = max(m.Observed.P99, m.Observed.P99+more) },
			"relay":   func(m *Measured) { m.Relayed = true },
		}
		for name, f := range raise {
			n := m
			f(&n)
			if got := ScoreOf(n).Total(); got < base {
				t.Fatalf("more %s lowers the score from %d to %d", name, base, got)
			}
		}
	})
}

func TestMicros(t *testing.T) {
	for d, want := range map[time.Duration]Micros{
		-time.Second: 0, 0: 0, 1: 1, 999: 1, 1000: 1, 1999: 1, time.Millisecond: 1000, math.MaxInt64: maxMicros, math.MinInt64: 0,
	} {
		if got := MicrosOf(d); got != want {
			t.Errorf("MicrosOf(%d) = %d, want %d", d, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []Micros
		want Micros
	}{{[]Micros{5}, 5}, {[]Micros{9, 1}, 1}, {[]Micros{9, 1, 5}, 5}, {[]Micros{4, 3, 2, 1}, 2}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median(%v) = %d", tt.in, got)
		}
	}
}

func TestConfig(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{Pings: 17}, {Pings: -1}, {MaxSeen: 65}, {MaxProbed: 9}, {Grace: -1}, {Timeout: 2 * time.Hour}} {
		if _, err := New(c, 0, epoch); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func many(n int) []Measured {
	ms := make([]Measured, n)
	for i := range ms {
		ms[i] = Measured{
			Candidate: Candidate{Peer: cellproto.PeerID(fmt.Sprint("12D3KooW", i)), Source: "dht", Relayed: i%5 == 0},
			HasClaim:  true,
			Claim:     Claim{P50: Micros(i * 37 % 500), P99: Micros(i * 131 % 9000), Queue: i % 4, Capacity: 8, Free: i % 3},
			Observed:  Observed{Ping: Micros(1 + i*7919%60_000), P99: Micros(i * 17), Calls: i % 20, Due: epoch},
		}
	}
	return ms
}

// Choosing among 64 candidates is to cost at most 20 µs.
func BenchmarkRank64(b *testing.B) {
	ms := many(64)
	b.ReportAllocs()
	for b.Loop() {
		if r := Rank(ms); !r[0].Winner {
			b.Fatal("no winner")
		}
	}
}

// A whole race: 64 join, eight are probed, one is chosen.
func BenchmarkRace64(b *testing.B) {
	ms := many(64)
	b.ReportAllocs()
	for seed := uint64(0); b.Loop(); seed++ {
		r, err := New(Config{}, seed, epoch)
		if err != nil {
			b.Fatal(err)
		}
		for i := range ms {
			r.Join(epoch, ms[i].Candidate, ms[i].Observed)
		}
		r.Close(epoch)
		now := epoch
		for d := (*Decision)(nil); d == nil; {
			ready := r.Ready()
			d = ready.Decision
			for _, a := range ready.Actions {
				now = now.Add(10 * time.Microsecond)
				if a.Do == AskAdvert {
					r.AdvertArrived(now, a.Candidate.Peer, ms[0].Claim)
				} else {
					r.PingArrived(now, a.Candidate.Peer, time.Millisecond)
				}
			}
			if len(ready.Actions) == 0 && d == nil {
				now = ready.Deadline
				r.Tick(now)
			}
		}
	}
}

// What was measured of the path is not undone by whoever names the candidate again.
func TestPathOutlivesLaterSources(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	r, err := New(Config{}, 1, now)
	if err != nil {
		t.Fatal(err)
	}
	r.Join(now, Candidate{Peer: "a", Source: "dht"}, Observed{})
	r.Path("a", true)
	r.Join(now, Candidate{Peer: "a", Source: "mdns"}, Observed{})
	if rn := r.find("a"); !rn.Relayed || rn.Source != "mdns" {
		t.Errorf("the candidate is %+v, want it relayed and found by mDNS", rn.Candidate)
	}
	r.Path("a", false)
	r.Join(now, Candidate{Peer: "a", Source: "mdns", Relayed: true}, Observed{})
	if r.find("a").Relayed {
		t.Error("a direct path became a relayed one")
	}
}
