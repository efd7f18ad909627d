package give

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// pausing tells when what is hosted is paused.
type pausing struct {
	fakeHosted
	paused chan time.Time
	ran    chan struct{}
}

func (p *pausing) Pause(ctx context.Context, why string) error {
	if strings.HasPrefix(why, "somebody ") {
		select {
		case p.paused <- time.Now():
		default:
		}
	}
	return nil
}

func (p *pausing) Resume(context.Context) error {
	select {
	case p.ran <- struct{}{}:
	default:
	}
	return nil
}

// From a key to the pause, by the clock, with the real sensors and a pipe for a keyboard.
func TestInputToPause(t *testing.T) {
	f := newFake(t, "", "")
	write := f.plug()
	var ahead atomic.Int64 // of the real clock: nobody waits for the quiet minute
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	m := newMachine(f.roots, zap.NewNop(), now)
	h := &pausing{paused: make(chan time.Time, 1), ran: make(chan struct{}, 1)}
	g := New(Config{Dir: t.TempDir()}, Deps{Sensors: m, Limiter: &fakeLimiter{}, Log: zap.NewNop(), Now: now})
	g.Attach(h)
	g.Start()
	defer g.Stop()
	if err := g.Change(context.Background(), func(s *Settings) { s.On, s.Busy = true, 100 }); err != nil {
		t.Fatal(err)
	}
	h.host(Row{CID: someCell})
	worst := time.Duration(0)
	for range 3 {
		<-h.paused // for who was there
		ahead.Add(int64(Quiet + time.Second))
		g.Changed()
		<-h.ran
		begin := time.Now()
		write(eventOf(monotonic(), evKey, keyDown))
		at := <-h.paused
		worst = max(worst, at.Sub(begin))
		h.paused <- at
	}
	t.Logf("from input to pause: at most %v", worst)
	if worst > time.Second {
		t.Errorf("%v, a second may pass", worst)
	}
}
