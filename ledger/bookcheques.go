package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/celldnet/celld/cellproto"
)

func (b *Book) ingestCheque(nowMS uint64, data []byte, by trust) Result {
	const op = "take cheque"
	s, body, err := DecodeCheque(data)
	if err != nil {
		return refused(err)
	}
	if s.Net != b.cfg.Net {
		return Result{Verdict: Foreign}
	}
	key := s.key()
	old := b.cheques[key]
	if !newerCheque(s, old) {
		return Result{Verdict: Stale, Older: s.Credit < old.Credit}
	}
	if by == fromPeer {
		if r := b.admitCheque(op, s, old); r.Verdict != 0 {
			return r
		}
		if r := b.signedBy(op, nowMS, s, body, old); r.Verdict != 0 {
			r.ID = s.Donor
			return r
		}
	}
	gain := s.Credit
	if old != nil {
		gain -= old.Credit
	} else {
		b.gifts[s.Donor] = append(b.gifts[s.Donor], key)
	}
	b.cheques[key] = s
	b.taken[s.Donor] = add(b.taken[s.Donor], gain)
	b.given[s.To] = add(b.given[s.To], gain)
	return Result{Verdict: Stored, ID: s.Donor, Slot: chequeSlot(key), Record: data, Lost: s.Donor == b.cfg.Account,
		Edges: []Edge{{Name: chequeSlot(key), From: s.To, To: s.Donor, Total: s.Credit, Signed: s.Credit}}}
}

// admitCheque asks whether anything by these two is taken.
func (b *Book) admitCheque(op string, s, old *SignedCheque) Result {
	switch {
	case b.Banned(s.Donor) || b.Banned(s.To):
		return Result{Verdict: Banned, Err: cellproto.Errorf(op, cellproto.Denied, "the donor or the receiver is banned")}
	case s.Donor == b.cfg.Account:
	case old == nil && len(b.cheques) >= b.room(s.Donor, s.To): // anybody can make up who gives to this account
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Overloaded, "there is no room for more cheques")}
	case b.Concerns(s.Donor) || b.Concerns(s.To):
	case b.cfg.Near != nil && !b.cfg.Near(s.Donor, s.To):
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Denied, "the donor and the receiver are too far away")}
	}
	return Result{}
}

// Concerns says whether an identity is the account of this host, the host, or a pool that the account is a
// member or the runner of.
func (b *Book) Concerns(id Key) bool {
	if id == b.cfg.Account || id == b.cfg.Self {
		return true
	}
	s := b.State(id)
	return s != nil && len(s.Members) > 0 && (slices.ContainsFunc(s.Members, b.OwnKey) || b.OwnKey(s.Runner.Runner))
}

// OwnKey says whether a key is, or was, that of the account.
func (b *Book) OwnKey(k Key) bool {
	if k == b.cfg.Account {
		return true
	}
	l := b.logs[b.cfg.Account]
	if l == nil || l.state.Key == b.cfg.Account { // never rotated
		return false
	}
	now, before := l.signers()
	return k == now || slices.Contains(before, k)
}

// signedBy checks that the cheque is of who signs for the donor, and, of a pool, within its budget. Who
// passes on what was in order when it was signed, or will be once a later entry of the key log is known,
// is not to blame. nowMS is 0 where nothing has ended yet: then whoever has ever signed for the donor does.
func (b *Book) signedBy(op string, nowMS uint64, s *SignedCheque, body []byte, old *SignedCheque) Result {
	l := b.logs[s.Donor]
	if l == nil {
		if VerifyCheque(s, body, s.Donor) != nil {
			return Result{Verdict: Missing, Err: cellproto.Errorf(op, cellproto.NotFound, "the key log of the donor is not known, and its first key has not signed")}
		}
		return Result{}
	}
	if pool := len(l.state.Members) > 0; pool {
		if why := l.overspent(nowMS == 0, s.T, b.spentWith(s, old)); why != "" {
			return Result{Verdict: Missing, Err: cellproto.Errorf(op, cellproto.Denied, "%s", why)}
		}
	}
	now, before := l.signers()
	err := VerifyCheque(s, body, now)
	if err == nil {
		return Result{}
	}
	for i, key := range before {
		if nowMS > 0 && i == maxSigners {
			break
		}
		if VerifyCheque(s, body, key) != nil {
			continue
		}
		if nowMS == 0 {
			return Result{}
		}
		return Result{Verdict: Banned, Err: cellproto.Errorf(op, cellproto.Denied, "the key that has signed it was replaced")}
	}
	return refused(err)
}

// maxSigners is how many replaced keys are tried before a signature is called false.
const maxSigners = 4

// spentWith gives what the donor has given in all once s is taken.
func (b *Book) spentWith(s, old *SignedCheque) uint64 {
	spent := add(b.taken[s.Donor], s.Credit)
	if old != nil {
		spent -= old.Credit
	}
	return spent
}

// overspent says why a pool's cheques may not add up to spent with one that was written at t, or "". That it was written
// before the budget's end is its runner's word, which all read alike: when it is heard of says nothing, and what a
// runner can gain by a false word is the rest of the budget. ever asks whether any budget has allowed it.
func (l *keyLog) overspent(ever bool, t, spent uint64) string {
	run := l.state.Runner
	if ever {
		for _, e := range l.entries {
			if r, ok := e.Payload.(*RunnerBudget); ok {
				run.Budget, run.NotAfter = max(run.Budget, r.Budget), max(run.NotAfter, r.NotAfter)
			}
		}
	}
	switch {
	case run.Budget == 0:
		return "the pool has given nobody a budget"
	case t > run.NotAfter:
		return "the pool's budget has ended"
	case spent > run.Budget:
		return fmt.Sprintf("the pool's budget is %s in all, and with this it would be %s", inWh(run.Budget), inWh(spent))
	}
	return ""
}

// inWh gives an amount for people.
func inWh(uwh uint64) string { return strconv.FormatFloat(float64(uwh)/1e6, 'f', -1, 64) + " Wh" }

// signers gives the key that signs for an identity now, and those that did before, the latest first.
func (l *keyLog) signers() (now Key, before []Key) {
	pool := len(l.state.Members) > 0
	now = l.state.Key
	if pool {
		now = l.state.Runner.Runner
	}
	seen := map[Key]bool{now: true}
	note := func(k Key) {
		if !seen[k] {
			seen[k] = true
			before = append(before, k)
		}
	}
	for _, e := range slices.Backward(l.entries) {
		switch p := e.Payload.(type) {
		case *Rotate:
			if !pool {
				note(p.Key)
			}
		case *RunnerBudget:
			note(p.Runner)
		}
	}
	if !pool {
		note(l.state.ID)
	}
	return now, before
}

// Slot gives what newer cheques of one donor to one receiver have in common.
func (c *Cheque) Slot() Hash { return chequeSlot(c.key()) }

// Cheque gives the newest cheque of a donor to somebody, or nil.
func (b *Book) Cheque(donor, to Key) *SignedCheque { return b.cheques[chequeKey{Donor: donor, To: to}] }

// Cheques calls f for each cheque until f gives false, in no order.
func (b *Book) Cheques(f func(*SignedCheque) bool) {
	for _, c := range b.cheques {
		if !f(c) {
			return
		}
	}
}

// Gifts gives the cheques of one donor, in the order in which their receivers became known.
func (b *Book) Gifts(donor Key) []*SignedCheque {
	list := make([]*SignedCheque, 0, len(b.gifts[donor]))
	for _, k := range b.gifts[donor] {
		list = append(list, b.cheques[k])
	}
	return list
}

// Members gives the members of a pool; nil for an identity that is none.
func (b *Book) Members(id Key) []Key {
	if s := b.State(id); s != nil {
		return slices.Clone(s.Members)
	}
	return nil
}

// Identities gives those whose key logs are known, in ascending order.
func (b *Book) Identities() []Key {
	return slices.SortedFunc(maps.Keys(b.logs), func(x, y Key) int { return bytes.Compare(x[:], y[:]) })
}
