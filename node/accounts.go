package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// ledgerDir is where a cell's ledger is, below its directory.
const ledgerDir = "ledger"

// accounts is the ledger of this nucleus at work: it meters the program, has those who call sign for what they
// have used, and signs for what was used elsewhere.
type accounts struct {
	n      *nucleus
	log    *zap.Logger
	led    *ledger.Ledger
	report *ledger.Report
	net    ledger.Net
	self   ledger.Key
	key    ed25519.PrivateKey
	prices *ledger.PriceTable
	energy *energy
	news   *gossip.Log
	// credit is whose what this host gives is, if not its own: of a hosted cell, as its host has said.
	credit *ledger.Key
	limit  gossip.Limiter

	cancel  context.CancelFunc
	running sync.WaitGroup

	// For the goroutine that ticks.
	last    measured // what was measured last
	at      time.Time
	granted uint64

	mu       sync.Mutex
	debtors  map[string]*debtor          // by the text of their peer ID
	lenders  map[ledger.Key]*lender      // those who have sent bills
	told     map[ledger.RegKey]published // what neighbours were told
	grown    map[ledger.RegKey]bool      // own registers that have grown since
	pulled   map[peer.ID]uint64
	verdicts map[ledger.Verdict]uint64
	billing  map[string]bool // a bill is on its way
	fault    error           // of the disk, said once
}

// measured is what a run of the program has used.
type measured struct {
	run, cpu uint64
}

// debtor is a host that has called.
type debtor struct {
	peer    peer.ID
	key     ledger.Key
	base    ledger.Receipt // the total to which what it uses in this nucleus's life is added
	signed  uint64         // credit that it has signed for
	tried   time.Time      // to have it sign
	refused error          // why it has not; nil: it has, or was not asked
}

// lender is a host that was called, and has sent a bill.
type lender struct {
	before  ledger.Receipt // what was signed before this nucleus counted
	refused error          // why its last bill was not signed
}

type published struct {
	credit uint64
	at     time.Time
}

// routerRegisters is how many registers between others a router keeps.
const routerRegisters = 2000

// startAccounts opens the ledger. The nucleus serves without one too, when the disk does not take it: it
// says so, and nobody is owed anything.
func (n *nucleus) startAccounts(started *closers) error {
	raw, err := n.identity.Host.Raw()
	if err != nil || len(raw) != ed25519.PrivateKeySize {
		return cellproto.Errorf("open the ledger", cellproto.Unsupported, "the host key is no Ed25519 key")
	}
	prices, err := ledger.LoadPrices(ledger.PriceVersion)
	if err != nil {
		return err
	}
	now := time.Now()
	a := &accounts{
		n: n, log: n.log.Named("ledger"), net: ledger.NetOf(n.cfg.Network.Name), key: ed25519.PrivateKey(raw), prices: prices,
		energy: newEnergy("/sys", "/proc", runtime.NumCPU(), prices), news: gossip.NewLog(uint64(now.UnixMilli())), at: now,
		debtors: map[string]*debtor{}, lenders: map[ledger.Key]*lender{}, told: map[ledger.RegKey]published{}, grown: map[ledger.RegKey]bool{}, pulled: map[peer.ID]uint64{},
		verdicts: map[ledger.Verdict]uint64{}, billing: map[string]bool{},
	}
	a.self = ledger.KeyOf(a.key)
	if n.placed != nil && n.placed.CreditTo != "" {
		p, err := peer.Decode(n.placed.CreditTo)
		if err != nil {
			return cellproto.Errorf("open the ledger", cellproto.BadInput, "who is credited: %w", err)
		}
		key, err := gossip.KeyOf(p)
		if err != nil {
			return err
		}
		a.credit = &key
	}
	cfg := ledger.Config{Net: a.net, Self: a.self}
	if n.profile == Router {
		cfg.MaxForeign, cfg.MaxLogs = routerRegisters, routerRegisters/10 // each is a third of a KiB of flash
	}
	files, err := ledger.OpenDir(filepath.Join(n.cfg.Dir, ledgerDir))
	if err == nil {
		a.led, a.report, err = ledger.Open(cfg, files, now)
	}
	if err != nil {
		a.fault = err
		a.log.Error("the ledger cannot be opened: nothing is billed", zap.Error(err))
		n.accounts = a
		return nil
	}
	a.led.View(func(b *ledger.Book) {
		b.Registers(func(k ledger.RegKey, _ ledger.Register) bool {
			if k.Provider == a.self || k.Consumer == a.self {
				a.grown[k] = true
			}
			return true
		})
	})
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.Background())
	n.accounts = a
	n.handle(cellproto.ProtocolLedger, func(s network.Stream) error { return gossip.Serve(s, a) })
	a.running.Go(func() { a.run(ctx) })
	end := once(a.close) // another celld opens it anew
	started.add(end)
	n.upgrades.goodbye.add(end)
	return nil
}

// close writes down what was used and not signed for, so that the next nucleus goes on from there, and
// closes the files.
func (a *accounts) close() {
	a.cancel()
	a.running.Wait()
	now := time.Now()
	a.tick(now)
	a.mu.Lock()
	for who, u := range a.usages() {
		if d := a.owes(who); d != nil {
			if total, _, err := a.total(d, u, now); err == nil {
				_, err = a.led.SignTotal(now, total, ledger.RoleProvider, a.key)
				a.log.Debug("claim written", zap.Stringer("of", d.peer), zap.Error(err))
			}
		}
	}
	a.mu.Unlock()
	if err := a.led.Close(); err != nil {
		a.log.Warn("the ledger was not closed in good order", zap.Error(err))
	}
}

// How often the program is measured while somebody calls, and neighbours are asked what is new.
const (
	meterEvery = time.Second
	pullEvery  = time.Minute
	idleEvery  = 5 * time.Second
)

// run ticks: every second while there are calls, else now and then for the store's sake.
func (a *accounts) run(ctx context.Context) {
	timer := time.NewTimer(meterEvery)
	defer timer.Stop()
	pull := time.NewTicker(pullEvery)
	defer pull.Stop()
	meter := a.n.server.Meter()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pull.C:
			a.pull(ctx)
			continue
		case <-meter.Awake():
			a.measure(time.Now()) // what was before is nobody's
			a.energy.of(0)
			timer.Reset(meterEvery)
			continue
		case <-timer.C:
		}
		now := time.Now()
		busy := a.tick(now)
		a.bill(ctx, now)
		a.makeRoom(now)
		a.publish(now)
		a.note(a.led.Tick(now))
		if busy {
			timer.Reset(meterEvery)
		} else {
			timer.Reset(idleEvery)
		}
	}
}

// note says in the log when the disk fails, and when it is well again.
func (a *accounts) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.fault == nil {
		a.log.Error("the ledger cannot be written; it is kept in memory, and tried again", zap.Error(err))
	}
	if err == nil && a.fault != nil {
		a.log.Info("the ledger is written again")
	}
	a.fault = err
}

// measure gives what the program has used since it was measured last.
func (a *accounts) measure(now time.Time) call.Spent {
	took := now.Sub(a.at)
	a.at = now
	if a.n.program == nil {
		return call.Spent{}
	}
	u := a.n.program.Usage()
	before := a.last
	a.last = measured{u.Run, u.CPU}
	if u.Run != before.run {
		before.cpu = 0 // another run of it: what its start took is part of what its callers wanted
	}
	return call.Spent{
		CPU: u.CPU - min(before.cpu, u.CPU), RAM: uint64(float64(u.RSS) * took.Seconds()), Cores: runtime.NumCPU(), Aside: a.aside(took),
	}
}

// aside estimates the time in flight of the calls that the program takes from its callers itself.
func (a *accounts) aside(took time.Duration) uint64 {
	load := a.n.load() // which counts what they have done
	g := a.n.program.GrantedUse()
	calls := g.Served - min(a.granted, g.Served)
	a.granted = g.Served
	each := time.Duration(load.P50) * time.Microsecond
	return uint64(g.InFlight)*uint64(took) + min(calls*uint64(max(each, 0)), uint64(took)*uint64(max(g.Conns, 1)))
}

// tick divides what was used among those who called. It reports whether anybody did.
func (a *accounts) tick(now time.Time) bool {
	s := a.measure(now)
	s.Energy = a.energy.of(s.CPU)
	return a.n.server.Meter().Tick(now, s) > 0
}

// meterOf gives a usage as receipts have it.
func meterOf(u call.Usage) ledger.Meter {
	return ledger.Meter{CPU: u.CPU, Wall: u.Wall, RAM: u.RAM, In: u.In, Out: u.Out, Energy: u.Energy}
}

// owes gives the account of a caller; nil for one whose key the ledger cannot hold. a.mu is held.
func (a *accounts) owes(who string) *debtor {
	if d, ok := a.debtors[who]; ok {
		return d
	}
	d := func() *debtor {
		p, err := peer.Decode(who)
		if err != nil {
			return nil // on a Unix socket
		}
		key, err := gossip.KeyOf(p)
		if err != nil || key == a.self {
			return nil
		}
		d := &debtor{peer: p, key: key, tried: time.Now()}
		d.base = ledger.Receipt{Net: a.net, Consumer: key, Provider: a.self}
		if a.credit != nil && *a.credit != key && *a.credit != a.self {
			d.base.Beneficiary = a.credit
		}
		reg := a.register(d.base.RegKey())
		for _, s := range []*ledger.Signed{reg.Ack, reg.Claim} {
			if s != nil && s.Credit >= d.base.Credit {
				d.base = s.Receipt
			}
		}
		d.signed = reg.Credit()
		return d
	}()
	a.debtors[who] = d
	return d
}

func (a *accounts) register(k ledger.RegKey) (r ledger.Register) {
	a.led.View(func(b *ledger.Book) { r, _ = b.Register(k) })
	return r
}

// total gives what a caller owes in all.
func (a *accounts) total(d *debtor, u call.Usage, now time.Time) (ledger.Receipt, *ledger.Signed, error) {
	r := d.base
	r.N, r.Meter = d.base.N+u.Calls, gossip.Plus(d.base.Meter, meterOf(u))
	r.Est, r.T = a.energy.source(), uint64(now.UnixMilli())
	acked := a.register(r.RegKey()).Ack
	next, err := gossip.Next(r, acked, a.prices)
	return next, acked, err
}

// usages gives what each caller has used.
func (a *accounts) usages() map[string]call.Usage {
	all := map[string]call.Usage{}
	a.n.server.Meter().Each(func(who string, u call.Usage) { all[who] = u })
	return all
}

// bill has those sign who have used enough, or for long enough.
func (a *accounts) bill(ctx context.Context, now time.Time) {
	all := a.usages()
	a.mu.Lock()
	defer a.mu.Unlock()
	for who, u := range all {
		d := a.owes(who)
		if d == nil || a.billing[who] {
			continue
		}
		total := gossip.Plus(d.base.Meter, meterOf(u))
		credit, err := a.prices.Credit(&total)
		if err != nil {
			continue // the register is full: nothing more is credited
		}
		window := ledger.Window(d.signed)
		if !ledger.SignDue(credit-min(d.signed, credit), window, now.Sub(d.tried)) ||
			d.refused != nil && now.Sub(d.tried) < pullEvery ||
			a.n.host.Network().Connectedness(d.peer) == network.NotConnected {
			continue
		}
		d.tried, a.billing[who] = now, true
		a.running.Go(func() {
			err := a.settle(ctx, d, u, now)
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.billing, who)
			if err != nil && d.refused == nil {
				a.log.Info("a caller does not sign for what it has used: it is served with the newcomers when others wait",
					zap.Stringer("peer", d.peer), zap.Error(err))
			}
			d.refused = err
		})
	}
}

// makeRoom forgets callers that have left, once there are many: what they have used and not signed for is
// written down, and is where their accounts go on when they come back.
func (a *accounts) makeRoom(now time.Time) {
	if !a.n.server.Meter().Crowded() {
		return
	}
	all := a.usages()
	a.mu.Lock()
	defer a.mu.Unlock()
	for who := range all {
		d := a.owes(who)
		if a.billing[who] {
			continue
		}
		u, ok := a.n.server.Forget(who)
		if !ok {
			continue
		}
		delete(a.debtors, who)
		if d == nil {
			continue
		}
		if total, _, err := a.total(d, u, now); err == nil {
			_, err = a.led.SignTotal(now, total, ledger.RoleProvider, a.key)
			a.log.Debug("caller forgotten", zap.Stringer("peer", d.peer), zap.Error(err))
		}
	}
}

// settle sends one bill, and takes the receipt.
func (a *accounts) settle(ctx context.Context, d *debtor, u call.Usage, now time.Time) error {
	for try := 0; ; try++ {
		a.mu.Lock()
		total, acked, err := a.total(d, u, now)
		a.mu.Unlock()
		if err != nil {
			return err
		}
		bill, err := a.led.SignTotal(now, total, ledger.RoleProvider, a.key)
		if err != nil {
			return err
		}
		entry, err := bill.Encode()
		if err != nil {
			return err
		}
		var before []byte
		if acked != nil {
			if before, err = acked.Encode(); err != nil {
				return err
			}
		}
		answer, err := gossip.Bill(ctx, a.n.host, d.peer, entry, before)
		if err != nil {
			return err
		}
		again, err := a.receive(d, answer, total)
		if err != nil || !again || try == 2 {
			return err
		}
	}
}

// receive takes the answer to a bill. It says again when the consumer has signed for more than this host
// remembered: what was used comes on top of that.
func (a *accounts) receive(d *debtor, answer []byte, total ledger.Receipt) (again bool, err error) {
	const op = "take receipt"
	s, _, err := ledger.DecodeReceipt(answer)
	if err != nil {
		a.n.charge(d.peer, err)
		return false, err
	}
	if s.RegKey() != total.RegKey() || s.ConsumerSig == nil {
		err := cellproto.Errorf(op, cellproto.BadInput, "the answer to a bill is something else")
		a.n.charge(d.peer, err)
		return false, err
	}
	if err := a.ingest(d.peer, answer); err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	acked := a.register(total.RegKey()).Ack
	if acked == nil || acked.Credit < s.Credit {
		return false, cellproto.Errorf(op, cellproto.Corrupt, "the receipt was not taken")
	}
	d.signed = acked.Credit
	a.grown[total.RegKey()] = true
	if acked.Credit > total.Credit {
		d.base = acked.Receipt
		return true, nil
	}
	if acked.Credit < total.Credit {
		return false, cellproto.Errorf(op, cellproto.Denied, "the caller has signed for less than the bill")
	}
	return false, nil
}

// ingest takes an entry from a peer, within the limits.
func (a *accounts) ingest(from peer.ID, entry []byte) error {
	now := time.Now()
	if !a.limit.Allow(now, from) {
		return cellproto.Errorf("take entry", cellproto.Overloaded, "too many entries")
	}
	r := a.led.Ingest(now, entry)
	after := time.Now()
	a.limit.Spent(after, after.Sub(now))
	a.mu.Lock()
	a.verdicts[r.Verdict]++
	a.mu.Unlock()
	if r.Verdict.Charged() {
		err := cellproto.Errorf("take entry", cellproto.BadInput, "%s: %v", r.Verdict, r.Err)
		a.n.charge(from, err)
		return err
	}
	if r.Verdict == ledger.Forked || r.Verdict == ledger.Stored && r.Host != (ledger.Key{}) {
		a.news.Publish(string(r.Slot[:]), r.Record) // everybody is to know
	}
	return nil
}

// Sign answers a bill; see gossip.Books.
func (a *accounts) Sign(from ledger.Key, bill, before []byte) ([]byte, error) {
	const op = "sign receipt"
	p, err := peerOf(from)
	if err != nil {
		return nil, err
	}
	if before != nil {
		if err := a.ingest(p, before); err != nil { // what this host has lost comes back
			return nil, err
		}
	}
	r, _, err := ledger.DecodeReceipt(bill)
	if err != nil {
		return nil, err
	}
	if r.Consumer != a.self || r.Provider != from || r.Net != a.net || r.Beneficiary != nil && *r.Beneficiary == a.self {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the bill is not of the two hosts that talk")
	}
	acked := a.register(r.RegKey()).Ack
	if acked != nil && acked.Credit >= r.Credit {
		return acked.Encode()
	}
	a.mu.Lock()
	l := a.lenders[from]
	if l == nil {
		l = &lender{}
		if acked != nil {
			l.before = acked.Receipt
		}
		a.lenders[from] = l
	}
	l.refused = gossip.Check(&r.Receipt, acked, &l.before, a.seen(p))
	err = l.refused
	a.mu.Unlock()
	if err == nil {
		err = a.ingest(p, bill)
	}
	if err != nil {
		a.log.Warn("a bill was not signed", zap.Stringer("peer", p), zap.Error(err))
		return nil, err
	}
	s, err := a.led.SignTotal(time.Now(), r.Receipt, ledger.RoleConsumer, a.key)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.grown[r.RegKey()] = true
	a.mu.Unlock()
	return s.Encode()
}

// seen gives what this host knows of its own calls to a provider.
func (a *accounts) seen(p peer.ID) gossip.Seen {
	u := a.n.caller.Spent(p, time.Now())
	return gossip.Seen{Wall: u.Wall, Sent: u.Out, Got: u.In}
}

func peerOf(k ledger.Key) (peer.ID, error) {
	pub, err := cryptoKey(k)
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

// Since gives what was published; see gossip.Books.
func (a *accounts) Since(from uint64, room int) ([][]byte, uint64) { return a.news.Since(from, room) }

// publish tells neighbours of the own registers that have grown.
func (a *accounts) publish(now time.Time) {
	type news struct {
		key   ledger.RegKey
		entry *ledger.Signed
	}
	var all []news
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.grown) == 0 {
		return
	}
	a.led.View(func(b *ledger.Book) {
		for k := range a.grown {
			r, _ := b.Register(k)
			t := a.told[k]
			if r.Ack != nil && ledger.PublishDue(t.credit, r.Ack.Credit, ledger.Window(t.credit), now.Sub(t.at)) {
				all = append(all, news{k, r.Ack})
			}
		}
	})
	for _, x := range all {
		delete(a.grown, x.key)
		if e, err := x.entry.Encode(); err == nil {
			a.news.Publish(x.key.Consumer.String()+x.key.Provider.String()+x.key.Beneficiary.String(), e)
			a.told[x.key] = published{x.entry.Credit, now}
		}
	}
}

// pull asks neighbours what is new.
func (a *accounts) pull(ctx context.Context) {
	for _, p := range a.neighbours() {
		a.running.Go(func() {
			a.mu.Lock()
			from := a.pulled[p]
			a.mu.Unlock()
			next, err := gossip.Pull(ctx, a.n.host, p, from, func(e []byte) error { return a.ingest(p, e) })
			if err != nil {
				a.log.Debug("a neighbour was not heard", zap.Stringer("peer", p), zap.Error(err))
				if kind := cellproto.KindOf(err); !errors.Is(err, ctx.Err()) && kind == cellproto.TooLarge {
					a.n.charge(p, err)
				}
				return
			}
			a.mu.Lock()
			a.pulled[p] = next
			a.mu.Unlock()
		})
	}
}
