package give

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// Sensors look at the machine.
type Sensors interface {
	// Look sees everything. ours is the processor time and the bytes of disk that the hosted cells have used so
	// far, which are no load of others.
	Look(ctx context.Context, ours Usage) Snapshot
	// Glance sees what changes from one moment to the next: whether somebody is there and, every LoadEvery, what
	// others use of the processors, the lid, the battery and the network. It gives the rest as before has it. It
	// is cheap; ours is asked only when it is needed.
	Glance(ctx context.Context, ours func() Usage, before Snapshot) Snapshot
	Close()
}

// Usage is what all hosted cells together have used: CPU and Disk in all so far, RSS now.
type Usage struct {
	CPU  time.Duration
	RSS  int64 // bytes
	Disk int64 // bytes read and written
}

// Limiter holds the caps of all hosted cells together.
type Limiter interface {
	// Set changes the caps. An error says that they are not held: nothing may run then.
	Set(Caps) error
	// Leave has what is hosted do at once, beside whatever else runs, what it has to do to leave the machine. It
	// gives way again with the next Set.
	Leave()
	// Groups are the control groups that hold the caps, by controller, "" for version 2; none if there are none.
	Groups() map[string]string
	// Used gives what the cells that are hosted have used.
	Used(rows []Row) Usage
	// By says what holds which limit: "cgroup v1".
	By() string
	Close()
}

// Hosted is what is hosted. Its methods are called by one goroutine, one at a time, but for Rows.
type Hosted interface {
	// Pause has every hosted cell leave its callers and stop running, within 2 s. None is started until
	// Resume. It may come again while it is paused.
	Pause(ctx context.Context, why string) error
	// Resume lets them run. It comes again with every look. It does not wait for them: nobody watches
	// meanwhile.
	Resume(ctx context.Context) error
	// Clear stops and removes every hosted cell; what was fetched for them may stay in the cache.
	Clear(ctx context.Context) error
	// Rows lists what is hosted, with what is just being taken up. Any goroutine may ask.
	Rows(ctx context.Context) []Row
}

// Config says whose settings are used.
type Config struct {
	Dir string // of the home cell
}

// Deps is what a Giver needs besides.
type Deps struct {
	Sensors Sensors
	Limiter Limiter
	Log     *zap.Logger
	Now     func() time.Time // nil: time.Now
}

// Giver gives what the owner wants to give: it looks, decides, and has what is hosted run or pause.
type Giver struct {
	cfg  Config
	deps Deps
	now  func() time.Time

	wake   chan struct{}              // something has changed: look now; holds one
	asks   chan func(context.Context) // is done by the Giver's goroutine
	stop   context.CancelFunc
	ended  chan struct{}
	hosted Hosted // nil: nothing can be hosted; set before Start

	// Of the goroutine.
	rows    []Row     // when they were asked for last
	glanced time.Time // when it was looked at what changes from one moment to the next
	meter   meter

	mu       sync.Mutex // of what follows
	set      Settings
	state    State
	decision Decision
	snapshot Snapshot
	groups   map[string]string // that hold the caps, since they were set last
	failed   error             // of the last attempt to have what is hosted do what was decided
	broken   error             // the settings cannot be read; nothing is given
	used     Rates
	refused  []Refusal
}

// Bounds of what is hosted.
const (
	pauseLimit = 5 * time.Second
	clearLimit = 30 * time.Second
)

// How long a look at everything may take, and while somebody may come who would have to wait for its end.
const (
	lookLimit     = 3 * time.Second
	watchfulLimit = 400 * time.Millisecond
)

// New makes a Giver of the settings of the home cell in cfg.Dir. Settings that cannot be read give nothing;
// Status says so.
func New(cfg Config, deps Deps) *Giver {
	g := &Giver{
		cfg: cfg, deps: deps, now: deps.Now, wake: make(chan struct{}, 1), asks: make(chan func(context.Context)), ended: make(chan struct{}),
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.set, g.broken = LoadSettings(cfg.Dir); g.broken != nil {
		g.set = Defaults()
		deps.Log.Warn("the settings of what to give cannot be read: nothing is given", zap.Error(g.broken))
	}
	g.decision = Decision{Why: "the machine has not been looked at yet"}
	return g
}

// Attach says what is hosted. It is called before Start, or not at all.
func (g *Giver) Attach(h Hosted) { g.hosted = h }

// Start begins to give, if the owner wants it.
func (g *Giver) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	go func() {
		defer close(g.ended)
		g.run(ctx)
	}()
}

// Stop pauses what is hosted and ends. The settings stay.
func (g *Giver) Stop() {
	g.stop()
	<-g.ended
	g.deps.Limiter.Close()
	g.deps.Sensors.Close()
}

// On says whether the owner wants to give: the nucleus stays then.
func (g *Giver) On() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.On
}

// Changed says that something is hosted that was not, or the reverse.
func (g *Giver) Changed() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Take answers an offer. The caller asks for one at a time, and puts what it takes up among its Rows
// before it asks for the next. It holds nothing meanwhile that Hosted's methods wait for.
func (g *Giver) Take(ctx context.Context, need Need) Answer {
	if g.hosted == nil {
		return Answer{Why: "this machine hosts nothing"}
	}
	answer := Answer{Why: "this machine is busy", When: time.Second}
	if err := g.do(ctx, "answer an offer", func(ctx context.Context) error {
		g.rows = g.hosted.Rows(ctx)
		if g.lastDecision().Run && !g.watchful() { // nobody has looked since the last time
			g.glance(ctx)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		answer = admit(g.now(), g.set, g.decision, g.snapshot.Load, g.rows, need)
		return nil
	}); err != nil {
		return Answer{Why: "this machine is busy", When: time.Second}
	}
	return answer
}

// do has the Giver's goroutine do something, and waits for it.
func (g *Giver) do(ctx context.Context, op string, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case g.asks <- func(ctx context.Context) { done <- f(ctx) }:
	case <-g.ended:
		return cellproto.Errorf(op, cellproto.Unavailable, "the nucleus stops")
	case <-ctx.Done():
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	}
}

func (g *Giver) lastDecision() Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.decision
}

// Change changes the settings, for good, and does what follows. The error's kind is BadInput if they make no
// sense; nothing is changed then.
func (g *Giver) Change(ctx context.Context, change func(*Settings)) error {
	return g.do(ctx, "change what to give", func(ctx context.Context) error { return g.change(ctx, change) })
}

// run looks and acts until ctx ends.
func (g *Giver) run(ctx context.Context) {
	if !g.On() { // what a nucleus that was killed has left
		if err := g.clear(ctx); err != nil {
			g.deps.Log.Warn("what was hosted cannot be removed", zap.Error(err))
		}
	}
	g.step(ctx)
	full := time.NewTimer(g.pause())
	defer full.Stop()
	for {
		var moment <-chan time.Time
		if every := g.lastDecision().Glance; every > 0 && len(g.rows) > 0 {
			moment = time.After(time.Until(g.glanced.Add(every))) // whatever else there was to do meanwhile
		}
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseLimit)
			defer cancel()
			g.act(ctx, Decision{Why: "the nucleus stops"})
			return
		case f := <-g.asks:
			next := g.lastDecision().Again
			f(ctx)
			if g.lastDecision().Again.Equal(next) {
				continue // as below: who asks does not put it off
			}
		case <-g.wake:
			g.step(ctx)
		case <-full.C:
			g.step(ctx)
		case <-moment:
			if !g.glance(ctx) {
				continue // the time of the next look at everything stays
			}
		}
		full.Reset(g.pause())
	}
}

// watchful says that something runs that would have to pause as soon as somebody comes.
func (g *Giver) watchful() bool { return len(g.rows) > 0 && g.lastDecision().Run }

// pause is how long until the next look at everything.
func (g *Giver) pause() time.Duration {
	return max(g.lastDecision().Again.Sub(g.now()), time.Second)
}

// step looks at everything, decides, and acts.
func (g *Giver) step(ctx context.Context) {
	g.mu.Lock()
	on := g.set.On
	g.mu.Unlock()
	if g.hosted != nil {
		g.rows = g.hosted.Rows(ctx)
	}
	snap := Snapshot{}
	if on { // else there is nothing to look for
		limit := lookLimit
		if g.watchful() {
			limit = watchfulLimit
		}
		looking, cancel := context.WithTimeout(ctx, limit)
		g.glanced = time.Now() // whoever comes while it looks at the rest is seen right after
		snap = g.deps.Sensors.Look(looking, g.deps.Limiter.Used(g.rows))
		cancel()
	}
	g.decide(ctx, snap)
	g.measure()
}

// measure notes what the hosted cells use.
func (g *Giver) measure() {
	total := g.deps.Limiter.Used(g.rows)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used = g.meter.add(g.now(), total, g.snapshot.Load.Cores)
}

// glance looks at what changes from one moment to the next, and does what follows. It reports whether that was
// something else than before.
func (g *Giver) glance(ctx context.Context) bool {
	g.mu.Lock()
	snap := g.snapshot
	g.mu.Unlock()
	looking, cancel := ctx, context.CancelFunc(func() {})
	if !g.watchful() { // nobody has to wait for its end: who is slow to answer may take longer
		looking, cancel = context.WithTimeout(ctx, lookLimit)
	}
	snap = g.deps.Sensors.Glance(looking, func() Usage { return g.deps.Limiter.Used(g.rows) }, snap)
	cancel()
	g.glanced = time.Now()
	g.mu.Lock()
	last := g.decision
	d := Decide(g.now(), g.set, g.state, snap)
	acts := d.acts(&last)
	if !acts {
		d.Again = earliest(d.Again, last.Again)
		g.state, g.snapshot, g.decision = d.Next, snap, d
	}
	g.mu.Unlock()
	switch {
	case !acts:
	case d.Run && !last.Run: // not before everything has been looked at
		g.step(ctx)
	default:
		g.decide(ctx, snap)
	}
	return acts
}

func (g *Giver) decide(ctx context.Context, snap Snapshot) {
	g.mu.Lock()
	d := Decide(g.now(), g.set, g.state, snap)
	g.state, g.snapshot = d.Next, snap
	over := d.Over && g.set.On
	if over {
		g.set.On, g.set.Until = false, time.Time{} // it was for that time only
		if err := g.set.save(g.cfg.Dir); err != nil {
			g.deps.Log.Warn("cannot note that the time to give is over", zap.Error(err))
		}
	}
	g.mu.Unlock()
	g.act(ctx, d)
	if over {
		if err := g.clear(ctx); err != nil {
			g.deps.Log.Warn("what was hosted cannot be removed", zap.Error(err))
		}
	}
}

// act has what is hosted do what was decided. Without limits that hold nothing runs.
func (g *Giver) act(ctx context.Context, d Decision) {
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	var err error
	if d.Run {
		if err = g.deps.Limiter.Set(d.Caps); err != nil {
			d.Run, d.Why, d.Glance = false, "the limits cannot be held", 0
		} else if g.set.Max && len(g.deps.Limiter.Groups()) == 0 { // the share of a cell is what was unused when it was started
			d.Run, d.Why, d.Glance = false, "--max cannot be held: no control group can be made here", 0
		}
	}
	switch {
	case g.hosted == nil:
	case d.Run:
		err = g.hosted.Resume(ctx)
	default:
		g.deps.Limiter.Leave()
		err = errors.Join(err, g.hosted.Pause(ctx, d.Why))
	}
	g.mu.Lock()
	g.failed, g.decision = err, d
	g.groups = g.deps.Limiter.Groups()
	g.mu.Unlock()
	if err != nil {
		g.deps.Log.Warn("what is hosted does not do as it should", zap.Error(err), zap.Bool("run", d.Run))
	}
}

func (g *Giver) clear(ctx context.Context) error {
	if g.hosted == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, clearLimit)
	defer cancel()
	return g.hosted.Clear(ctx)
}

// change makes a change of the settings, and does what follows from it.
func (g *Giver) change(ctx context.Context, change func(*Settings)) error {
	g.mu.Lock()
	was, next := g.set, g.set
	g.mu.Unlock()
	change(&next)
	if err := next.Validate(); err != nil {
		return err
	}
	if err := next.save(g.cfg.Dir); err != nil {
		return err
	}
	g.mu.Lock()
	g.set, g.broken = next, nil
	g.mu.Unlock()
	g.step(ctx)
	if was.On && !next.On || len(g.deps.Limiter.Groups()) == 0 && next.lessThan(was) {
		return g.clear(ctx)
	}
	return nil
}

// lessThan says that what runs with its share of was has too large a one.
func (s *Settings) lessThan(was Settings) bool {
	a, b := float64(s.Policy.Hosts), float64(was.Policy.Hosts)
	return s.CPU/a < was.CPU/b || s.RAM/a < was.RAM/b || float64(s.Disk)/a < float64(was.Disk)/b || was.Max && !s.Max
}

// Report is how the giving stands.
type Report struct {
	Settings Settings
	Decision Decision
	Snapshot Snapshot
	By       string // what holds the caps
	Used     Rates
	Rows     []Row
	Groups   map[string]string // that hold the caps; none: shares do
	Refused  []Refusal         // the newest first
	Err      error             // why something is not as it should be
}

// Status gives how the giving stands.
func (g *Giver) Status(ctx context.Context) (Report, error) {
	var r Report
	err := g.do(ctx, "ask what is given", func(ctx context.Context) error {
		if g.hosted != nil {
			g.rows = g.hosted.Rows(ctx)
		}
		if g.On() && !g.watchful() && time.Since(g.glanced) >= LoadEvery { // nobody has looked since the last time
			g.glance(ctx)
		}
		g.measure()
		r.Rows = g.rows
		g.mu.Lock()
		defer g.mu.Unlock()
		r.Settings, r.Decision, r.Snapshot, r.Used, r.Refused = g.set, g.decision, g.snapshot, g.used, g.refused
		r.Groups = g.groups
		r.By, r.Err = g.deps.Limiter.By(), errors.Join(g.broken, g.failed)
		return nil
	})
	return r, err
}
