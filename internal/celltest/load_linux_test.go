package celltest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// witnessed is a reply of the program witness.
type witnessed struct {
	Key      string `json:"key"`
	Version  string `json:"version"`
	Instance string `json:"instance"`
}

// made is a call of the load, and what came of it.
type made struct {
	caller int
	key    string
	fn     string
	want   string // the version that was addressed; "": whatever the name stood for
	direct bool   // to the program near the callers, at its address
	at     time.Time
	took   time.Duration
	err    error
	reply  witnessed
	meta   ctl.UseMeta
}

func (m *made) end() time.Time { return m.at.Add(m.took) }

// repeatable says that the call may not fail because one of those who could answer it has gone.
func (m *made) repeatable() bool { return m.fn != "once" }

// aim is what the calls of a load go to. Every fifth goes to a version that is named by its CID.
type aim struct {
	target   string
	want     string            // the version that target is; "": it is a name
	versions map[string]string // CIDs by version
}

// steadyLoad has callers make calls at a fixed rate, whether the ones before have been answered or not.
type steadyLoad struct {
	callers []*Cell
	aim     atomic.Pointer[aim]
	work    sync.WaitGroup
	stop    chan struct{}
	late    atomic.Int64 // ns, since somebody looked
	latest  atomic.Int64 // ns

	mu    sync.Mutex
	calls []made
}

// perSecond is how many calls each caller makes.
const perSecond = 50

func startLoad(callers []*Cell, a aim) *steadyLoad {
	l := &steadyLoad{callers: callers, stop: make(chan struct{})}
	l.aim.Store(&a)
	for i := range callers {
		l.work.Go(func() { l.run(i) })
	}
	return l
}

func (l *steadyLoad) run(caller int) {
	const gap = time.Second / perSecond
	at := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		select {
		case now := <-timer.C:
			l.late.Store(max(l.late.Load(), int64(now.Sub(at))))
			l.latest.Store(max(l.latest.Load(), int64(now.Sub(at))))
			due := at // not when it was late
			l.work.Go(func() { l.call(caller, i, due) })
		case <-l.stop:
			return
		}
		at = at.Add(gap)
		timer.Reset(time.Until(at))
	}
}

// lateness gives by how much the load itself was late at most since it was asked last: a machine that is
// busy with other things makes every call look slow.
func (l *steadyLoad) lateness() time.Duration { return time.Duration(l.late.Swap(0)) }

// busy says that the load itself was late once by more than a call near by takes.
func (l *steadyLoad) busy() bool { return time.Duration(l.latest.Load()) > wished*time.Millisecond }

// call makes the i-th call of a caller. Of ten, two are of a pure function and one is of a function that must
// not be repeated.
func (l *steadyLoad) call(caller, i int, at time.Time) {
	m := made{caller: caller, key: fmt.Sprintf("%c%d", 'a'+caller, i), fn: "note", at: at}
	switch i % 10 {
	case 3, 8:
		m.fn = "look"
	case 5:
		m.fn = "once"
	}
	a := l.aim.Load()
	target := a.target
	m.want, m.direct = a.want, target == nearCell
	if versions := len(a.versions); versions > 0 && i%5 == 1 {
		names := make([]string, 0, versions)
		for v := range a.versions {
			names = append(names, v)
		}
		slices.Sort(names)
		m.want = names[i/5%versions]
		target = a.versions[m.want]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	args, err := json.Marshal(map[string]string{"key": m.key})
	if err == nil {
		m.reply, m.meta, err = ask(ctx, l.callers[caller], ctl.UseRequest{Target: target, Func: m.fn, Args: args, Key: m.key})
	}
	m.err, m.took = err, time.Since(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, m)
}

func ask(ctx context.Context, c *Cell, req ctl.UseRequest) (w witnessed, meta ctl.UseMeta, err error) {
	deadline, _ := ctx.Deadline()
	req.Timeout, req.CallerDir = time.Until(deadline), c.Dir
	r, err := (&ctl.Client{Dir: c.Dir}).Use(ctx, req, nil)
	if err != nil {
		return w, meta, err
	}
	defer r.Close()
	return w, r.UseMeta, json.NewDecoder(r).Decode(&w)
}

// end stops making calls, and waits for those that are on their way.
func (l *steadyLoad) end() []made {
	close(l.stop)
	l.work.Wait()
	return l.calls
}

// between gives the calls that were made in a span of time and have ended.
func (l *steadyLoad) between(from, to time.Time) []made {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []made
	for i := len(l.calls) - 1; i >= 0 && l.calls[i].at.After(from.Add(-15*time.Second)); i-- { // they end in another order
		if m := l.calls[i]; !m.at.Before(from) && m.at.Before(to) {
			out = append(out, m)
		}
	}
	return out
}

// percentile gives the p-th percentile of how long calls took.
func percentile(calls []made, p int) time.Duration {
	if len(calls) == 0 {
		return 0
	}
	took := make([]time.Duration, len(calls))
	for i, m := range calls {
		took[i] = m.took
	}
	slices.Sort(took)
	return took[min(len(took)*p/100, len(took)-1)]
}
