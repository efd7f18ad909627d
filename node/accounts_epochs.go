package node

import (
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
			break
		}
		earlier, signed, base = earlier+signed, reg.Credit(), at
		for _, s := range []*ledger.Signed{reg.Ack, reg.Claim} {
			if s != nil {
				base = above(base, s.Receipt)
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

// renew goes on in another epoch where the register of a caller has ended, or a bill of it was refused for so long that it
// will never be signed: what was used from now on can be signed for again. What was not signed stays a debt. Who has signed for
// nothing since the last epoch began gets none for that, but for the first. a.mu is held.
func (a *accounts) renew(d *debtor, u call.Usage, now time.Time) {
	why := a.ended(&d.base)
	if why != "" && len(d.sent) > 0 { // it ended in this life: what was used until now is in it
		d.from = u
	}
	if why == "" && d.refusal() && now.Sub(d.refusedAt) >= stuckAfter && (d.signed > 0 || d.base.Epoch == 0) {
		why = "its last bill was refused for an hour"
		if total, _, err := a.total(d, u, now); err == nil {
			_, err = a.led.SignTotal(now, total, ledger.RoleProvider, a.key)
			a.log.Debug("claim written", zap.Stringer("of", d.peer), zap.Error(err))
		}
		d.from = u
	}
	if why == "" || d.base.Epoch+1 >= maxEpochs {
		return
	}
	a.log.Info("a caller's register is gone on in another epoch", zap.Stringer("peer", d.peer), zap.String("why", why))
	d.base = ledger.Receipt{Net: a.net, Consumer: d.key, Provider: a.self, Beneficiary: d.base.Beneficiary, Epoch: d.base.Epoch + 1}
	d.earlier, d.signed, d.sent, d.refused = d.earlier+d.signed, 0, nil, nil
}

// refusal says whether a caller has refused a bill itself, for what is in it.
func (d *debtor) refusal() bool {
	kind := cellproto.KindOf(d.refused)
	return d.refused != nil && !lineFailed(d.refused) && kind != cellproto.Unsupported
}

// used gives what a caller has used in this life and no epoch before has.
func (d *debtor) used(u call.Usage) call.Usage { return u.Less(d.from) }
