package race

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

// Whatever happens to peers, no ban exceeds an hour, bans of successful peers end, and the state
// survives JSON byte for byte.
func TestReputationProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := NewReputation()
		now := epoch
		peers := []cellproto.PeerID{"a", "b", "c"}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			// mostly forward, at times the clock is set back
			now = now.Add(time.Duration(rapid.Int64Range(-int64(10*time.Minute), int64(2*time.Hour)).Draw(t, "dt")))
			p := rapid.SampledFrom(peers).Draw(t, "peer")
			kind := cellproto.Kind(rapid.IntRange(0, 14).Draw(t, "kind"))
			for range rapid.IntRange(1, 5).Draw(t, "times") {
				r.Called(now, p, kind, time.Duration(rapid.Int64Range(-1, int64(2*time.Hour)).Draw(t, "took")), time.Duration(rapid.Int64().Draw(t, "retry")))
			}
			ban, until := r.Banned(now, p)
			if d := until.Sub(now); ban != BanNone && (d <= 0 || d > MaxBan) {
				t.Fatalf("banned for %v", d)
			}
			if kind == 0 && ban == BanFailing {
				t.Fatalf("still banned for failures after a success")
			}
			if pen := r.Penalty(now, p); pen < 0 || pen > maxMicros {
				t.Fatalf("penalty %d", pen)
			}
			if o := r.Observed(now, p); o.P99 < o.P50 {
				t.Fatalf("p99 %d < p50 %d", o.P99, o.P50)
			}
		}
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Reputation
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		again, _ := json.Marshal(&back)
		if !bytes.Equal(data, again) {
			t.Fatalf("%s became %s", data, again)
		}
		for _, p := range peers {
			if a, b := r.Observed(now, p), back.Observed(now, p); a.Penalty != b.Penalty || a.P99 != b.P99 || !a.BannedUntil.Equal(b.BannedUntil) {
				t.Fatalf("%+v became %+v", a, b)
			}
		}
	})
}

// As many names as there is room for have lied: others are remembered still, and the worst of them.
func TestLiarsLeaveRoom(t *testing.T) {
	r, now := NewReputation(), epoch
	r.Wrong(now, "worst")
	r.Wrong(now, "worst")
	learns := func(when string) {
		t.Helper()
		for range 4 {
			now = now.Add(time.Second)
			r.Succeeded(now, "good", time.Millisecond)
			r.Failed(now, "bad")
		}
		if n := r.Observed(now, "good").Calls; n < 4 {
			t.Errorf("%s %d of 4 calls are remembered", when, n)
		}
		if ban, _ := r.Banned(now, "bad"); ban != BanFailing {
			t.Errorf("%s four failures do not ban", when)
		}
	}
	for i := range 2 * MaxPeers {
		r.Wrong(now, cellproto.PeerID(fmt.Sprint("liar", i)))
	}
	learns("while they lie")
	if ban, _ := r.Banned(epoch.Add(time.Second), "worst"); ban != BanLying {
		t.Error("the worst liar was washed clean by others")
	}
	for i := range 2 * MaxPeers { // who never lied does not push them out,
		r.Succeeded(now, cellproto.PeerID(fmt.Sprint("stranger", i)), time.Millisecond)
	}
	if r.lying(now) < maxLiars {
		t.Errorf("%d liars are left", r.lying(now))
	}
	now = now.Add(24 * time.Hour) // but for ever
	for i := range MaxPeers {
		r.Succeeded(now, cellproto.PeerID(fmt.Sprint("later", i)), time.Millisecond)
	}
	if n := r.Len(); n != MaxPeers || r.peers["worst"] != nil {
		t.Errorf("%d are remembered, the worst liar's day-old lies: %v", n, r.peers["worst"] != nil)
	}
	learns("a day later")
}

func TestReputationIsBounded(t *testing.T) {
	r := NewReputation()
	r.Wrong(epoch, "liar")
	for i := range 3 * MaxPeers {
		r.Succeeded(epoch, cellproto.PeerID(fmt.Sprint("p", i)), time.Millisecond)
		r.Succeeded(epoch, "regular", time.Millisecond)
	}
	if r.Len() != MaxPeers {
		t.Errorf("%d peers are remembered", r.Len())
	}
	if ban, _ := r.Banned(epoch, "liar"); ban != BanLying {
		t.Error("a flood of names washed the liar clean")
	}
	if r.Observed(epoch, "regular").Calls == 0 {
		t.Error("the most used peer was forgotten")
	}
	if r.Observed(epoch, "p0").Calls != 0 {
		t.Error("the least recently used peer was not forgotten")
	}
	r.Failed(epoch, "")
	r.Failed(epoch, cellproto.PeerID(strings.Repeat("x", 129)))
	data, err := json.Marshal(r)
	if err != nil || json.Unmarshal(data, NewReputation()) != nil {
		t.Errorf("a full one does not survive JSON: %v", err)
	}
}

// A donor that has broken its word is not asked for a while, by who has read that too.
func TestBrokenDonors(t *testing.T) {
	r := NewReputation()
	r.AvoidDonor(epoch, "donor", 15*time.Minute)
	r.AvoidDonor(epoch, "worse", 1000*time.Hour)
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Reputation
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Reputation{r, &back} {
		for _, c := range []struct {
			peer  cellproto.PeerID
			after time.Duration
			want  bool
		}{
			{"donor", 0, true}, {"donor", 14 * time.Minute, true}, {"donor", 15 * time.Minute, false}, {"donor", -100 * time.Hour, false},
			{"worse", 59 * time.Minute, true}, {"worse", MaxBan, false}, {"another", 0, false},
		} {
			if got := r.AvoidsDonor(epoch.Add(c.after), c.peer); got != c.want {
				t.Errorf("%s after %v: %v", c.peer, c.after, got)
			}
		}
	}
	if o := r.Observed(epoch, "donor"); o != (Observed{}) {
		t.Errorf("it is no worse a provider for that: %+v", o)
	}
}

func TestDamagedStateIsForgotten(t *testing.T) {
	for _, bad := range []string{
		``, `null`, `[]`, `{"version":2}`, `{"version":1,"peers":[null]}`, `{"version":1,"peers":[{"peer":""}]}`,
		`{"version":1,"peers":[{"peer":"a"},{"peer":"a"}]}`, `{"version":1,"peers":[{"peer":"a","failures":-1}]}`,
		`{"version":1,"peers":[{"peer":"a","failures":1000000}]}`, `{"version":1,"peers":[{"peer":"a","bans":99}]}`,
		`{"version":1,"peers":[{"peer":"a","latency":[[0,1]]}]}`, `{"version":1,"peers":[{"peer":"a","ban_until":"2026-01-02T00:00:00Z","ban_from":"2026-01-01T00:00:00Z"}]}`,
		`{"version":1,"peers":[`,
	} {
		r := NewReputation()
		r.Failed(epoch, "old")
		err := r.UnmarshalJSON([]byte(bad))
		if cellproto.KindOf(err) != cellproto.Corrupt || r.Len() != 0 {
			t.Errorf("%s: %v, %d peers", bad, err, r.Len())
		}
		r.Failed(epoch, "new")
	}
	for _, bad := range []string{``, `{}`, `{"peer":"a","p99_us":-1}`, `{"peer":"a","calls":-1}`, `{"peer":"a"`, `{"peer":"a","x":"` + strings.Repeat("x", 5000) + `"}`} {
		if _, err := ParseCached([]byte(bad)); cellproto.KindOf(err) != cellproto.Corrupt {
			t.Errorf("%.40s: %v", bad, err)
		}
	}
}

func TestLog(t *testing.T) {
	d := &Decision{Winner: "a", At: epoch, Took: 12 * time.Millisecond, Seen: 2, Ranking: Rank([]Measured{
		{Candidate: Candidate{Peer: "a", Source: "dht"}, HasClaim: true, Claim: Claim{P50: 50, P99: 900, Queue: 1, Capacity: 2, Free: 2}, Observed: Observed{Ping: 300}}})}
	d.Ranking = append(d.Ranking, Ranked{Candidate: Candidate{Peer: "b", Source: "mdns", Relayed: true}, Out: "unavailable", Kind: cellproto.Unavailable})
	data, err := AppendLog([]byte("{\"half\":"), d.Log("bafycell", Expired))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-01T12:00:00Z","cell":"bafycell","why":"expired","took_us":12000,"seen":2,"candidates":[` +
		`{"peer":"a","source":"dht","median_us":300,"p99_us":900,"queue":1,"score_us":775,"parts":{"ping_us":300,"work_us":450,"queue_us":25},"winner":true},` +
		`{"peer":"b","source":"mdns","relayed":true,"median_us":0,"p99_us":0,"queue":0,"score_us":0,"winner":false,"out":"unavailable"}],"winner":"a"}` + "\n"
	if string(data) != want {
		t.Errorf("got\n%s\nwant\n%s", data, want)
	}
	for range 250 {
		if data, err = AppendLog(data, d.Log("bafycell", Expired)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(ParseLog(data)); n != LogEntries {
		t.Errorf("%d entries are kept", n)
	}
	if len(ParseLog(data[:len(data)-20])) != LogEntries-1 {
		t.Error("a line that was cut off is not left out")
	}
}

func TestNextAndErr(t *testing.T) {
	d := &Decision{Winner: "a", Ranking: []Ranked{{Candidate: Candidate{Peer: "a"}, Winner: true}, {Candidate: Candidate{Peer: "b"}},
		{Candidate: Candidate{Peer: "liar"}, Out: "banned for wrong answers", Kind: cellproto.Corrupt}, {Candidate: Candidate{Peer: "late"}, Out: "not in time"}}}
	tried := map[cellproto.PeerID]bool{}
	var order []cellproto.PeerID
	for {
		r, ok := d.Next(func(p cellproto.PeerID) bool { return tried[p] })
		if !ok {
			break
		}
		tried[r.Peer] = true
		order = append(order, r.Peer)
	}
	if fmt.Sprint(order) != "[a b late]" {
		t.Errorf("order %v", order)
	}
	if d.Err("race") != nil {
		t.Error("a decision with a winner is an error")
	}
	if err := (&Decision{}).Err("race"); cellproto.KindOf(err) != cellproto.NotFound || cellproto.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestDemoted(t *testing.T) {
	d := &Decision{Ranking: []Ranked{{Candidate: Candidate{Peer: "a"}}, {Candidate: Candidate{Peer: "b"}}, {Candidate: Candidate{Peer: "c"}}, {Candidate: Candidate{Peer: "d"}, Out: "failed"}}}
	order := func(d *Decision) (s string) {
		for _, r := range d.Ranking {
			s += string(r.Peer)
		}
		return s
	}
	for peer, want := range map[cellproto.PeerID]string{"a": "bcad", "b": "acbd", "c": "abcd", "d": "abcd", "x": "abcd"} {
		if got := order(d.Demoted(peer)); got != want {
			t.Errorf("%s demoted: %s, want %s", peer, got, want)
		}
	}
	if order(d) != "abcd" {
		t.Errorf("the decision itself was changed: %s", order(d))
	}
	empty := &Decision{}
	if empty.Demoted("a") != empty {
		t.Error("nothing to change")
	}
}

func FuzzReputationJSON(f *testing.F) {
	r := NewReputation()
	r.Called(epoch, "a", 0, time.Millisecond, 0)
	r.Called(epoch, "a", cellproto.Timeout, 0, 0)
	r.Wrong(epoch, "b")
	data, _ := json.Marshal(r)
	f.Add(data)
	f.Add([]byte(`{"version":1,"peers":[{"peer":"a","bans":9,"ban_until":"9999-01-01T00:00:00Z","ban_from":"9999-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReputation()
		if r.UnmarshalJSON(data) != nil {
			if r.Len() != 0 {
				t.Fatal("something is left of a damaged state")
			}
			return
		}
		for p := range r.peers {
			if ban, until := r.Banned(epoch, p); ban != BanNone && until.Sub(epoch) > MaxBan {
				t.Fatalf("banned for %v", until.Sub(epoch))
			}
			if pen := r.Penalty(epoch, p); pen < 0 || pen > maxMicros {
				t.Fatalf("penalty %d", pen)
			}
			r.Observed(epoch, p)
			r.Failed(epoch, p)
			r.Wrong(epoch, p)
			r.Succeeded(epoch, p, time.Second)
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := NewReputation().UnmarshalJSON(out); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	})
}

func FuzzCachedJSON(f *testing.F) {
	f.Add([]byte(`{"peer":"a","score_us":1,"p99_us":10000,"decided":"2026-11-01T13:00:30Z","calls":7,"same":3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCached(data)
		if err != nil {
			return
		}
		c.Called(time.Hour)
		c.ShouldRace(epoch, Policy{})
		if why := c.ShouldRace(epoch, Policy{}); !c.Serves(epoch, Policy{}) && why == NoReason {
			t.Fatal("nobody serves and no race is due")
		}
	})
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("{\"cell\":\"x\"}\n{\"cell\":"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := AppendLog(data, Log{Time: epoch, Cell: "new"})
		if err != nil {
			t.Fatal(err)
		}
		es := ParseLog(out)
		if len(es) == 0 || len(es) > LogEntries || es[len(es)-1].Cell != "new" {
			t.Fatalf("%d entries", len(es))
		}
	})
}

func BenchmarkShouldRace(b *testing.B) {
	c := Cached{Peer: "a", P99: 1000, Decided: epoch}
	now := epoch.Add(2 * time.Second)
	for b.Loop() {
		c.Called(time.Millisecond)
		c.Calls = 0
		if c.Serves(now, Policy{}) && c.ShouldRace(now, Policy{}) != NoReason {
			b.Fatal("raced")
		}
	}
}

func BenchmarkReputationCalled(b *testing.B) {
	r := NewReputation()
	for i := range MaxPeers {
		r.Succeeded(epoch, cellproto.PeerID(fmt.Sprint("p", i)), time.Millisecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Called(epoch, "p7", 0, time.Millisecond, 0)
	}
}
