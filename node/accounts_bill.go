package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// Bills, both ways: callers sign for what they have used, this host for what it has used elsewhere.

// debtor is a host that has called.
type debtor struct {
	peer      peer.ID
	key       ledger.Key
	base      ledger.Receipt // the total to which what it uses in this nucleus's life is added
	from      call.Usage     // of that, what epochs before this one have
	billed    call.Usage     // of that, what is in a bill or a claim of this epoch or one before
	signed    uint64         // credit that it has signed for, in this epoch
	earlier   uint64         // and in those before
	tried     time.Time      // to have it sign
	refused   error          // why it has not; nil: it has, or was not asked
	refusedAt time.Time      // since when
	failed    int            // bills in a row that did not arrive, or their answer
	sent      []uint64       // credit of the bills of this nucleus since the last receipt, and of that
}

// maxSent bounds debtor.sent.
const maxSent = 64

// heard goes on from what a caller has signed for, if that is more than this host remembered, and not a bill of
// this nucleus's: what it uses in this nucleus's life comes on top. It came back from the caller, or from a neighbour.
//
// What this host had claimed before can be more in some numbers and less in others, or even more in all and less in one:
// it goes on above both, or it could sign no bill until that number has caught up.
func (d *debtor) heard(acked *ledger.Signed) {
	if acked != nil && !slices.Contains(d.sent, acked.Credit) {
		d.base = raised(d.base, acked)
	}
}

// Bills that do not arrive, as when a line breaks, are no refusal: the window bounds what is unsigned meanwhile. A caller
// that is connected, and to which maxFailed in a row do not get, does not want to sign.
const (
	maxFailed = 3
	failEvery = 5 * time.Second
)

// answered notes what became of a bill, and says whether the caller refuses from now on.
func (d *debtor) answered(now time.Time, err error, connected bool) (refuses bool) {
	before := d.refused
	switch {
	case err == nil:
		d.refused, d.failed = nil, 0
	case !lineFailed(err):
		d.refused, d.failed = err, 0
	case connected:
		if d.failed++; d.failed >= maxFailed {
			d.refused = err
		}
	}
	if refuses = before == nil && d.refused != nil; refuses {
		d.refusedAt = now
	}
	return refuses
}

// lineFailed says whether a bill has got no answer, or that there is none now.
func lineFailed(err error) bool {
	var r *gossip.Refusal
	if errors.As(err, &r) {
		return r.Kind == cellproto.Overloaded
	}
	kind := cellproto.KindOf(err)
	return kind == cellproto.Unavailable || kind == cellproto.Timeout || kind == cellproto.Canceled
}

// pause gives how long after a bill there is no other.
func (d *debtor) pause() time.Duration {
	switch {
	case d.refused != nil:
		return refuseEvery
	case d.failed > 0:
		return failEvery
	}
	return 0
}

// above gives the one of two totals with more credit, with none of its numbers below the other's.
func above(x, y ledger.Receipt) ledger.Receipt {
	if x.Credit > y.Credit {
		x, y = y, x
	}
	y.N, y.Meter = max(x.N, y.N), gossip.Plus(y.Meter, gossip.Less(x.Meter, y.Meter))
	return y
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
		d.base, d.signed, d.earlier = a.newest(d.base)
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
	r, u := d.base, d.used(u)
	r.N, r.Meter = d.base.N+u.Calls, gossip.Plus(d.base.Meter, meterOf(u))
	r.Est, r.T = a.energy.source(), uint64(now.UnixMilli())
	acked := a.register(r.RegKey()).Ack
	next, err := gossip.Next(r, acked, a.prices)
	return next, acked, err
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
		a.renew(d, u, now)
		total := gossip.Plus(d.base.Meter, meterOf(d.used(u)))
		credit, err := a.prices.Credit(&total)
		if err != nil {
			continue // the register is full: nothing more is credited
		}
		unsigned := credit - min(d.signed, credit)
		if !ledger.SignDue(unsigned, a.window(d, unsigned), now.Sub(d.tried)) ||
			now.Sub(d.tried) < d.pause() ||
			a.n.host.Network().Connectedness(d.peer) == network.NotConnected {
			continue
		}
		d.tried, a.billing[who] = now, true
		a.running.Go(func() {
			err := a.settle(ctx, d, u, now)
			if err != nil && !lineFailed(err) {
				a.unpaidBills.Add(1)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.billing, who)
			if d.answered(time.Now(), err, a.n.host.Network().Connectedness(d.peer) != network.NotConnected) {
				a.log.Info("a caller does not sign for what it has used: it is served with the newcomers when others wait",
					zap.Stringer("peer", d.peer), zap.Error(err))
			}
		})
	}
}

// window gives how much a caller may use before it signs: no more than half of what the windows let through of what it
// is owed, or it would lose its place until the ten seconds are over. a.mu is held.
func (a *accounts) window(d *debtor, unsigned uint64) uint64 {
	w := ledger.Window(d.signed + d.earlier)
	if s := a.led.Standing(time.Now(), d.key, unsigned); s.Residual > 0 && unsigned > 0 {
		w = min(w, s.Room+unsigned)
	}
	return w
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
		_ = a.claim(d, u, now) // which says in the log what became of it
	}
}

// settle sends one bill, and takes the receipt.
func (a *accounts) settle(ctx context.Context, d *debtor, u call.Usage, now time.Time) error {
	for try := 0; ; try++ {
		a.mu.Lock()
		total, acked, err := a.total(d, u, now)
		if err == nil {
			d.heard(acked)
			if total, acked, err = a.total(d, u, now); err == nil {
				d.sent = append(d.sent[max(0, len(d.sent)-maxSent):], total.Credit)
			}
		}
		a.mu.Unlock()
		if err != nil {
			return err
		}
		bill, err := a.led.SignTotal(now, total, ledger.RoleProvider, a.key)
		if err != nil {
			return err
		}
		a.mu.Lock()
		d.billed = u
		a.mu.Unlock()
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
		answer, err := gossip.Bill(ctx, a.travel.Host(), d.peer, entry, before)
		if err != nil {
			return err
		}
		again, err := a.receive(d, answer, total, acked)
		if err != nil || !again || try == 2 {
			return err
		}
	}
}

// receive takes the answer to a bill that came with the receipt before, or none. It says again when the consumer
// has signed for more than that since.
func (a *accounts) receive(d *debtor, answer []byte, total ledger.Receipt, before *ledger.Signed) (again bool, err error) {
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
	if err := a.travel.IngestOwn(d.peer, answer); err != nil {
		a.n.charge(d.peer, err)
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	acked := a.register(total.RegKey()).Ack
	if acked == nil || acked.Credit < s.Credit {
		return false, cellproto.Errorf(op, cellproto.Corrupt, "the receipt was not taken")
	}
	if d.signed == 0 {
		a.travel.Again(time.Now()) // who deals with it is near now
	}
	d.signed = acked.Credit
	a.grown[total.RegKey()] = true
	d.heard(acked)
	switch {
	case acked.Credit == total.Credit:
		a.paid.Add(1)
		d.sent = []uint64{acked.Credit}
		return false, nil
	case acked.Credit > total.Credit || before == nil || acked.Credit > before.Credit:
		return true, nil
	}
	return false, cellproto.Errorf(op, cellproto.Denied, "the caller has signed for less than the bill")
}

// Sign answers a bill; see gossip.Signer.
func (a *accounts) Sign(from ledger.Key, bill, before []byte) ([]byte, error) {
	const op = "sign receipt"
	p, err := peerOf(from)
	if err != nil {
		return nil, err
	}
	take := a.travel.Ingest
	if a.called(p, from) {
		take = a.travel.IngestOwn
	}
	r, _, err := ledger.DecodeReceipt(bill)
	if err != nil {
		return nil, err
	}
	if r.Consumer != a.self || r.Provider != from || r.Net != a.net || r.Beneficiary != nil && *r.Beneficiary == a.self {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the bill is not of the two hosts that talk")
	}
	if before != nil {
		if s, _, err := ledger.DecodeReceipt(before); err != nil || s.RegKey() != r.RegKey() || s.ConsumerSig == nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "what comes with the bill is no receipt of its register")
		}
		if err := take(p, before); err != nil { // what this host has lost comes back
			return nil, err
		}
	}
	a.signing.Lock()
	defer a.signing.Unlock()
	acked := a.register(r.RegKey()).Ack
	if acked != nil && (acked.Credit >= r.Credit || !shows(before, acked)) {
		return acked.Encode() // which the provider has lost, or never got
	}
	l, used, err := a.look(p, from, &r.Receipt, acked)
	if err == nil {
		err = take(p, bill)
	}
	if err != nil {
		a.unsigned(p, from, r.RegKey(), err)
		return nil, err
	}
	s, err := a.led.SignTotal(time.Now(), r.Receipt, ledger.RoleConsumer, a.key)
	if err != nil {
		return nil, err
	}
	if acked == nil {
		a.travel.Again(time.Now()) // who deals with it is near now
	}
	a.signed.Add(1)
	a.mu.Lock()
	a.grown[r.RegKey()] = true
	a.pay(l, used, &r.Receipt)
	a.mu.Unlock()
	return s.Encode()
}

// look says whether a bill is to be signed, and gives who sent it and what it is for.
func (a *accounts) look(p peer.ID, from ledger.Key, r *ledger.Receipt, acked *ledger.Signed) (*lender, []gossip.Use, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lender(from)
	err := l.check(r, acked, a.seen(p))
	var used []gossip.Use
	if err == nil {
		used, err = a.compare(p, l, r)
	}
	l.refused = err
	return l, used, err
}

// shows says whether a provider has the newest receipt that this host has signed: its bill has to follow that one.
func shows(before []byte, acked *ledger.Signed) bool {
	s, _, err := ledger.DecodeReceipt(before)
	return err == nil && s.RegKey() == acked.RegKey() && s.Credit == acked.Credit && s.Log == acked.Log
}

// unsigned says that a bill was not signed, unless it is a stranger's, of whom nothing is remembered either: anybody can
// send any number of those.
func (a *accounts) unsigned(p peer.ID, from ledger.Key, k ledger.RegKey, err error) {
	a.mu.Lock()
	stranger := a.lender(from).forget(k) && a.lender(from).seen(a.seen(p)).Wall == 0
	if stranger {
		delete(a.lenders, from)
	}
	a.mu.Unlock()
	if stranger {
		a.log.Debug("a stranger's bill was not signed", zap.Stringer("peer", p), zap.Error(err))
		return
	}
	a.log.Warn("a bill was not signed", zap.Stringer("peer", p), zap.Error(err))
}

// lender gives the account of a provider. a.mu is held.
func (a *accounts) lender(key ledger.Key) *lender {
	l := a.lenders[key]
	if l == nil {
		l = &lender{}
		a.lenders[key] = l
	}
	return l
}

// called says whether this host has ever called a provider, as far as it remembers.
func (a *accounts) called(p peer.ID, key ledger.Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lenders[key]
	return l != nil && l.earlier.Wall > 0 || a.seen(p).Wall > 0
}

// seen gives what this life of the nucleus knows of its own calls to a provider.
func (a *accounts) seen(p peer.ID) gossip.Seen { return seenOf(a.n.caller.Spent(p, time.Now())) }
