package call

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// nearAndFar gives a caller, and two providers of whom the first is remembered as near and wins, and the second as far.
func nearAndFar(t *testing.T, change func(*CallerConfig, *CallerDeps)) (c *Caller, cell *published, near, far *provider) {
	t.Helper()
	cell = publish(t, testSchema())
	c, all := electorate(t, cell, 2, change)
	c.measured(all[0], time.Millisecond, 0)
	c.measured(all[1], time.Second, 0)
	if d := c.mustRace(t, cell); string(d.Winner) != peerText(all[0].host) {
		t.Fatalf("%s wins with %+v", d.Winner, d.Ranking)
	}
	return c, cell, all[0], all[1]
}

func peerOf(p *provider) cellproto.PeerID { return cellproto.PeerID(peerText(p.host)) }

// resets has a provider take each request and reset its stream.
func (p *provider) resets(cell *published) {
	hash := cell.schema.Hash()
	p.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) {
		c, err := cellproto.NewConn(s, cellproto.Config{
			Hello:  cellproto.Hello{Agent: "liar", Auth: cellproto.AuthNone, Schema: hash[:]},
			Accept: func(*cellproto.Conn, *cellproto.Frame) { p.program.begun.Add(1); s.Reset() },
		})
		if err != nil {
			panic(err)
		}
		_ = c.Run()
	})
	p.cutLinks()
}

// Whoever takes each request and resets the stream costs few calls, though it answers the pings of each race on a new
// one, breaks its connections too, and claims to be quick; nor does what it claims count as what calls take.
func TestResetter(t *testing.T) {
	const far, calls = 100 * time.Millisecond, 30
	for name, disconnects := range map[string]bool{"the stream": false, "the connection": true} {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			var missed, met atomic.Int64
			c, all := electorate(t, cell, 2, func(_ *CallerConfig, d *CallerDeps) {
				d.Raced = func(r Raced) time.Duration {
					if missed.Add(1); r.Best < far/2 {
						met.Add(missed.Swap(0)) // only those since then are missed in a row
					}
					return 0
				}
			})
			bad, other := all[0], all[1]
			other.program.handle = func(in *cellproto.Inbound) {
				time.Sleep(far) // that is where it is
				answer(in)
			}
			c.measured(other, far, 0)
			bad.resets(cell)
			c.mustRace(t, cell)
			failed := 0
			for range calls {
				if _, err := try(t, c, cell.id.String(), request("once", "x")); err != nil {
					failed++
				}
				if disconnects {
					c.disconnect(t, cell, bad)
				}
			}
			if failed > 5 {
				t.Errorf("%d of %d calls failed", failed, calls)
			}
			if races := met.Load() + missed.Load(); races > calls/3 {
				t.Errorf("%d races were held for %d calls", races, calls)
			}
			c.mustRace(t, cell)
			eventually(t, "the objective is missed", func() bool { return missed.Load() > 0 })
		})
	}
}

// Whoever says of each call that its arguments are bad costs a candidate, and is not asked first for long.
func TestBlamesEachCall(t *testing.T) {
	const calls = 20
	for _, fn := range []string{"once", "count", "echo"} {
		t.Run(fn, func(t *testing.T) {
			c, cell, liar, other := nearAndFar(t, nil)
			liar.program.handle = says(cellproto.BadInput)
			for range calls {
				if res := call(t, c, cell, fn); res.Provider != peerText(other.host) {
					t.Error("the liar answered")
				}
			}
			if n := liar.program.begun.Load(); n > calls/3 {
				t.Errorf("it was asked for %d of %d calls", n, calls)
			}
		})
	}
}

// Arguments that two blame, or that are not what the schema wants, are bad. Nobody is blamed for saying so, and the
// first one who did is who is quoted.
func TestBadArguments(t *testing.T) {
	for name, tc := range map[string]struct {
		payload string
		asked   int
	}{
		"for two providers": {`{"text":"x"}`, 1},
		"by the schema":     {`{"text":1}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, cell, near, far := nearAndFar(t, few)
			near.program.handle, far.program.handle = says(cellproto.BadInput), says(cellproto.BadInput)
			req := request("once", "")
			req.Payload = []byte(tc.payload)
			_, err := try(t, c, cell.id.String(), req)
			wantKind(t, err, cellproto.BadInput)
			if n := len(c.Asked(far.host.ID())); n != tc.asked {
				t.Errorf("the other one was asked for %d functions", n)
			}
			if !c.remote(cell.id).winner.Serves(time.Now(), c.cfg.Policy) || len(c.remote(cell.id).refused) > 0 {
				t.Error("it is held against somebody")
			}
		})
	}
}

// What must not be repeated and may have run is said to, whatever another provider has said before.
func TestBlamedThenLost(t *testing.T) {
	c, cell, near, far := nearAndFar(t, few)
	near.program.handle = says(cellproto.BadInput)
	far.program.handle = func(*cellproto.Inbound) { far.cutLinks() }
	_, err := try(t, c, cell.id.String(), request("once", "x"))
	wantKind(t, err, cellproto.MayHaveRun)
}

// Whoever says that a pure function fails is contradicted by another one, and not asked first for long.
func TestFailsEachCall(t *testing.T) {
	c, cell, liar, other := nearAndFar(t, nil)
	liar.program.handle = says(cellproto.FuncError)
	other.program.handle = func(in *cellproto.Inbound) { time.Sleep(100 * time.Millisecond); answer(in) } // so far: a hedge goes to the liar late
	for range 20 {
		if res := call(t, c, cell, "echo"); res.Provider != peerText(other.host) {
			t.Error("the liar answered")
		}
	}
	if n := liar.program.begun.Load(); n > 6 {
		t.Errorf("it was asked for %d of 20 calls", n)
	}
}

// late has a provider answer its calls only once the other one has begun one.
func (p *provider) late(other *provider, answer func(*cellproto.Inbound)) {
	p.program.handle = func(in *cellproto.Inbound) {
		for other.program.begun.Load() == 0 && in.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		answer(in)
	}
}

// soon answers after so short a time that nobody gives up meanwhile whose answer is still waited for.
func soon(answer func(*cellproto.Inbound)) func(*cellproto.Inbound) {
	return func(in *cellproto.Inbound) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-in.Context().Done():
		}
		answer(in)
	}
}

// Of two who are asked beside each other, since the first one is late, the one who says that a pure function fails does not have
// the last word while the other one still may answer. It loses its place.
func TestErrorWaitsForWhoIsAskedBeside(t *testing.T) {
	fails := says(cellproto.FuncError)
	for name, tc := range map[string]struct {
		first, second func(*cellproto.Inbound)
		liar          int
	}{
		"of the hedge":           {soon(answer), fails, 1},
		"of who was asked first": {fails, soon(answer), 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, cell, near, far := nearAndFar(t, few)
			near.late(far, tc.first)
			far.program.handle = tc.second
			all := []*provider{near, far}
			if res := call(t, c, cell, "echo"); res.Provider != peerText(all[1-tc.liar].host) {
				t.Error("the liar answered")
			}
			r := c.remote(cell.id)
			r.mu.Lock()
			defer r.mu.Unlock()
			if _, held := r.refused[peerOf(all[tc.liar])]; !held || len(r.refused) > 1 {
				t.Errorf("it is held against %v", r.refused)
			}
		})
	}
}

// Two who say so are believed at once, and one of them when the other has had time enough.
func TestErrorBesideOthersIsTold(t *testing.T) {
	fails := says(cellproto.FuncError)
	t.Run("of both", func(t *testing.T) {
		const tries = 20 // of which one has to be made while this machine is not busy
		quick := false
		for i := 0; i < tries && !quick; i++ {
			c, cell, near, far := nearAndFar(t, few)
			var last atomic.Pointer[time.Time]
			note := func(in *cellproto.Inbound) { now := time.Now(); last.Store(&now); fails(in) }
			near.late(far, note)
			far.program.handle = note
			_, err := try(t, c, cell.id.String(), request("echo", "x"))
			wantKind(t, err, cellproto.FuncError)
			quick = time.Since(*last.Load()) < opinionLeast
		}
		if !quick {
			t.Error("it is always told late")
		}
	})
	for name, tc := range map[string]struct{ first, second func(*cellproto.Inbound) }{
		"of the hedge":           {silent, fails},
		"of who was asked first": {fails, silent},
	} {
		t.Run(name, func(t *testing.T) {
			c, cell, near, far := nearAndFar(t, few)
			near.late(far, tc.first)
			far.program.handle = tc.second
			_, err := try(t, c, cell.id.String(), request("echo", "x"))
			wantKind(t, err, cellproto.FuncError)
		})
	}
}

// Of three providers the two count that agree: who contradicts an error falsely is caught by the check that follows.
func TestErrorIsContradictedFalsely(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, few)
	for _, p := range all {
		p.program.handle = says(cellproto.FuncError)
	}
	c.measured(all[0], time.Millisecond, 0)
	c.measured(all[1], 100*time.Millisecond, 0)
	c.measured(all[2], time.Second, 0)
	all[1].program.handle = answer
	c.mustRace(t, cell)
	_, err := try(t, c, cell.id.String(), request("echo", "x"))
	wantKind(t, err, cellproto.FuncError)
	eventually(t, "the liar is banned", func() bool { return c.observed(peerOf(all[1])).Ban == race.BanLying })
	if c.observed(peerOf(all[0])).Failures > 0 {
		t.Error("it is held against who was right")
	}
}

// A second opinion on an error takes a token, so that functions that fail often do not double the load of all.
func TestErrorsAreDoubtedRarely(t *testing.T) {
	c, cell, near, far := nearAndFar(t, few)
	const calls = 60
	for range calls {
		_, err := try(t, c, cell.id.String(), request("fail", "x"))
		wantKind(t, err, cellproto.FuncError)
	}
	if n := near.program.begun.Load(); n != calls {
		t.Errorf("the winner was asked %d times", n)
	}
	if n := far.program.begun.Load(); n == 0 || n > calls/6 {
		t.Errorf("the other one was asked %d times", n)
	}
}

// How little time its caller has is not a provider's fault, be it one that is measured or one of whom only its claim is
// known: it is neither banned, nor left for long.
func TestShortDeadline(t *testing.T) {
	const takes = 60 * time.Millisecond
	for name, measured := range map[string]bool{"measured": true, "claims": false} {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			c, all := electorate(t, cell, 1, nil)
			all[0].program.handle = func(in *cellproto.Inbound) {
				time.Sleep(takes)
				answer(in)
			}
			if measured {
				c.measured(all[0], takes, 0)
				c.mustRace(t, cell)
			}
			for range 4 {
				ctx, cancel := context.WithTimeout(t.Context(), takes/2)
				_, err := c.Call(ctx, cell.id.String(), request("once", "x"))
				cancel()
				wantKind(t, err, cellproto.Timeout)
				if o := c.observed(peerOf(all[0])); o.Ban != race.BanNone || o.Failures > 0 {
					t.Errorf("what is remembered of it is %+v", o)
				}
			}
			call(t, c, cell, "once")
		})
	}
}

// Nor is it to be connected to in next to no time; another one is tried in what is left.
func TestHurriedConnect(t *testing.T) {
	c, cell, near, far := nearAndFar(t, few)
	near.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
	lk := c.links.live(peerOf(near), cell.id.String(), "")
	near.cutLinks()
	<-lk.conn.Done()
	ctx, cancel := context.WithTimeout(t.Context(), connectTime)
	defer cancel()
	res, err := c.Call(ctx, cell.id.String(), request("once", "x"))
	if err != nil || res.Provider != peerText(far.host) {
		t.Fatalf("%+v, %v", res, err)
	}
	if o := c.observed(peerOf(near)); o.Failures > 0 {
		t.Errorf("what is remembered of it is %+v", o)
	}
}

// Who answers neither a call until its caller's time is over, nor a ping, has failed.
func TestSilentUntilTheDeadline(t *testing.T) {
	c, cell, near, _ := nearAndFar(t, few)
	near.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) {
		hello := cellproto.Hello{Versions: []uint{cellproto.Version}, Agent: "mute", Auth: cellproto.AuthNone}
		payload, err := hello.Marshal()
		if err != nil {
			panic(err)
		}
		frame, err := cellproto.AppendFrame(nil, &cellproto.Frame{Type: cellproto.TypeHello, Payload: payload})
		if err != nil {
			panic(err)
		}
		_, _ = s.Write(frame)
		_, _ = s.Read(make([]byte, 1<<20))
		<-t.Context().Done()
		s.Reset()
	})
	near.cutLinks()
	id := peerOf(near)
	eventually(t, "the old link has ended", func() bool { return c.links.live(id, cell.id.String(), "") == nil })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, cell.id.String(), request("once", "x"))
	wantKind(t, err, cellproto.Timeout)
	eventually(t, "it has failed", func() bool { return c.observed(id).Failures > 0 })
}

// What somebody has said of a call is told within its time, though a race that may find others goes on.
func TestErrorsAreToldInTime(t *testing.T) {
	for name, tc := range map[string]struct {
		fn   string
		kind cellproto.Kind
	}{"of the function": {"echo", cellproto.FuncError}, "of its arguments": {"once", cellproto.BadInput}} {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			only, b := provide(t, cell, nil), &book{hangs: true}
			b.add(only.host)
			c := use(t, cell, b, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Policy = race.Policy{MinGap: time.Nanosecond} })
			call(t, c, cell, "echo") // has a patient race begin, which the search keeps open for a second
			only.program.handle = says(tc.kind)
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			defer cancel()
			_, err := c.Call(ctx, cell.id.String(), request(tc.fn, "x"))
			wantKind(t, err, tc.kind)
			if ctx.Err() != nil {
				t.Error("it is told too late")
			}
		})
	}
}

// Arguments that are blamed once the body is gone are bad: it would be no use to send it again.
func TestBlamedAfterTheBody(t *testing.T) {
	c, cell, near, far := nearAndFar(t, few)
	near.program.handle = func(in *cellproto.Inbound) {
		_, _ = io.Copy(io.Discard, in.Body())
		says(cellproto.BadInput)(in)
	}
	req := request("sum", "x")
	req.Body = io.LimitReader(zeros{}, 2*replayable)
	_, err := try(t, c, cell.id.String(), req)
	wantKind(t, err, cellproto.BadInput)
	if mayAgain(err) {
		t.Errorf("it says that it may be made again: %v", err)
	}
	if n := far.program.begun.Load(); n != 0 {
		t.Errorf("the other one was asked %d times", n)
	}
}
