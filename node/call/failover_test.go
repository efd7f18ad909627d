package call

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// runLog counts how often each call ran, over all providers.
type runLog struct {
	mu sync.Mutex
	of map[string]int
}

func (r *runLog) handle(in *cellproto.Inbound) {
	r.mu.Lock()
	r.of[in.Header.Func+string(in.Payload)]++
	r.mu.Unlock()
	answer(in)
}

// The winner gets into every sort of trouble while calls are under way. Pure and idempotent functions do
// not fail; what is neither fails only if it may have run, says so, and never runs twice.
func TestFailoverUnderLoad(t *testing.T) {
	troubles := map[string]struct {
		strike func(t *testing.T, cell *published, p *provider)
		loses  bool // what was under way is lost, and may have run
		spares bool // what is neither pure nor idempotent is not called: it would wait for its deadline
	}{
		"killed":                    {func(_ *testing.T, _ *published, p *provider) { p.host.Close() }, true, false},
		"loses its connections":     {func(_ *testing.T, _ *published, p *provider) { p.cutLinks() }, true, false},
		"stops in good order":       {func(_ *testing.T, _ *published, p *provider) { drain(p) }, false, false},
		"serves another version":    {func(t *testing.T, _ *published, p *provider) { serveAnother(t, p) }, false, false},
		"is full":                   {func(_ *testing.T, _ *published, p *provider) { p.program.full.Store(true) }, false, false},
		"its program crashes":       {func(_ *testing.T, _ *published, p *provider) { p.program.crash() }, true, false},
		"its program falls silent":  {func(_ *testing.T, _ *published, p *provider) { p.program.mute.Store(true) }, false, true},
		"its program does not come": {func(_ *testing.T, _ *published, p *provider) { p.program.breakDown() }, true, false},
	}
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cell := publish(t, testSchema())
			all := &runLog{of: map[string]int{}}
			c, providers := electorate(t, cell, 3, nil)
			for _, p := range providers {
				p.program.handle = func(in *cellproto.Inbound) {
					if p.program.mute.Load() {
						silent(in)
						return
					}
					all.handle(in)
				}
			}
			winner := string(c.remote(cell.id).decision.Winner)
			functions := []string{"echo", "count", "once"}
			if trouble.spares {
				functions = functions[:2]
			}
			var callers sync.WaitGroup
			var calls, lost, after atomic.Int64
			struck := make(chan struct{})
			for i := range 9 {
				callers.Go(func() {
					fn := functions[i%len(functions)]
					for n := 0; after.Load() < 300; n++ {
						ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
						res, err := c.Call(ctx, cell.id.String(), request(fn, fmt.Sprint(i, " ", n)))
						cancel()
						calls.Add(1)
						select {
						case <-struck:
							after.Add(1)
						default:
						}
						switch {
						case err == nil && string(res.Reply.Payload) != fmt.Sprintf(`{"text":"%d %d"}`, i, n):
							t.Errorf("%s gave %s", fn, res.Reply.Payload)
						case err == nil:
						case fn == "once" && trouble.loses && cellproto.KindOf(err) == cellproto.MayHaveRun:
							lost.Add(1)
						default:
							t.Errorf("%s: %v (%v)", fn, err, cellproto.KindOf(err))
						}
					}
				})
			}
			eventually(t, "calls are under way", func() bool { return calls.Load() > 100 })
			for _, p := range providers {
				if peerText(p.host) == winner {
					trouble.strike(t, cell, p)
				}
			}
			close(struck)
			callers.Wait()
			all.mu.Lock()
			defer all.mu.Unlock()
			twice := 0
			for what, n := range all.of {
				if n > 1 && what[:4] == "once" {
					t.Errorf("%s ran %d times", what, n)
				}
				if n > 1 {
					twice++
				}
			}
			t.Logf("%d calls, %d of them may have run (neither pure nor idempotent), %d ran again", calls.Load(), lost.Load(), twice)
		})
	}
}

// drain is what a nucleus does that stops: goaway, and what is under way is finished.
func drain(p *provider) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p.server.Close(ctx)
}

func serveAnother(t *testing.T, p *provider) {
	serving, err := NewServing("bafyanother", testSchema())
	if err != nil {
		t.Error(err)
		return
	}
	p.server.Set(serving)
}

// breakDown has the program end, and not start again.
func (p *fakeProgram) breakDown() {
	p.mu.Lock()
	p.broken = cellproto.Errorf("start", cellproto.Unavailable, "there is none")
	p.broken.(*cellproto.Error).RetryAfter = time.Second
	p.mu.Unlock()
	p.crash()
}

// Providers that have no place for a moment cost some time only; those that have none for long say so, and
// when to come back.
func TestFullForAMoment(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, nil)
	for _, p := range all {
		p.program.full.Store(true)
	}
	time.AfterFunc(300*time.Millisecond, func() { all[1].program.full.Store(false) })
	if res := call(t, c, cell, "once"); res.Provider != peerText(all[1].host) {
		t.Errorf("%s answered", res.Provider)
	}
	all[1].program.full.Store(true)
	begin := time.Now()
	_, err := try(t, c, cell.id.String(), request("once", "x"))
	wantKind(t, err, cellproto.Overloaded)
	if cellproto.RetryAfterOf(err) <= 0 {
		t.Error("it does not say when to come back")
	}
	if took := time.Since(begin); took < graceTime/2 || took > patience/2 {
		t.Errorf("it took %v", took)
	}
	if n := all[0].program.begun.Load() + all[1].program.begun.Load(); n != 1 {
		t.Errorf("%d calls ran", n)
	}
}

// The deadline of a call, and that its caller gives up, reach the program.
func TestDeadlineReachesTheProgram(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 1, nil)
	got := make(chan time.Time, 1)
	ended := make(chan struct{})
	all[0].program.handle = func(in *cellproto.Inbound) {
		d, _ := in.Context().Deadline()
		got <- d
		<-in.Context().Done()
		close(ended)
		in.ReplyError(in.Context().Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() { _, err := c.Call(ctx, cell.id.String(), request("once", "x")); result <- err }()
	want, _ := ctx.Deadline()
	if d := <-got; d.Before(want.Add(-patience/2)) || d.After(want.Add(patience/2)) {
		t.Errorf("the program's deadline is %v from the caller's", d.Sub(want))
	}
	cancel()
	wantKind(t, <-result, cellproto.Canceled)
	<-ended
}
