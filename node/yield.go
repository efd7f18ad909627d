package node

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// What is different in the nucleus of a mirror that is hosted for others: it runs only as long as the
// home cell of the machine's owner says that it may.

const (
	// leaseFor is how long it may run without being told so again.
	leaseFor = 15 * time.Second
	// yieldGrace is how long calls in flight may go on when the machine is needed. The owner is to feel
	// nothing of the program after 2 s, of which this is the larger part.
	yieldGrace = 1200 * time.Millisecond
	// yieldSoon is yieldGrace where all calls can be made again elsewhere: a call of a tenth of a second ends within it, also
	// under the cap that it has.
	yieldSoon = 400 * time.Millisecond
	// yieldKept is how long what has yielded keeps its memory: then the nucleus ends too. Whoever lets it
	// run again starts it anew.
	yieldKept = 2 * time.Minute
)

// lease is the owner's word that a hosted mirror may run, and for how long.
type lease struct {
	n      *nucleus
	ctx    context.Context // ends with the nucleus
	cancel context.CancelFunc
	ended  chan struct{}

	changes sync.Mutex    // one yields or returns at a time
	news    chan struct{} // holds one: until or since has changed

	yielded atomic.Bool

	mu    sync.Mutex
	until time.Time // it may run so long
	since time.Time // when it yielded; zero: it runs
}

// startLease begins to watch the lease of a hosted mirror; of other cells there is none. Whoever has started
// it, it is at rest until the home cell says otherwise.
func (n *nucleus) startLease(started *closers) {
	if n.mirror == nil || !n.mirror.Hosted {
		return
	}
	l := &lease{n: n, ended: make(chan struct{}), news: make(chan struct{}, 1), until: time.Now().Add(leaseFor)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	n.lease = l
	if n.taken == nil || n.program == nil || n.program.Current() == nil { // else it has just been running
		l.yield(l.ctx, "nobody has said yet that it may run")
	}
	go l.watch()
	started.add(func() { l.cancel(); <-l.ended })
}

// watch has the mirror yield when the lease is over, and end when it has yielded for long.
func (l *lease) watch() {
	defer close(l.ended)
	timer := time.NewTimer(leaseFor)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.news:
		case <-timer.C:
		}
		l.mu.Lock()
		due, again := leaseDue(time.Now(), l.until, l.since)
		l.mu.Unlock()
		switch due {
		case leaseOver:
			l.expire()
		case leaseForgotten:
			l.n.log.Info("it has been at rest for long: ending")
			l.n.stop()
			return
		}
		timer.Reset(again)
	}
}

// What is due of a lease.
const (
	leaseHolds     = iota
	leaseOver      // it has to yield
	leaseForgotten // it has yielded long ago
)

// leaseDue says what is due of a lease that holds until then, of a mirror that has yielded since then, and
// when to look again. It is pure.
func leaseDue(now, until, since time.Time) (due int, again time.Duration) {
	switch {
	case since.IsZero() && !now.Before(until):
		return leaseOver, yieldKept
	case since.IsZero():
		return leaseHolds, until.Sub(now)
	case now.Sub(since) >= yieldKept:
		return leaseForgotten, 0
	}
	return leaseHolds, yieldKept - now.Sub(since)
}

// expire has the mirror yield, unless it was told meanwhile that it may go on.
func (l *lease) expire() {
	l.changes.Lock()
	defer l.changes.Unlock()
	l.mu.Lock()
	due, _ := leaseDue(time.Now(), l.until, l.since)
	l.mu.Unlock()
	if due == leaseOver {
		l.rest(l.ctx, "nobody says any more that it may run")
	}
}

// graceOf is for how long calls in flight of a cell may go on when the machine is needed. What goes on meanwhile costs the owner
// a share of it, whoever else is busy; a call that its caller can make again is better off with somebody who has a machine
// for it. A body, which may have come or gone in part, is not made again for sure.
func graceOf(s *cellproto.Schema) time.Duration {
	if s == nil {
		return yieldGrace
	}
	for _, version := range append([]*cellproto.Schema{s}, s.Older...) {
		for _, fn := range version.Functions {
			if !fn.Pure && !fn.Idempotent || fn.BodyIn || fn.BodyOut {
				return yieldGrace
			}
		}
	}
	return yieldSoon
}

// yield gives the machine back: callers leave, calls in flight have graceOf, and then nothing of the
// program runs. It reports how many calls were cut. Again it does nothing.
func (l *lease) yield(ctx context.Context, why string) (cut int) {
	l.changes.Lock()
	defer l.changes.Unlock()
	return l.rest(ctx, why)
}

// rest is yield; l.changes is held.
func (l *lease) rest(ctx context.Context, why string) (cut int) {
	if l.yielded.Swap(true) {
		return 0
	}
	begin := time.Now()
	n := l.n
	if n.program != nil {
		n.program.Decline()
	}
	grace, cancel := context.WithTimeout(ctx, graceOf(n.server.Serving().Schema))
	defer cancel()
	cut = n.server.Rest(grace)
	if n.program != nil {
		n.program.Rest()
	}
	l.mu.Lock()
	l.since = time.Now()
	l.mu.Unlock()
	l.tell()
	n.log.Info("yielded", zap.String("why", why), zap.Int("cut", cut), zap.Duration("took", time.Since(begin)))
	return cut
}

// renew lets the mirror run for a time from now.
func (l *lease) renew(d time.Duration) {
	l.changes.Lock()
	defer l.changes.Unlock()
	l.mu.Lock()
	l.until, l.since = time.Now().Add(d), time.Time{}
	l.mu.Unlock()
	l.tell()
	if !l.yielded.Swap(false) {
		return
	}
	if l.n.program != nil {
		l.n.program.Rise()
	}
	l.n.server.Welcome()
	l.n.log.Info("taken up again")
}

func (l *lease) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// resting says why a hosted mirror serves nobody now, as its adverts tell; nil: it does.
func (n *nucleus) resting() error {
	if n.lease == nil || !n.lease.yielded.Load() {
		return nil
	}
	err := cellproto.Errorf("advert", cellproto.Overloaded, "the machine is needed by its owner")
	err.RetryAfter = leaseFor
	return err
}

// hostedOnly refuses what only a hosted mirror does.
func (n *nucleus) hostedOnly() (*lease, error) {
	if n.lease == nil {
		return nil, cellproto.Errorf("yield", cellproto.Unsupported, "%s is not hosted for others", n.cfg.Cell.Name)
	}
	return n.lease, nil
}

func (n *nucleus) ctlYield(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	l, err := n.hostedOnly()
	if err != nil {
		return nil, err
	}
	why := r.URL.Query().Get("why")
	return ctl.Yielded{Cut: l.yield(context.WithoutCancel(ctx), why[:min(len(why), maxReason)])}, nil
}

func (n *nucleus) ctlReturn(_ context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	l, err := n.hostedOnly()
	if err != nil {
		return nil, err
	}
	d, err := ctl.ParseLease(r.URL.Query())
	if err != nil {
		return nil, cellproto.Errorf("read request", cellproto.BadInput, "%w", err)
	}
	l.renew(d)
	return n.status(), nil
}
