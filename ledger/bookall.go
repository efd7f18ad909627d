package ledger

// Proofs gives the proofs of all forks that are known.
func (b *Book) Proofs() []*ForkProof {
	out := make([]*ForkProof, 0, len(b.bans))
	for _, p := range b.bans {
		out = append(out, p)
	}
	return out
}

// SignedTo gives the newest receipt that this host has signed of each register of a provider's.
func (b *Book) SignedTo(provider Key) []*Signed {
	out := make([]*Signed, 0, len(b.signed[provider]))
	for _, k := range b.signed[provider] {
		out = append(out, b.regs[k].Ack)
	}
	return out
}
