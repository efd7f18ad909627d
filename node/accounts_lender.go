package node

import (
	"time"

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

	// What earlier lives of the nucleus have seen of it, and signed for since its tab was begun; before is what was signed for
	// before that. acked are its registers when this life began to count.
	earlier    gossip.Seen
	paidBefore ledger.Meter
	before     ledger.Meter
	acked      map[ledger.RegKey]*ledger.Signed
	began      bool
	kept       gossip.Seen // what is written down
	keptAt     time.Time
}

// seen adds to what this life has seen what earlier ones had.
func (l *lender) seen(now gossip.Seen) gossip.Seen {
	now.Wall, now.Sent, now.Got = now.Wall+l.earlier.Wall, now.Sent+l.earlier.Sent, now.Got+l.earlier.Got
	return now
}

// due says whether what was seen is to be written down.
func (l *lender) due(now time.Time, seen gossip.Seen, all bool) bool {
	return seen != l.kept && (all || !l.began || now.Sub(l.keptAt) >= keepEvery ||
		seen.Sent-l.kept.Sent+seen.Got-l.kept.Got >= keepBytes)
}

// begin begins the tab, when acked is what was signed for.
func (l *lender) begin(acked []*ledger.Signed) {
	l.acked, l.began, l.before = byRegister(acked), true, gossip.Less(sum(acked), l.since(nil))
}

// regain looks whether receipts have come back that were lost, in whatever register: what they are for was used before the tab
// was begun. acked is what was signed for.
func (l *lender) regain(acked []*ledger.Signed) bool {
	before := l.before
	more := gossip.Less(sum(acked), gossip.Plus(l.paidBefore, l.since(nil)))
	l.before = gossip.Plus(before, gossip.Less(more, before)) // the higher one of each number
	return l.before != before
}

// since gives what was signed for in this life, in all registers but one.
func (l *lender) since(but *ledger.RegKey) (m ledger.Meter) {
	for k, x := range l.regs {
		if but == nil || k != *but {
			m = gossip.Plus(m, gossip.Less(x.signed.Meter, x.before.Meter))
		}
	}
	return m
}

// counted is a register of a lender's: what was signed before this nucleus counted, and what is now.
type counted struct{ before, signed ledger.Receipt }

// check says whether a bill is signed. acked is the newest receipt of its register that this host has signed, and
// seen what this life knows of its calls to the lender: of all, whatever register they are billed in.
func (l *lender) check(r *ledger.Receipt, acked *ledger.Signed, seen gossip.Seen) error {
	k := r.RegKey()
	c := l.regs[k]
	if c == nil {
		if len(l.regs) >= gossip.MaxRegisters {
			return cellproto.Errorf("check bill", cellproto.Denied, "it is of one more register, after %d others", len(l.regs))
		}
		c = &counted{}
		if s := l.acked[k]; s != nil {
			c.before, c.signed = s.Receipt, s.Receipt
		}
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
	seen = l.seen(seen)
	seen.Elsewhere = gossip.Plus(l.paidBefore, l.since(&k))
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
