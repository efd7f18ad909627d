package ledger

import "bytes"

// RegKey names a register of receipts. Only its consumer and its provider ever write to it.
type RegKey struct {
	Consumer, Provider Key
	Beneficiary        Key // zero for none
	Epoch              uint32
}

// RegKey gives the register that a receipt belongs to.
func (r *Receipt) RegKey() RegKey {
	k := RegKey{Consumer: r.Consumer, Provider: r.Provider, Epoch: r.Epoch}
	if r.Beneficiary != nil {
		k.Beneficiary = *r.Beneficiary
	}
	return k
}

// Register is what is known of one register: the newest total that the consumer has signed, and the
// newest that the provider has. The two halves are apart, so that neither side can hide what the other
// has signed by signing something else; each is the maximum of a total order, so that merging is
// commutative, associative and idempotent.
type Register struct {
	Ack   *Signed // signed by the consumer: counts in full for everybody
	Claim *Signed // signed by the provider: counts for the provider alone; may be the same as Ack
}

// Merge gives what is known when a and b are. Neither is changed.
func (a Register) Merge(b Register) Register {
	out := a
	if newer(b.Ack, a.Ack) {
		out.Ack = b.Ack
	}
	if newer(b.Claim, a.Claim) {
		out.Claim = b.Claim
	}
	return out
}

// registerOf gives the register in which there is only s.
func registerOf(s *Signed) (r Register) {
	if s.ConsumerSig != nil {
		r.Ack = s
	}
	if s.ProviderSig != nil {
		r.Claim = s
	}
	return r
}

// Credit gives the total that everybody counts.
func (r Register) Credit() uint64 {
	if r.Ack == nil {
		return 0
	}
	return r.Ack.Credit
}

// Claimed gives the total in the provider's own view.
func (r Register) Claimed() uint64 {
	if r.Claim == nil || r.Claim.Credit < r.Credit() {
		return r.Credit()
	}
	return r.Claim.Credit
}

// newer says whether a replaces b as one half of a register. Credit decides. Equal credit with another
// body is no fork, since signatures are made anew after a crash: the bytes decide, so that all keep the
// same one. Of one body the entry with both signatures is kept.
func newer(a, b *Signed) bool {
	if a == nil || b == nil {
		return a != nil
	}
	if a.Credit != b.Credit {
		return a.Credit > b.Credit
	}
	if a.same(&b.Receipt) {
		return a.ConsumerSig != nil && a.ProviderSig != nil && (b.ConsumerSig == nil || b.ProviderSig == nil)
	}
	x, errX := a.Body()
	y, errY := b.Body()
	return errX == nil && errY == nil && bytes.Compare(x, y) > 0 // both have been encoded before
}

// same says whether two receipts have one body.
func (r *Receipt) same(o *Receipt) bool {
	x, y := *r, *o
	x.Beneficiary, y.Beneficiary = nil, nil
	return x == y && r.RegKey() == o.RegKey()
}

// covers says whether a may follow b in a register: no number has become smaller.
func (r *Receipt) covers(o *Receipt) bool {
	return r.N >= o.N && r.Credit >= o.Credit && r.Meter.covers(&o.Meter)
}

// complete adds to s the signature that r has of the same body by the other side, so that others are shown both. It
// reports whether there was one.
func (s *Signed) complete(r Register) bool {
	switch {
	case s.ConsumerSig == nil && r.Ack != nil && s.same(&r.Ack.Receipt):
		s.ConsumerSig = r.Ack.ConsumerSig
	case s.ProviderSig == nil && r.Claim != nil && s.same(&r.Claim.Receipt):
		s.ProviderSig = r.Claim.ProviderSig
	default:
		return false
	}
	return true
}

// Entries gives what shows a register to others: one entry, or two when the halves differ.
func (r Register) Entries() []*Signed {
	switch {
	case r.Ack == nil:
		return []*Signed{r.Claim}
	case r.Claim == nil || r.Claim == r.Ack:
		return []*Signed{r.Ack}
	case r.Claim.same(&r.Ack.Receipt):
		both := *r.Ack
		both.ProviderSig = r.Claim.ProviderSig
		return []*Signed{&both}
	}
	return []*Signed{r.Ack, r.Claim}
}

// chequeKey names a register of cheques.
type chequeKey struct {
	Donor, To Key
	Epoch     uint32
}

func (c *Cheque) key() chequeKey { return chequeKey{c.Donor, c.To, c.Epoch} }

// newerCheque is newer, for cheques.
func newerCheque(a, b *SignedCheque) bool {
	if a == nil || b == nil {
		return a != nil
	}
	if a.Credit != b.Credit || a.Cheque == b.Cheque {
		return a.Credit > b.Credit
	}
	x, errX := encode(&a.Cheque)
	y, errY := encode(&b.Cheque)
	return errX == nil && errY == nil && bytes.Compare(x, y) > 0
}

// add adds without turning over: past the end it stays there.
func add(a, b uint64) uint64 {
	if c := a + b; c >= a {
		return c
	}
	return 1<<64 - 1
}
