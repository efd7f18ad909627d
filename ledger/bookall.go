package ledger

// Proofs gives the proofs of all forks that are known.
func (b *Book) Proofs() []*ForkProof {
	out := make([]*ForkProof, 0, len(b.bans))
	for _, p := range b.bans {
		out = append(out, p)
	}
	return out
}
