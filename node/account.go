package node

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// How long a host is the account's before that is renewed, and how long before the end it is.
const (
	hostTerm  = 365 * 24 * time.Hour
	hostRenew = 90 * 24 * time.Hour
)

// account is the person's side of the ledger: which hosts are the account's, and what its key signs. Its key log
// has one writer, the nucleus of the home cell; those of the other cells on this machine ask it to be taken in,
// over its control socket, and know what it has written.
type account struct {
	a     *accounts
	id    ledger.Key
	keys  *keyring
	home  string // directory of the home cell
	dirs  *hostDirs
	pools *poolNames

	asked chan struct{} // closed once neighbours have said how long the key log is; of the home cell
	lost  atomic.Bool   // entries of it are missing, and too few who were asked knew it
	// The owner has said that what is here of it is all; and what is said of that to the owner, while it is asked for.
	accepted atomic.Bool
	doubts   atomic.Pointer[ctl.Recovery]

	writing   sync.Mutex // of the key log, so that two requests do not both begin it
	keeping   sync.Mutex
	known     bool       // to the home cell; guarded by keeping
	renewed   time.Time  // when hosts of other computers were asked last; guarded by keeping
	following sync.Mutex // of the key log, from the computer that writes it

	mu      sync.Mutex
	wants   map[ledger.Key]*ledger.Delegate // hosts of this computer that wait to be admitted; see consents
	trouble error                           // why this host is not the account's
	again   time.Time                       // when to try again
	pause   time.Duration
}

// newAccount reads the account's key for the ledger.
func newAccount(a *accounts) (*account, error) {
	o := &account{a: a, home: a.n.mirrors.home, asked: make(chan struct{}), wants: map[ledger.Key]*ledger.Delegate{}}
	var err error
	if o.keys, o.id, err = openKeyring(o.home); err != nil {
		return nil, err
	}
	o.pools = &poolNames{path: filepath.Join(o.home, "data", poolsFile)}
	o.dirs = openHostDirs(filepath.Join(a.n.cfg.Dir, "cache", hostsFile), a.log)
	return o, nil
}

func (o *account) atHome() bool { return o.home == o.a.n.cfg.Dir }

// delegates says whether this host can become the account's. A copy of somebody else's cell does not: there may be
// many, for a day each, so what it gives is credited to the account by each of its receipts.
func (o *account) delegates() bool { return o.a.n.mirror == nil && o.a.n.placed == nil }

// state gives the state of an identity's key log: an empty one if nothing is known of it.
func (o *account) state(id ledger.Key) (s *ledger.KeyState) {
	o.a.led.View(func(b *ledger.Book) { s = b.State(id) })
	if s == nil {
		s = &ledger.KeyState{Net: o.a.net, ID: id}
	}
	return s
}

// start asks neighbours about the key log before the home cell writes to it, and keeps this host the account's.
func (o *account) start(ctx context.Context) {
	a := o.a
	a.travel.Spread(o.id)
	if !o.atHome() {
		a.running.Go(func() { o.keep(ctx, time.Now()) })
		return
	}
	pools, err := o.named()
	if err != nil {
		a.log.Warn("the names of pools cannot be read", zap.Error(err))
	}
	for _, id := range pools {
		a.travel.Spread(id)
	}
	o.mark(false) // that of an old program, or of one that was cut off
	a.running.Go(func() {
		o.ask(ctx, askable{a.neighbours, func(ctx context.Context, p peer.ID) (uint64, error) { return a.travel.FetchLog(ctx, p, o.id) }, o.cells, o.askCell})
		o.mark(false)
		close(o.asked)
		if ctx.Err() == nil {
			o.keep(ctx, time.Now())
		}
	})
}

// keep has this host taken in again before its delegation ends, and hears what else has become of the account.
// It is called about once a minute.
func (o *account) keep(ctx context.Context, now time.Time) {
	if !o.keeping.TryLock() {
		return
	}
	defer o.keeping.Unlock()
	if !o.delegates() {
		o.announce(ctx)
		return
	}
	s := o.state(o.id)
	d, known := s.Hosts[o.a.self]
	o.mu.Lock()
	due := !now.Before(o.again)
	o.mu.Unlock()
	taken := o.regains(o.a.self, now.Add(hostTerm))
	fresh := known && lasts(d.NotAfter, now) && !taken
	switch {
	case o.atHome() && o.elsewhere(): // it is admitted from there, and told so
	case d.Revoked || !due && !fresh:
	case o.atHome():
		o.mark(false)
		o.renew(ctx, now)
		o.mend(ctx, now)
		if !fresh && (s.Len > 0 || taken || o.credited()) { // on its own a home cell needs no log
			o.attempted(now, o.begin(ctx, now))
		}
	case fresh:
		if err := o.hear(ctx, false); err != nil {
			o.a.log.Debug("the home cell was not heard", zap.Error(err))
		}
	default:
		o.attempted(now, o.join(ctx, now))
	}
}

// mend signs donations anew that are void, since they were made before and after a backup was restored.
func (o *account) mend(ctx context.Context, now time.Time) {
	for _, v := range o.a.led.Voids() {
		err := o.ready(ctx, "sign a donation anew", nil)
		var c *ledger.SignedCheque
		if err == nil {
			c, err = o.a.led.Renew(now, v, o.keys.inForce())
		}
		if err != nil {
			o.a.log.Warn("a donation is void, and cannot be made anew", zap.String("to", textOf(v.To)), zap.Uint64("uwh", v.UWH), zap.Error(err))
			continue
		}
		o.a.log.Info("a donation that was void is made anew", zap.String("to", textOf(v.To)), zap.Uint64("uwh", v.UWH))
		o.a.publishCheque(c)
		o.meet(v.To)
	}
	o.reseal(now)
}

// mostResealed is how many donations are signed anew at once: each is a write that is waited for.
const mostResealed = 64

// reseal signs donations anew that the key before has signed, and has others hear of them: from that key nobody takes them once it hears
// that it was replaced, and so neither would this ledger, if it lost them.
func (o *account) reseal(now time.Time) {
	for _, to := range o.a.led.Outdated(mostResealed) {
		c, err := o.a.led.Reseal(now, to, o.keys.inForce())
		if err != nil {
			o.a.log.Warn("a donation is not signed with the new key yet", zap.String("to", textOf(to)), zap.Error(err))
			return
		}
		o.a.publishCheque(c)
		o.meet(to)
	}
}

// credited says whether somebody owes the account something as such: its hosts are to be known as its own then.
func (o *account) credited() (yes bool) {
	o.a.led.View(func(b *ledger.Book) {
		given, _ := b.Alone(o.id)
		yes = given > 0
	})
	return yes
}

// announce tells the home cell, if it runs, where a cell is that gives for the account and is not its host.
func (o *account) announce(ctx context.Context) {
	if o.known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	ask := ctl.Delegation{Host: o.a.n.identity.Peer.String(), Cell: o.a.n.cfg.Cell.Name, Dir: o.a.n.cfg.Dir}
	err := (&ctl.Client{Dir: o.home}).Delegate(ctx, ask, o.told)
	o.known = err == nil
	if err != nil && !notRunning(err) {
		o.a.log.Debug("the home cell does not know of this one", zap.Error(err))
	}
}

// lasts says whether a delegation needs not be renewed yet.
func lasts(notAfter uint64, now time.Time) bool {
	return time.UnixMilli(int64(min(notAfter, 1<<62))).Sub(now) > hostRenew
}

// Between attempts to become the account's.
const (
	leastPause = time.Minute
	mostPause  = time.Hour
)

func (o *account) attempted(now time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trouble = err
	if err == nil {
		o.pause = 0
		return
	}
	o.pause = min(max(2*o.pause, leastPause), mostPause)
	o.again = now.Add(o.pause)
	level := zap.InfoLevel
	if cellproto.KindOf(err) == cellproto.NotFound {
		level = zap.DebugLevel // there is no home cell, and perhaps none is wanted
	}
	o.a.log.Log(level, "this host is not the account's yet", zap.Error(err), zap.Duration("next", o.pause))
}

// delegation is what a host agrees to.
func (o *account) delegation(now time.Time) (*ledger.Delegate, error) {
	d := &ledger.Delegate{Host: o.a.self, Cell: o.a.n.cfg.Cell.Name, NotAfter: uint64(now.Add(hostTerm).UnixMilli())}
	return d, d.SignConsent(o.a.net, o.id, o.a.key)
}

// join asks the home cell to take this host in, and starts its nucleus for it if there is a home cell.
func (o *account) join(ctx context.Context, now time.Time) error {
	const op = "join the account"
	if !isCell(o.home) {
		return cellproto.Errorf(op, cellproto.NotFound, "there is no home cell in %s", o.home).
			WithHint("cellctl wallet status, outside of any cell, makes one")
	}
	d, err := o.delegation(now)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout+2*askPatience)
	defer cancel()
	ask := ctl.Delegation{
		Host: o.a.n.identity.Peer.String(), Cell: d.Cell, Dir: o.a.n.cfg.Dir, NotAfter: int64(d.NotAfter), Consent: d.Consent[:],
	}
	try := func() error { return (&ctl.Client{Dir: o.home}).Delegate(ctx, ask, o.told) }
	err = try()
	if notRunning(err) {
		if err = wake(ctx, o.home); err == nil {
			err = try()
		}
	}
	if err != nil {
		return fromControl(op, err)
	}
	o.a.travel.Spread(o.id)
	return nil
}

// told takes in what another nucleus of this person tells.
func (o *account) told(entry []byte) error {
	r := o.a.led.Recall(time.Now(), entry)
	if r.Verdict.Charged() {
		return cellproto.Errorf("hear of the account", cellproto.Corrupt, "%s: %v", r.Verdict, r.Err)
	}
	o.a.travel.Pass(r)
	return nil
}

// hear asks the home cell, if it runs, what is new of the account; with own of what its hosts have given and taken, too.
func (o *account) hear(ctx context.Context, own bool) error {
	if o.atHome() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	err := (&ctl.Client{Dir: o.home}).Entries(ctx, o.state(o.id).Len, own, o.told)
	if notRunning(err) {
		return nil
	}
	return err
}

// gather asks the cells on this machine that are the account's, and run, what they have given and taken, so that
// the home cell has it all.
func (o *account) gather(ctx context.Context) {
	if !o.atHome() {
		if err := o.hear(ctx, true); err != nil {
			o.a.log.Debug("the home cell was not heard", zap.Error(err))
		}
		return
	}
	for host, dir := range o.dirs.all() {
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		err := (&ctl.Client{Dir: dir}).Entries(ctx, o.state(o.id).Len, true, o.told)
		cancel()
		if err != nil && !notRunning(err) {
			o.a.log.Debug("a cell of the account was not heard", zap.String("host", host), zap.Error(err))
		}
	}
}

// here refuses what only the home cell's nucleus can do.
func (o *account) here(op string) error {
	if !o.atHome() {
		return cellproto.Errorf(op, cellproto.Unsupported, "%s is not the home cell, which has the account's key", o.a.n.cfg.Cell.Name).
			WithHint("Name no directory: then the home cell is asked.")
	}
	if o.a.led == nil {
		return o.a.ill()
	}
	return nil
}

// ready waits until the key log may be written, and tells w, unless it is nil, that it does.
func (o *account) ready(ctx context.Context, op string, w *ctl.Writer) error {
	if err := o.here(op); err != nil {
		return err
	}
	if !o.elsewhere() { // else settle refuses, whatever neighbours know
		if err := o.awaitAsked(ctx, op, w); err != nil {
			return err
		}
	}
	return o.keys.settle(o.state(o.id))
}

// begin makes the account's key log, and the home cell's host the account's, as far as that is not so. o.writing
// is not held.
func (o *account) begin(ctx context.Context, now time.Time) error {
	if err := o.ready(ctx, "begin the account's key log", nil); err != nil {
		return err
	}
	o.writing.Lock()
	defer o.writing.Unlock()
	return o.beginLocked(now)
}

func (o *account) beginLocked(now time.Time) error {
	s := o.state(o.id)
	if s.Len == 0 {
		next, err := o.keys.make(thenKeyFile) // before anything says that there is one
		if err != nil {
			return err
		}
		if err := o.append(now, &ledger.Genesis{Next: ledger.HashKey(ledger.KeyOf(next))}); err != nil {
			return err
		}
		if err := o.keys.settle(o.state(o.id)); err != nil {
			return err
		}
	}
	own, err := o.delegation(now)
	if err != nil {
		return err
	}
	return o.delegate(own, now)
}

// delegate writes a delegation, unless there is one that is as good. o.writing is held.
func (o *account) delegate(d *ledger.Delegate, now time.Time) error {
	if h, ok := o.state(o.id).Hosts[d.Host]; ok {
		if h.Revoked {
			return cellproto.Errorf("delegate "+d.Cell, cellproto.Denied, "this host was revoked").
				WithHint("It needs a new key: stop the cell, remove keys/host.key and ledger/, and start it.")
		}
		if lasts(h.NotAfter, now) && h.Cell == d.Cell && !o.regains(d.Host, time.UnixMilli(int64(d.NotAfter))) {
			return nil
		}
	}
	return o.append(now, d)
}
