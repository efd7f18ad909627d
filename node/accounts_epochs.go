package node

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// When a register is gone on in another epoch, and how often. Numbers past half of what a receipt can hold are not of this
// world; a caller is not to have epochs begun at will, since each is kept for ever.
const (
	maxEpochs  = gossip.MaxRegisters
	fullCredit = 1 << 52
	fullMeter  = 1 << 62
	stuckAfter = time.Hour
)

// newest gives the total from which a pair of hosts goes on, in the newest of its epochs, and what was signed for in all.
func (a *accounts) newest(r ledger.Receipt) (base ledger.Receipt, signed, earlier uint64) {
	base = r
	for e := uint32(0); e < maxEpochs; e++ {
		at := r
		at.Epoch = e
		reg := a.register(at.RegKey())
		if e > 0 && reg.Ack == nil && reg.Claim == nil {
			continue // of one between two that this host has, it may have lost all
		}
		earlier, signed, base = earlier+signed, reg.Credit(), at
		for _, s := range []*ledger.Signed{reg.Ack, reg.Claim} {
			if s != nil {
				base = raised(base, s)
			}
		}
	}
	return base, signed, earlier
}

// ended says why no total of a register can follow this one, or "".
func (a *accounts) ended(r *ledger.Receipt) string {
	m := r.Meter
	switch {
	case r.MeterV != 0 && r.MeterV != a.prices.Version:
		return "it was counted by another price table"
	case r.Credit >= fullCredit || max(r.N, m.CPU, m.Wall, m.GPU, m.RAM, m.In, m.Out, m.Energy) >= fullMeter:
		return "it is full"
	}
	return ""
}

// raised gives a total that is not below one that was signed. Which price table has counted is taken from this host's signature
// alone: with another table a caller could end its registers by itself.
func raised(base ledger.Receipt, s *ledger.Signed) ledger.Receipt {
	r := above(base, s.Receipt)
	if r.MeterV = base.MeterV; s.ProviderSig != nil && (base.MeterV == 0 || s.Credit > base.Credit) {
		r.MeterV = s.MeterV
	}
	return r
}

// renew goes on in another epoch where the register of a caller has ended, or a bill of it was refused for so long that it
// will never be signed: what was used from now on can be signed for again. What was not signed stays a debt. Who has signed for
// nothing since the last epoch began gets none for that, but for the first. In the last epoch everything stays: what was
// billed no more would be for nothing. a.mu is held.
func (a *accounts) renew(d *debtor, u call.Usage, now time.Time) {
	if d.base.Epoch+1 >= maxEpochs {
		return
	}
	why := a.ended(&d.base)
	if why == "" && d.refusal() && now.Sub(d.refusedAt) >= stuckAfter && (d.signed > 0 || d.base.Epoch == 0) {
		why = "its last bill was refused for an hour"
		if a.claim(d, u, now) == nil {
			d.billed = u
		}
	}
	if why == "" {
		return
	}
	a.log.Info("a caller's register is gone on in another epoch", zap.Stringer("peer", d.peer), zap.String("why", why))
	d.base = ledger.Receipt{Net: a.net, Consumer: d.key, Provider: a.self, Beneficiary: d.base.Beneficiary, Epoch: d.base.Epoch + 1}
	d.from = d.billed // the register before has that in it
	d.earlier, d.signed, d.sent, d.refused = d.earlier+d.signed, 0, nil, nil
}

// claim writes down what a caller owes and has not signed for. a.mu is held, but not while the ledger is written: calls are
// ranked meanwhile. Only the goroutine that ticks does this, so that nobody else changes d.
func (a *accounts) claim(d *debtor, u call.Usage, now time.Time) error {
	total, _, err := a.total(d, u, now)
	if err == nil {
		a.mu.Unlock()
		_, err = a.led.SignTotal(now, total, ledger.RoleProvider, a.key)
		a.mu.Lock()
	}
	a.log.Debug("claim written", zap.Stringer("of", d.peer), zap.Error(err))
	return err
}

// refusal says whether a caller has refused a bill itself, for what is in it.
func (d *debtor) refusal() bool {
	var r *gossip.Refusal
	switch {
	case d.refused == nil || lineFailed(d.refused):
		return false
	case errors.As(d.refused, &r):
		return r.Kind != cellproto.Unsupported // it does not know the price table yet
	}
	return cellproto.KindOf(d.refused) != cellproto.Unsupported
}

// used gives what a caller has used in this life and no epoch before has.
func (d *debtor) used(u call.Usage) call.Usage { return u.Less(d.from) }
