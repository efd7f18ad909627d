package node

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

func TestLeaseDue(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, c := range []struct {
		name         string
		until, since time.Time
		due          int
		again        time.Duration
	}{
		{"it runs", now.Add(time.Second), time.Time{}, leaseHolds, time.Second},
		{"it has run for long enough", now, time.Time{}, leaseOver, yieldKept},
		{"it is overdue", now.Add(-time.Hour), time.Time{}, leaseOver, yieldKept},
		{"it rests", now.Add(-time.Hour), now.Add(-time.Second), leaseHolds, yieldKept - time.Second},
		{"it rests although it need not", now.Add(time.Hour), now.Add(-time.Second), leaseHolds, yieldKept - time.Second},
		{"nobody wants it back", now.Add(-time.Hour), now.Add(-yieldKept), leaseForgotten, 0},
	} {
		if due, again := leaseDue(now, c.until, c.since); due != c.due || again != c.again {
			t.Errorf("%s: %d, again in %v; want %d and %v", c.name, due, again, c.due, c.again)
		}
	}
	if 2*renewEvery >= leaseFor {
		t.Error("one renewal that is late ends a lease")
	}
}

// A lease that is over is not, if it was renewed by the time that the mirror would yield.
func TestLeaseIsRenewedAtTheEnd(t *testing.T) {
	n := &nucleus{log: zap.NewNop()}
	n.server = call.NewServer(call.ServerConfig{}, call.ServerDeps{Log: n.log})
	l := &lease{n: n, ctx: t.Context(), news: make(chan struct{}, 1), until: time.Now().Add(-time.Second)}
	l.renew(time.Hour)
	l.expire()
	if l.yielded.Load() {
		t.Error("it yields for want of the word that it has")
	}
	l.until = time.Now().Add(-time.Second)
	l.expire()
	if !l.yielded.Load() {
		t.Error("it does not yield")
	}
}

// Calls that can be made again elsewhere keep the owner waiting for a shorter time than those that cannot.
func TestGraceOf(t *testing.T) {
	with := func(fns ...cellproto.Function) *cellproto.Schema {
		s := &cellproto.Schema{Functions: map[string]cellproto.Function{}}
		for i, fn := range fns {
			s.Functions[string(rune('a'+i))] = fn
		}
		return s
	}
	pure, same, once := cellproto.Function{Pure: true}, cellproto.Function{Idempotent: true}, cellproto.Function{}
	in, out := cellproto.Function{Pure: true, BodyIn: true}, cellproto.Function{Pure: true, BodyOut: true}
	older := with(pure)
	older.Older = []*cellproto.Schema{with(once)}
	for name, c := range map[string]struct {
		schema *cellproto.Schema
		want   time.Duration
	}{
		"it is not known":          {nil, yieldGrace},
		"all can be":               {with(pure, same), yieldSoon},
		"one cannot":               {with(pure, same, once), yieldGrace},
		"one of an older version":  {older, yieldGrace},
		"a body comes":             {with(pure, in), yieldGrace},
		"a body goes":              {with(pure, out), yieldGrace},
		"there is nothing to call": {with(), yieldSoon},
	} {
		if got := graceOf(c.schema); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if yieldSoon >= yieldGrace || yieldGrace >= 2*time.Second {
		t.Error("the owner waits for too long")
	}
}

// A mirror does not want the port that the nucleus that makes it has.
func TestAnyPorts(t *testing.T) {
	got := anyPorts([]string{"/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip4/127.0.0.1/tcp/0", "/dns4/tcp/tcp/4001/ws"})
	want := []string{"/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0", "/ip4/127.0.0.1/tcp/0", "/dns4/tcp/tcp/0/ws"}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
