package node

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
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
	travel *gossip.Travel // how entries come and go; nil without a ledger
	// credit is whose what this host gives is, if not its own: of a hosted cell, as its host has said.
	credit *ledger.Key
	own    *account

	goods atomic.Pointer[chosen] // public goods

	ctx     context.Context // of what it does by itself
	cancel  context.CancelFunc
	running sync.WaitGroup

	// For the goroutine that ticks.
	last    measured // what was measured last
	at      time.Time
	granted uint64

	// For metrics: receipts that this host and its callers have signed, and bills that a caller has refused.
	signed, paid, unpaidBills atomic.Uint64

	signing sync.Mutex // one bill after the other: each is held against all that were signed; taken before mu

	// mu is never held while the ledger is written: a call that waits for its place is ranked under it.
	mu      sync.Mutex
	debtors map[string]*debtor          // by the text of their peer ID
	lenders map[ledger.Key]*lender      // those who have sent bills
	market  gossip.Market               // what calls have cost
	told    map[ledger.RegKey]published // what neighbours were told
	grown   map[ledger.RegKey]bool      // own registers that have grown since
	billing map[string]bool             // a bill is on its way
	fault   error                       // of the disk, said once
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
		energy: newEnergy("/sys", "/proc", runtime.NumCPU(), prices), at: now,
		debtors: map[string]*debtor{}, lenders: map[ledger.Key]*lender{}, told: map[ledger.RegKey]published{}, grown: map[ledger.RegKey]bool{},
		billing: map[string]bool{},
	}
	a.self = ledger.KeyOf(a.key)
	if a.own, err = newAccount(a); err != nil {
		return err
	}
	if err := a.creditTo(); err != nil {
		return err
	}
	cfg := ledger.Config{Net: a.net, Self: a.self, Account: a.own.id}
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
	if a.own.atHome() {
		a.own.suspect() // before anybody can tell it a part of what is missing
	}
	a.recall()
	a.recallTabs()
	a.goods.Store(&chosen{})
	a.choose(now)
	a.ctx, a.cancel = context.WithCancel(context.Background())
	n.accounts = a
	a.travel = gossip.NewTravel(gossip.Config{Net: a.net, Key: a.key, Account: a.own.id, First: uint64(now.UnixMilli())}, gossip.Deps{
		Host: n.host, Ledger: a.led, Neighbours: a.neighbours, Charge: n.charge, Consents: a.own.consents, Shown: a.own.shows(), Log: a.log,
	})
	n.handle(cellproto.ProtocolLedger, func(s network.Stream) error { return a.travel.Serve(s, a) })
	a.running.Go(func() { a.run(a.ctx) })
	a.running.Go(func() { a.travel.Run(a.ctx) })
	a.running.Go(func() { a.meet(a.ctx) })
	a.own.start(a.ctx)
	end := once(a.close) // another celld opens it anew
	started.add(end)
	n.upgrades.goodbye.add(end)
	return nil
}

// creditTo says whose what this host gives is. A copy of a cell gives for whom its host has said, else for the
// account; it is not one of the account's hosts.
func (a *accounts) creditTo() error {
	switch placed := a.n.placed; {
	case placed != nil && placed.CreditTo != "":
		p, err := peer.Decode(placed.CreditTo)
		if err != nil {
			return cellproto.Errorf("open the ledger", cellproto.BadInput, "who is credited: %w", err)
		}
		key, err := gossip.KeyOf(p)
		a.credit = &key
		return err
	case !a.own.delegates():
		a.credit = &a.own.id
	}
	return nil
}

// recall notes the registers of this host that the disk had: neighbours are told of them anew.
func (a *accounts) recall() {
	a.led.View(func(b *ledger.Book) {
		b.Registers(func(k ledger.RegKey, _ ledger.Register) bool {
			if k.Provider == a.self || k.Consumer == a.self {
				a.grown[k] = true
			}
			return true
		})
	})
}

// close writes down what was used and not signed for, so that the next nucleus goes on from there, and
// closes the files.
func (a *accounts) close() {
	a.cancel()
	a.running.Wait()
	now := time.Now()
	a.tick(now)
	spent, _ := a.spent(now)
	a.keepTabs(now, spent, true)
	a.mu.Lock()
	for who, u := range a.usages() {
		if d := a.owes(who); d != nil {
			_ = a.claim(d, u, now) // which says in the log what became of it
		}
	}
	a.mu.Unlock()
	if err := a.led.Close(); err != nil {
		a.log.Warn("the ledger was not closed in good order", zap.Error(err))
	}
}

// How often the program is measured while somebody calls, and when not; and who does not sign is asked to.
const (
	meterEvery  = time.Second
	idleEvery   = 5 * time.Second
	refuseEvery = time.Minute
)

// run ticks: every second while there are calls, else now and then for the store's sake.
func (a *accounts) run(ctx context.Context) {
	timer := time.NewTimer(meterEvery)
	defer timer.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	meter, asked := a.n.server.Meter(), a.n.caller.Meter()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-minute.C:
			a.choose(now)
			a.running.Go(func() { a.own.keep(ctx, time.Now()) })
			continue
		case <-meter.Awake():
			a.measure(time.Now()) // what was before is nobody's
			a.energy.of(0)
			timer.Reset(meterEvery)
			continue
		case <-asked.Awake():
			timer.Reset(meterEvery)
			continue
		case <-timer.C:
		}
		now := time.Now()
		busy := a.tick(now)
		spent, asking := a.spent(now)
		a.keepTabs(now, spent, false)
		a.bill(ctx, now)
		a.makeRoom(now)
		a.publish(now)
		a.note(a.led.Tick(now))
		if busy || asking {
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

// owner gives the account that a host belongs to, else the host.
func (a *accounts) owner(host ledger.Key) (id ledger.Key) {
	a.led.View(func(b *ledger.Book) { id = b.Owner(host) })
	return id
}
