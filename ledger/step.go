package ledger

// Step is what an entry adds to a register of others.
type Step struct {
	Slot         Hash
	Before, Gain uint64 // µWh
}

// Step gives what a receipt or a cheque adds to what is known of its register, before any signature is looked at; false
// for what is no such thing, is not newer, begins a register, or is this host's or its account's own.
func (l *Ledger) Step(entry []byte) (Step, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch _, kind, _ := peek(entry); kind {
	case kindReceipt:
		s, _, err := DecodeReceipt(entry)
		if err != nil || l.book.party(s) || s.ConsumerSig == nil {
			return Step{}, false
		}
		old := l.book.regs[s.RegKey()].Ack
		if old == nil || !newer(s, old) {
			return Step{}, false
		}
		return Step{s.RegKey().Slot(), old.Credit, s.Credit - old.Credit}, true
	case kindCheque:
		c, _, err := DecodeCheque(entry)
		if err != nil || c.Donor == l.cfg.Account {
			return Step{}, false
		}
		old := l.book.cheques[c.key()]
		if old == nil || !newerCheque(c, old) {
			return Step{}, false
		}
		return Step{c.Slot(), old.Credit, c.Credit - old.Credit}, true
	}
	return Step{}, false
}
