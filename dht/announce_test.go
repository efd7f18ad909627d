package dht

import (
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/celldnet/celld/cellproto"
)

func TestDue(t *testing.T) {
	t.Parallel()
	a, b := cidOf(t, "a"), cidOf(t, "b")
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		done map[cid.Cid]time.Time
		want int
	}{
		{"never", nil, 2},
		{"one", map[cid.Cid]time.Time{a: now}, 1},
		{"both", map[cid.Cid]time.Time{a: now, b: now.Add(-11 * time.Hour)}, 0},
		{"one too old", map[cid.Cid]time.Time{a: now, b: now.Add(-12 * time.Hour)}, 1},
	} {
		if got := due([]cid.Cid{a, b}, tt.done, now); len(got) != tt.want {
			t.Errorf("%s: %d due, want %d", tt.name, len(got), tt.want)
		}
	}
}

func TestNextDue(t *testing.T) {
	t.Parallel()
	a := cidOf(t, "a")
	day := func(h, m int) time.Time { return time.Date(2026, 11, 1, h, m, 0, 0, time.UTC) }
	const lead = 90 * time.Minute
	for _, tt := range []struct {
		name      string
		done, now time.Time
		want      time.Time
	}{
		{"renewal", day(0, 30), day(1, 0), day(12, 30)},
		{"next epoch's keys", day(12, 0), day(12, 0), day(22, 30)},
		{"end of the epoch", day(22, 30), day(22, 30), day(24, 0)},
		{"never at once", day(1, 0), day(13, 30), day(13, 30).Add(time.Second)},
	} {
		if got := nextDue([]cid.Cid{a}, map[cid.Cid]time.Time{a: tt.done}, tt.now, lead); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got.UTC(), tt.want)
		}
	}
}

func TestLeadOf(t *testing.T) {
	t.Parallel()
	seen := make(map[time.Duration]bool)
	for _, p := range []string{"a", "b", "c", "d"} {
		lead := leadOf(p, cidOf(t, "x"))
		if lead < time.Hour || lead > 2*time.Hour {
			t.Errorf("lead = %v", lead)
		}
		seen[lead] = true
	}
	if len(seen) < 3 {
		t.Error("peers announce at the same time")
	}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		was, n int
		since  time.Duration
		want   bool
	}{
		{0, 0, time.Hour, false},
		{0, 1, 0, true}, // from nobody to somebody: at once
		{1, 1, time.Hour, false},
		{1, 2, time.Second, false},
		{1, 2, time.Minute, true},
		{8, 15, time.Hour, false},
		{8, 16, time.Hour, true},
		{8, 0, time.Hour, false},
	} {
		if got := again(tt.was, tt.n, tt.since); got != tt.want {
			t.Errorf("again(%d, %d, %v) = %v", tt.was, tt.n, tt.since, got)
		}
	}
}

// What is announced to an empty network goes out as soon as somebody is there.
func TestAnnounceWaitsForPeers(t *testing.T) {
	t.Parallel()
	c := cidOf(t, "early")
	d, err := New(Config{Network: "late"}, Deps{Host: newHost(t, nil, "/ip4/127.0.0.1/tcp/0")})
	if err != nil {
		t.Fatal(err)
	}
	d.Announce(c) // before Start
	if s := d.AnnounceState(c); s.Keys < 4 || s.Done != 0 {
		t.Errorf("before Start: %+v", s)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	eventually(t, "error", func() bool { return d.AnnounceState(c).Err != nil })
	s := d.AnnounceState(c)
	if cellproto.KindOf(s.Err) != cellproto.Unavailable || cellproto.HintOf(s.Err) == "" {
		t.Errorf("alone: %v, kind %v, hint %q", s.Err, cellproto.KindOf(s.Err), cellproto.HintOf(s.Err))
	}
	other := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "late", Bootstrap: addrs(t, d.host)})
	eventually(t, "announcement", func() bool {
		s := d.AnnounceState(c)
		return s.Done == s.Keys && s.Err == nil && !s.Last.IsZero()
	})
	if found := peersOf(other.Find(within(t), c)); len(found) != 1 {
		t.Errorf("found %d", len(found))
	}
	if n := d.Status().Announced; n != 1 {
		t.Errorf("status says %d announced", n)
	}
	d.Withdraw(c)
	if s := d.AnnounceState(c); s.Keys != 0 || d.Status().Announced != 0 {
		t.Errorf("after Withdraw: %+v", s)
	}
	d.Withdraw(c)
	d.Announce(cid.Undef)
	d.Withdraw(cid.Undef)
	if s := d.AnnounceState(cid.Undef); s.Keys != 0 {
		t.Errorf("no CID is announced: %+v", s)
	}
}

// A record is only counted when a peer has taken it.
func TestAnnounceNeedsATaker(t *testing.T) {
	t.Parallel()
	d := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "refuse"})
	refuser(t, "refuse", d.host)
	eventually(t, "refuser in the table", func() bool { return d.Status().WANPeers == 1 })
	c := cidOf(t, "refused")
	d.Announce(c)
	eventually(t, "refusal", func() bool {
		s := d.AnnounceState(c)
		return s.Done == 0 && s.Err != nil && d.Status().WANPeers == 1
	})
}
