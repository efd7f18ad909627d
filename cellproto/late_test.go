package cellproto

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLateDeadlines: calls end at the deadlines that the connection watches, to the moment, whatever their
// order; the callee is told; what was answered before is not touched.
func TestLateDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		canceled := make(chan time.Duration, 8)
		begin := time.Now()
		callee := run(t, b, Config{Accept: func(c *Conn, f *Frame) {
			if f.Header.Func == "echo" {
				echoInline(c, f)
				return
			}
			in := c.Inbound(context.Background(), &Frame{ID: f.ID}) // without the deadline
			go func() {
				<-in.Context().Done()
				canceled <- time.Since(begin)
				in.ReplyError(in.Context().Err())
			}()
		}})
		c := run(t, a, Config{Opener: true})
		var calls sync.WaitGroup
		for _, timeout := range []time.Duration{3 * time.Second, time.Second, 2 * time.Second, 2 * time.Second} {
			calls.Go(func() {
				ctx, cancel := WithTimeout(context.Background(), time.Now(), timeout)
				defer cancel()
				if _, err := c.Call(ctx, &Request{Header: Header{Func: "hold"}}); KindOf(err) != Timeout || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("after %v: %v", timeout, err)
				}
				if took := time.Since(begin); took != timeout {
					t.Errorf("a call of %v took %v", timeout, took)
				}
			})
		}
		for range 40 {
			ctx, cancel := WithTimeout(context.Background(), time.Now(), 150*time.Millisecond)
			if r, err := c.Call(ctx, &Request{Header: Header{Func: "echo"}, Payload: []byte("x")}); err != nil || string(r.Payload) != "x" {
				t.Errorf("%v, %v", r, err)
			}
			cancel()
			time.Sleep(100 * time.Millisecond)
		}
		calls.Wait()
		for range 4 {
			<-canceled
		}
		synctest.Wait()
		if in, out := callee.InFlight(); in+out > 0 {
			t.Errorf("%d calls are left", in+out)
		}
		if in, out := c.InFlight(); in+out > 0 {
			t.Errorf("%d calls are left at the caller", in+out)
		}
	})
}

// TestLateContext: for everybody else it is a context with a deadline.
func TestLateContext(t *testing.T) {
	type key struct{}
	for name, parent := range map[string]func() (context.Context, context.CancelFunc){
		"of nothing": func() (context.Context, context.CancelFunc) { return context.Background(), func() {} },
		"of a value": func() (context.Context, context.CancelFunc) {
			return context.WithValue(context.Background(), key{}, 1), func() {}
		},
		"of one that ends": func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) },
		"of a longer other": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), time.Hour)
		},
		"of a shorter": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				outer, end := parent()
				defer end()
				want := time.Minute
				if name == "of a shorter" {
					want = time.Second
				}
				ctx, cancel := WithTimeout(outer, time.Now(), time.Minute)
				if d, ok := ctx.Deadline(); !ok || time.Until(d) != want || ctx.Err() != nil {
					t.Errorf("%v, %v, %v", d, ok, ctx.Err())
				}
				child, stop := context.WithCancel(ctx)
				begin := time.Now()
				<-child.Done()
				if took := time.Since(begin); took != want || !errors.Is(child.Err(), context.DeadlineExceeded) || ctx.Err() != child.Err() {
					t.Errorf("%v, %v after %v", ctx.Err(), child.Err(), took)
				}
				if ctx.Value(key{}) != outer.Value(key{}) {
					t.Error("a value is lost")
				}
				stop()
				cancel()
				again, cancel := WithTimeout(outer, time.Now(), time.Minute)
				cancel()
				if name != "of a shorter" && !errors.Is(again.Err(), context.Canceled) {
					t.Errorf("canceled: %v", again.Err())
				}
				<-again.Done()
				late, cancel := WithTimeout(context.Background(), time.Now(), time.Second)
				time.Sleep(time.Second)
				if !errors.Is(late.Err(), context.DeadlineExceeded) {
					t.Errorf("nobody has asked: %v", late.Err())
				}
				cancel()
			})
		})
	}
}
