package node

import (
	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// lender is a host that was called, and has sent a bill.
type lender struct {
	regs    map[ledger.RegKey]*counted
	total   uint64       // µWh that were signed for since this nucleus counts, over all registers
	refused error        // why its last bill was not signed
	asked   []gossip.Use // what had been asked of it when paid was signed for
	paid    uint64       // of total, from which on bills are compared with others'
}

// counted is a register of a lender's: what was signed before this nucleus counted, and what is now.
type counted struct{ before, signed ledger.Receipt }

// maxRegisters bounds the registers of one lender: it chooses them, by beneficiary and epoch, and needs one.
const maxRegisters = 16

// check says whether a bill is signed. acked is the newest receipt of its register that this host has signed, and
// seen what it knows of its calls to the lender: of all, whatever register they are billed in.
func (l *lender) check(r *ledger.Receipt, acked *ledger.Signed, seen gossip.Seen) error {
	k := r.RegKey()
	c := l.regs[k]
	if c == nil {
		if len(l.regs) >= maxRegisters {
			return cellproto.Errorf("check bill", cellproto.Denied, "it is of one more register, after %d others", len(l.regs))
		}
		c = &counted{}
		if l.regs == nil {
			l.regs = map[ledger.RegKey]*counted{}
		}
		l.regs[k] = c
	}
	if acked != nil && acked.Credit > c.signed.Credit { // of an earlier life: what is seen in this one comes on top
		l.total -= c.signed.Credit - c.before.Credit
		l.asked, l.paid = nil, l.total
		c.before, c.signed = acked.Receipt, acked.Receipt
	}
	for other, x := range l.regs {
		if other != k {
			seen.Elsewhere = gossip.Plus(seen.Elsewhere, gossip.Less(x.signed.Meter, x.before.Meter))
		}
	}
	return gossip.Check(r, acked, &c.before, seen)
}

// asks gives what a bill that was checked asks for, with those before it that were not compared with others' yet.
func (l *lender) asks(r *ledger.Receipt) uint64 {
	return l.total - l.paid + r.Credit - l.regs[r.RegKey()].signed.Credit
}

// sign notes that a bill that was checked is signed.
func (l *lender) sign(r *ledger.Receipt) {
	c := l.regs[r.RegKey()]
	l.total += r.Credit - c.signed.Credit
	c.signed = *r
}

// forget drops a register in which nothing was signed, and says whether there is none left.
func (l *lender) forget(k ledger.RegKey) bool {
	if c := l.regs[k]; c != nil && c.signed.Credit == 0 {
		delete(l.regs, k)
	}
	return len(l.regs) == 0
}
