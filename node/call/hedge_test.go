package call

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// When others are asked, by what is known of who is silent: at the p99, at three times that, and at half of the
// time that is left.
func TestStages(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	own := func(p99 int) race.Ranked { return race.Ranked{Own: true, CallP99: race.MicrosOf(ms(p99))} }
	claimed, trial := own(5), own(5)
	claimed.Own = false
	trial.Own, trial.Trial = false, true
	pure, idempotent := policy{pure: true, idempotent: true}, policy{idempotent: true}
	for name, c := range map[string]struct {
		p    policy
		who  race.Ranked
		in   time.Duration // the deadline
		want [3]stage
	}{
		"quick":           {pure, own(1), ms(10_000), [3]stage{{after: ms(10), early: true}, {after: ms(50)}, {after: ms(5000), free: true}}},
		"near":            {pure, own(15), ms(10_000), [3]stage{{after: ms(15), early: true}, {after: ms(50)}, {after: ms(5000), free: true}}},
		"far":             {pure, own(100), ms(10_000), [3]stage{{after: ms(100), early: true}, {after: ms(300)}, {after: ms(5000), free: true}}},
		"short of time":   {pure, own(100), ms(160), [3]stage{{after: ms(80), early: true}, {after: ms(80)}, {after: ms(80), free: true}}},
		"only claimed":    {pure, claimed, ms(10_000), [3]stage{{after: ms(50)}, {after: ms(50)}, {after: ms(5000), free: true}}},
		"on trial":        {pure, trial, ms(10_000), [3]stage{{after: ms(10), early: true, free: true}, {after: ms(50)}, {after: ms(5000), free: true}}},
		"only idempotent": {idempotent, own(5), ms(10_000), [3]stage{{after: ms(5000), free: true}, {after: ms(5000), free: true}, {after: ms(5000), free: true}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.in)
			defer cancel()
			if got := c.p.stages(ctx, c.who, false); got != c.want {
				t.Errorf("%s: %+v, want %+v", name, got, c.want)
			}
		})
	}
}

// rare has no races be held.
func rare(cfg *CallerConfig, _ *CallerDeps) {
	cfg.Policy = race.Policy{Keep: time.Hour, Stale: 2 * time.Hour, EveryCalls: 1 << 30, MinGap: time.Hour}
}

// A provider that becomes slow is not relieved at the cost of the others: of its calls few are made twice, and
// of those that are not pure none.
func TestHedgesAreBounded(t *testing.T) {
	cell := publish(t, testSchema())
	core, log := observer.New(zap.DebugLevel)
	c, all := electorate(t, cell, 2, func(cfg *CallerConfig, d *CallerDeps) {
		rare(cfg, d)
		d.Log = zap.New(core)
	})
	slow, other := all[0], all[1]
	const usual = 140 * time.Millisecond // so that a ping has some time, too
	c.measured(slow, usual, 0)
	c.measured(other, 20*time.Second, 0)
	c.mu.Lock()
	for range 8 { // that it gets none on trial either
		c.reputation.TrialBegan(time.Now(), cellproto.PeerID(peerText(other.host)))
	}
	c.mu.Unlock()
	if d := c.mustRace(t, cell); string(d.Winner) != peerText(slow.host) || !d.Ranking[0].Own {
		t.Fatalf("%s wins with %+v", d.Winner, d.Ranking)
	}
	slow.program.handle = func(in *cellproto.Inbound) {
		time.Sleep(4 * usual) // that is how slow it is
		answer(in)
	}
	other.program.handle = silent // slower still
	const callers, each = 25, 4
	for fn, most := range map[string]int64{"echo": 10 + callers*each/50, "count": 0} {
		before, failed := other.program.begun.Load(), c.observed(cellproto.PeerID(peerText(slow.host))).Failures
		var load sync.WaitGroup
		for i := range callers {
			load.Go(func() {
				for n := range each {
					if _, err := try(t, c, cell.id.String(), request(fn, fmt.Sprint(i, " ", n))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		load.Wait()
		n := other.program.begun.Load() - before
		t.Logf("%s: %d of %d calls were made twice", fn, n, callers*each)
		if log.FilterMessage("a provider is silent").Len() > 0 {
			t.Skip("this machine is too busy to answer pings: its calls go elsewhere, as they should")
		}
		if n > most || most > 0 && n == 0 {
			t.Errorf("%s: %d of %d calls were made twice, at most %d may be", fn, n, callers*each, most)
		}
		if o := c.observed(cellproto.PeerID(peerText(slow.host))); o.Failures > failed {
			t.Errorf("%s: it is held against it: %+v", fn, o)
		}
	}
}

// A provider that falls silent on all calls at once, and answers pings: those for which there is no token go
// elsewhere as soon as others have shown that it is of no use.
func TestSilentOnManyCalls(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, rare)
	mute, other := all[0], all[1]
	c.measured(mute, time.Millisecond, 0)
	c.measured(other, 20*time.Second, 0)
	if d := c.mustRace(t, cell); string(d.Winner) != peerText(mute.host) {
		t.Fatalf("%s wins with %+v", d.Winner, d.Ranking)
	}
	mute.program.handle = silent
	const callers = 60
	begin := time.Now()
	var load sync.WaitGroup
	for i := range callers {
		load.Go(func() {
			res, err := try(t, c, cell.id.String(), request("echo", fmt.Sprint(i)))
			if err != nil || res.Provider != peerText(other.host) {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	load.Wait()
	if took := time.Since(begin); took > patience/3 {
		t.Errorf("the last of them was answered after %v", took)
	}
	eventually(t, "nothing is in flight", func() bool { return mute.server.Load().InFlight == 0 })
}

// A call goes on when it is answered with an error while others are asked: who that was is not written and read at one time (-race).
func TestErrorWhileOthersAreAsked(t *testing.T) {
	for range 10 {
		cell := publish(t, testSchema())
		c, all := electorate(t, cell, 4, few)
		for i, p := range all {
			c.measured(p, time.Duration(i+1)*10*time.Millisecond, 0)
		}
		c.mustRace(t, cell)
		asked := make(chan struct{}, 1)
		all[0].program.handle = func(in *cellproto.Inbound) {
			select {
			case <-asked:
			case <-in.Context().Done():
			}
			in.ReplyError(cellproto.Errorf("", cellproto.FuncError, "it does not work"))
		}
		all[1].program.handle = func(in *cellproto.Inbound) {
			asked <- struct{}{}
			silent(in)
		}
		c.remote(cell.id).uncheck("echo") // or all are asked who is right
		_, _ = try(t, c, cell.id.String(), request("echo", "x"))
		if n := all[1].program.begun.Load(); n != 1 {
			t.Fatalf("the second one was asked %d times", n)
		}
	}
}

// Who was waited for, since another one said that the function fails, is not behind by as long as that was.
func TestErrorIsNotQuickerByFar(t *testing.T) {
	c, cell, near, far := nearAndFar(t, few)
	near.program.handle, far.program.handle = silent, says(cellproto.FuncError)
	_, err := try(t, c, cell.id.String(), request("echo", "x"))
	wantKind(t, err, cellproto.FuncError)
	if o := c.observed(peerOf(near)); o.Failures > 0 {
		t.Errorf("it is held against who was waited for: %+v", o)
	}
}

// An answer that counts is given, though time is over for those who may contradict an error, or another one says so, before it
// was looked at.
func TestErrorIsSettledAfterAnAnswer(t *testing.T) {
	from := func(p cellproto.PeerID) race.Ranked { return race.Ranked{Candidate: race.Candidate{Peer: p}} }
	failed := func(p cellproto.PeerID) attempt {
		return attempt{from: from(p), sent: true, err: cellproto.Errorf("", cellproto.FuncError, "no")}
	}
	for name, last := range map[string]cellproto.PeerID{"of a hedge": "other", "of who was asked first": "first"} {
		t.Run(name, func(t *testing.T) {
			h := &hedge{c: &Caller{}, r: &remote{}, p: &policy{pure: true}, who: from("first"), answers: make(chan attempt, attempts)}
			var canceled, closed bool
			h.settled.Store(true) // by the third one, as it says now
			h.answers <- failed("second")
			body := &closer{ReadCloser: io.NopCloser(strings.NewReader("x")), then: func() { closed = true }}
			h.answers <- attempt{from: from("third"), counts: true, reply: &cellproto.Reply{Body: body}}
			s := hedging{doubted: 2, last: failed(last), cancels: map[cellproto.PeerID]context.CancelFunc{"third": func() { canceled = true }}}
			a := h.settle(&s)
			if !a.counts || a.from.Peer != "third" || a.err != nil {
				t.Fatalf("it gives %+v", a)
			}
			if closed || canceled || len(s.cancels) > 0 {
				t.Error("the reply has lost its body")
			}
			if a.discard(); !closed || !canceled {
				t.Error("its call goes on when the body was closed")
			}
		})
	}
	t.Run("of who was asked first, with a value", func(t *testing.T) {
		h := &hedge{p: &policy{pure: true}, who: from("first"), answers: make(chan attempt, attempts)}
		if !h.asks() || !h.ended(true) {
			t.Fatal("it is not the answer")
		}
		if a := h.settle(&hedging{doubted: 1, last: failed("second")}); a.counts {
			t.Errorf("%+v counts too", a)
		}
	})
}

// What a provider merely claims does not have others wait for it as long as it likes.
func TestOpinionOfWhoClaims(t *testing.T) {
	who := race.Ranked{CallP99: race.MicrosOf(10 * time.Second), Own: true}
	if d := opinionP99(who); d != 10*time.Second {
		t.Errorf("of one that was measured %v", d)
	}
	who.Own = false
	if d := opinionP99(who); d != opinionLeast {
		t.Errorf("of one that claims it %v", d)
	}
	who.CallP99 = race.MicrosOf(time.Millisecond)
	if d := opinionP99(who); d != time.Millisecond {
		t.Errorf("of one that claims less %v", d)
	}
}
