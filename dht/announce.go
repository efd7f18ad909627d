package dht

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const (
	// renewal is how often a provider record is announced again. Records live for 48 h, and kad-dht
	// renews its own every 22 h (amino.DefaultProvideValidity and DefaultReprovideInterval); 12 h
	// leaves three chances, and replaces peers that left.
	renewal = 12 * time.Hour
	// roundTimeout bounds one round of announcing: with 30 % silent peers a record takes a minute.
	roundTimeout = 2 * time.Minute
	// provideAtOnce is how many records are announced at the same time, of all CIDs together.
	provideAtOnce = 8

	firstRetry   = 2 * time.Second
	longestRetry = 10 * time.Minute
)

// Announced says how far the announcing of a CID is.
type Announced struct {
	Keys int       // keys to announce now: the plain one and the salted ones; 0: not being announced
	Done int       // of these, how many at least one peer holds a record of
	Last time.Time // when a key was last announced; zero: never
	Err  error     // why the last round was not complete, with a hint; nil when it was
}

// announcer keeps provider records alive: one goroutine for each CID, which sleeps nearly always.
type announcer struct {
	d     *DHT
	slots chan struct{} // one for each record being announced

	mu      sync.Mutex
	entries map[string]*announcement // by multihash: provider records know no codec
	started bool
}

// announcement is one CID being announced.
type announcement struct {
	c     cid.Cid
	lead  time.Duration // how long before an epoch its keys are announced
	kick  chan struct{} // announce everything again
	stop  context.CancelFunc
	state Announced // guarded by announcer.mu
}

func newAnnouncer(d *DHT) *announcer {
	return &announcer{d: d, slots: make(chan struct{}, provideAtOnce), entries: make(map[string]*announcement)}
}

// Announce has this peer found as a provider of c from now on: under the plain key for any IPFS
// node, and under the salted ones. It returns at once; records are made in the background, renewed
// every 12 h, and retried until they are there. Announcing again what is announced does nothing.
func (d *DHT) Announce(c cid.Cid) {
	if !c.Defined() {
		return
	}
	a := d.announcer
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.entries[string(c.Hash())]; ok {
		return
	}
	e := &announcement{
		c:    c,
		lead: leadOf(d.host.ID().String(), c),
		kick: make(chan struct{}, 1),
	}
	e.state.Keys = len(announceKeys(d.cfg.Network, c, d.now(), e.lead))
	a.entries[string(c.Hash())] = e
	if a.started {
		a.launch(e)
	}
}

// Withdraw stops announcing c. Records that others hold expire by themselves, within 48 h.
func (d *DHT) Withdraw(c cid.Cid) {
	if !c.Defined() {
		return
	}
	a := d.announcer
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.entries[string(c.Hash())]; ok {
		delete(a.entries, string(c.Hash()))
		if e.stop != nil {
			e.stop()
		}
	}
}

// AnnounceState says how far the announcing of c is.
func (d *DHT) AnnounceState(c cid.Cid) Announced {
	if !c.Defined() {
		return Announced{}
	}
	a := d.announcer
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.entries[string(c.Hash())]; ok {
		return e.state
	}
	return Announced{}
}

// start begins with what was asked for before the DHT was started.
func (a *announcer) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.started = true
	for _, e := range a.entries {
		a.launch(e)
	}
}

// launch starts the goroutine of e, unless the DHT has stopped; the caller holds a.mu.
func (a *announcer) launch(e *announcement) {
	ctx, done, ok := a.d.begin(context.Background())
	if !ok {
		return
	}
	ctx, e.stop = context.WithCancel(ctx)
	go func() {
		defer done()
		defer e.stop()
		a.run(ctx, e)
	}()
}

// again has everything announced again, now.
func (a *announcer) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.entries {
		select {
		case e.kick <- struct{}{}:
		default:
		}
	}
}

func (a *announcer) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.entries)
}

// run announces e until ctx ends.
func (a *announcer) run(ctx context.Context, e *announcement) {
	retry := newBackOff(firstRetry, longestRetry)
	done := make(map[cid.Cid]time.Time) // key -> when it was announced
	for {
		now := a.d.now()
		keys := announceKeys(a.d.cfg.Network, e.c, now, e.lead)
		var err error
		if late := due(keys, done, now); len(late) > 0 {
			err = a.round(ctx, late, done)
		}
		a.report(e, keys, done, err)
		var wait time.Duration
		if err != nil {
			wait = retry.NextBackOff()
		} else {
			retry.Reset()
			now = a.d.now()
			wait = nextDue(keys, done, now, e.lead).Sub(now)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-e.kick:
			timer.Stop()
			retry.Reset()
			clear(done)
		case <-timer.C:
		}
	}
}

// round announces the keys, notes in done those that were, and gives the first error of the others.
func (a *announcer) round(ctx context.Context, keys []cid.Cid, done map[cid.Cid]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() {
			select {
			case a.slots <- struct{}{}:
				defer func() { <-a.slots }()
				errs[i] = a.d.provide(ctx, key)
			case <-ctx.Done():
				errs[i] = ctx.Err()
			}
		})
	}
	wg.Wait()
	var first error
	now := a.d.now()
	for i, key := range keys {
		if errs[i] == nil {
			done[key] = now
		} else if first == nil {
			first = errs[i]
		}
	}
	return first
}

// report writes down how far e is, and forgets keys that are no longer announced.
func (a *announcer) report(e *announcement, keys []cid.Cid, done map[cid.Cid]time.Time, err error) {
	current := make(map[cid.Cid]bool, len(keys))
	for _, key := range keys {
		current[key] = true
	}
	state := Announced{Keys: len(keys), Err: err}
	for key, at := range done {
		if !current[key] {
			delete(done, key)
			continue
		}
		state.Done++
		if at.After(state.Last) {
			state.Last = at
		}
	}
	a.mu.Lock()
	e.state = state
	a.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		a.d.log.Debug("not announced everywhere yet", zap.Stringer("cid", e.c),
			zap.Int("done", state.Done), zap.Int("keys", state.Keys), zap.Error(err))
	}
}

// provide puts one provider record into the tables, and fails when no peer has taken it. This
// peer's own table has it in any case, for whoever asks this peer.
func (d *DHT) provide(ctx context.Context, key cid.Cid) error {
	op := "announce " + key.String()
	t := d.tables.Load()
	if t == nil {
		return cellproto.Errorf(op, cellproto.Unavailable, "%w", errNotRunning)
	}
	all := t.each()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, table := range all {
		wg.Go(func() { errs[i] = d.provideIn(ctx, t, table, key) })
	}
	wg.Wait()
	// The network's own table counts if it has peers, the one of the LAN if it is all there is.
	for i, table := range all {
		if table.RoutingTable().Size() == 0 {
			continue
		}
		if errs[i] != nil {
			return cellproto.Errorf(op, kindOr(errs[i], cellproto.Unavailable), "%w", errs[i]).
				WithHint("It is tried again by itself; `cellctl doctor` shows whether this peer can be reached.")
		}
		return nil
	}
	return d.noPeers(op)
}

// provideIn puts one provider record into one table.
func (d *DHT) provideIn(ctx context.Context, t *tables, table *kad.IpfsDHT, key cid.Cid) error {
	if table.RoutingTable().Size() == 0 {
		return table.Provide(ctx, key, false)
	}
	l := d.newLookup(t, string(key.Hash()))
	if err := table.Provide(withLookup(ctx, l), key, true); err != nil {
		return err
	}
	if l.stored.Load() > 0 {
		return nil
	}
	if len(table.FilteredAddrs()) == 0 {
		return errors.New("this peer has no address that others on the network could use")
	}
	return errors.New("no peer took the record")
}

// kindOr gives err's kind, or other for an error that carries none.
func kindOr(err error, other cellproto.Kind) cellproto.Kind {
	if kind := cellproto.KindOf(err); kind != cellproto.Failed {
		return kind
	}
	return other
}

// due gives the keys that are to be announced at now.
func due(keys []cid.Cid, done map[cid.Cid]time.Time, now time.Time) []cid.Cid {
	var late []cid.Cid
	for _, key := range keys {
		if at, ok := done[key]; !ok || now.Sub(at) >= renewal {
			late = append(late, key)
		}
	}
	return late
}

// nextDue gives when something is to be announced next, after all keys were: when the oldest is due
// for renewal, when the keys of the next epoch are, or when the epoch ends; at least a second after
// now.
func nextDue(keys []cid.Cid, done map[cid.Cid]time.Time, now time.Time, lead time.Duration) time.Time {
	end := time.Unix(int64(Epoch(now)+1)*int64(epochLength/time.Second), 0)
	next := end
	if early := end.Add(-lead); early.After(now) {
		next = early
	}
	for _, key := range keys {
		if at, ok := done[key]; ok && at.Add(renewal).Before(next) {
			next = at.Add(renewal)
		}
	}
	if least := now.Add(time.Second); next.Before(least) {
		return least
	}
	return next
}

// leadOf gives how long before an epoch a peer announces its keys of c: one to two hours, different
// for each peer and CID, or everybody would announce everything in the same second.
func leadOf(peer string, c cid.Cid) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(peer))
	_, _ = h.Write(c.Hash())
	const half = epochOverlap / 2
	return half + time.Duration(h.Sum64()%uint64(half))
}
