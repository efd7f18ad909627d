package cellproto

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// The tests of this file run in simulated time: what is answered at once takes none, so that any wait
// for the ticking that hands the reading over is seen.

// callee gives a connection to one who answers "echo" at once, "slow" after a second, and "never".
func callee(t *testing.T) (*Conn, *Conn) {
	a, b := memoryPair()
	c := run(t, a, Config{Opener: true})
	far := run(t, b, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		switch f.Header.Func {
		case "slow":
			c.tasks.Go(func() { time.Sleep(time.Second); in.Reply(Header{}, in.Payload) })
		case "never":
			c.tasks.Go(func() { <-in.Context().Done(); in.ReplyError(in.Context().Err()) })
		default:
			in.Reply(Header{}, in.Payload)
		}
	}})
	return c, far
}

func echo(t testing.TB, c *Conn, fn string) {
	t.Helper()
	r, err := c.Call(t.Context(), &Request{Header: Header{Func: fn}, Payload: []byte(fn)})
	if err != nil || string(r.Payload) != fn {
		t.Errorf("%s: %v %v", fn, r, err)
	}
}

// rest makes the reading goroutine see that only one calls, so that it leaves the reading to that one.
func rest(t *testing.T, c *Conn) {
	t.Helper()
	for range 2 {
		echo(t, c, "echo")
		synctest.Wait()
	}
	if c.whose() != nobodys {
		t.Fatal("the reading goroutine reads on")
	}
}

func (c *Conn) whose() whose {
	c.turn.mu.Lock()
	defer c.turn.mu.Unlock()
	return c.turn.who
}

func (c *Conn) turns() uint64 {
	c.turn.mu.Lock()
	defer c.turn.mu.Unlock()
	return c.turn.taken
}

func TestCallerReadsItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := callee(t)
		rest(t, c)
		begin := time.Now()
		for range 100 {
			echo(t, c, "echo")
		}
		if n := c.turns(); n != 100 {
			t.Errorf("%d of 100 callers have read their own answer", n)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("the calls have waited for %v", d)
		}
		time.Sleep(2 * turnTick)
		synctest.Wait()
		if c.whose() != goroutines {
			t.Error("nobody reads though nobody has called for a while")
		}
	})
}

// TestTurnsAmongMany: whoever reads, nobody waits for anything but its answer.
func TestTurnsAmongMany(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		callers := rapid.IntRange(1, 6).Draw(rt, "callers")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 12), 1, 40).Draw(rt, "pauses in ms")
		synctest.Test(t, func(t *testing.T) {
			c, _ := callee(t)
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					for k := range pauses {
						pause := pauses[(k*(i+1))%len(pauses)]
						time.Sleep(time.Duration(pause) * time.Millisecond)
						begin := time.Now()
						if pause == 7 {
							_, err := c.Ping(t.Context())
							if err != nil {
								t.Error(err)
							}
						} else {
							echo(t, c, "echo")
						}
						if d := time.Since(begin); d != 0 {
							t.Errorf("an answer that was there has taken %v", d)
						}
					}
				})
			}
			wg.Wait()
		})
	})
}

func TestCallerThatReadsGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := callee(t)
		rest(t, c)
		for name, call := range map[string]func() (context.Context, context.CancelFunc){
			"canceled": func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Millisecond, cancel)
				return ctx, cancel
			},
			"late": func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), time.Second) },
			"soon": func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), time.Millisecond)
			},
		} {
			ctx, cancel := call()
			begin := time.Now()
			_, err := c.Call(ctx, &Request{Header: Header{Func: "never"}})
			took := time.Since(begin)
			cancel()
			if kind := KindOf(err); kind != Canceled && kind != Timeout {
				t.Errorf("%s: %v", name, err)
			}
			if most := map[string]time.Duration{"canceled": 3 * turnTick, "late": time.Second, "soon": time.Millisecond}[name]; took > most {
				t.Errorf("%s: noticed after %v", name, took)
			}
			synctest.Wait()
			echo(t, c, "echo")
		}
		begin := time.Now()
		echo(t, c, "slow")
		if d := time.Since(begin); d != time.Second {
			t.Errorf("an answer after a second was there after %v", d)
		}
	})
}

func TestConnectionEndsInCallersTurn(t *testing.T) {
	for name, end := range map[string]func(near, far *Conn){
		"here":  func(near, _ *Conn) { near.Close() },
		"there": func(_, far *Conn) { far.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			c, far := callee(t)
			rest(t, c)
			time.AfterFunc(time.Millisecond, func() { end(c, far) })
			_, err := c.Call(t.Context(), &Request{Header: Header{Func: "never"}})
			if kind := KindOf(err); kind != MayHaveRun && kind != Canceled {
				t.Errorf("ended %s: %v", name, err)
			}
		})
	}
}

// TestGoawayWhileNobodyReads is noticed soon, though no caller reads.
func TestGoawayWhileNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := callee(t)
		rest(t, c)
		if err := far.Goaway("moving"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * turnTick)
		synctest.Wait()
		if !c.Leaving() {
			t.Error("the goaway was not read")
		}
	})
}
