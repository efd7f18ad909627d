package ledger

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// gift is what this ledger knows of the cheques that it has signed to one receiver. A ledger that was restored from a backup signs
// on from an old total: the new one can be below what the receiver has, and is void, or takes the place of it. A cheque that was
// signed meanwhile, by the ledger as it was before, is told by its time: it lies in a gap between two lives, in which this one
// has signed nothing. What it gave is added then, and the total is signed anew.
type gift struct {
	_         struct{} `cbor:",toarray"`
	Donor, To Key
	N, Credit uint64 // of all that was given, as far as it is known
	T         uint64 // ms, above those of all cheques before; see written
	Gaps      []gap
	life      bool // something was signed since the ledger was opened
}

// gap is the time between the last cheque of one life and the first of the next.
type gap struct {
	_           struct{} `cbor:",toarray"`
	From, Until uint64   // ms
	N, Credit   uint64   // of what was given by the end of it, with what has come back of it
}

// maxGaps is of how many restarts a cheque that was lost is told.
const maxGaps = 32

const giftMark = 0x02 // see isLocal

func giftSlot(donor, to Key) Hash { return bodyID(slices.Concat([]byte("gift"), donor[:], to[:])) }

// gift gives what is known of the cheques of one donor to a receiver, to sign the next: with a gap before that, if it is the
// first since the ledger was opened. It may be changed.
func (l *Ledger) gift(nowMS uint64, donor, to Key) *gift {
	g := &gift{Donor: donor, To: to}
	if old := l.gifts[chequeKey{Donor: donor, To: to}]; old != nil {
		*g = *old
		g.Gaps = slices.Clone(old.Gaps)
	}
	if c := l.book.Cheque(donor, to); c != nil && c.Credit > g.Credit {
		g.N, g.Credit, g.T = max(g.N, c.N), c.Credit, max(g.T, c.T)
	}
	at := max(nowMS, g.T+1)
	if !g.life {
		g.life = true
		g.Gaps = append(g.Gaps, gap{From: g.T, Until: at, N: g.N, Credit: g.Credit})
		g.Gaps = g.Gaps[max(0, len(g.Gaps)-maxGaps):]
	}
	g.T = at
	return g
}

// written gives when the next cheque was written, in ms. That is g.T, but where the clock has gone back, or two have one ms, and a
// pool's budget would have ended by that: then it is a time until end that lies in no gap, or the cheque would look like a lost one.
func (g *gift) written(nowMS, end uint64) uint64 {
	if nowMS > end || g.T <= end {
		return g.T
	}
	for _, p := range g.Gaps {
		if p.From < nowMS && nowMS < p.Until {
			return p.From
		}
	}
	return nowMS
}

// regain adds what a cheque gave that this ledger has signed and does not know.
func (g *gift) regain(c *Cheque) bool {
	for i := range g.Gaps {
		p := &g.Gaps[i]
		if c.T <= p.From || c.T >= p.Until || c.Credit <= p.Credit {
			continue
		}
		more, times := c.Credit-p.Credit, c.N-min(p.N, c.N)
		if add(g.Credit, more) > maxCredit || add(g.N, times) > maxMeter {
			return false // no cheque could say that
		}
		g.Credit, g.N = add(g.Credit, more), add(g.N, times)
		for j := i; j < len(g.Gaps); j++ { // later lives have signed on top
			g.Gaps[j].Credit, g.Gaps[j].N = add(g.Gaps[j].Credit, more), add(g.Gaps[j].N, times)
		}
		return true
	}
	return false
}

// hear looks whether a cheque that somebody has sent, or that was found in the store, is one that this ledger has lost, and adds what it gave.
func (l *Ledger) hear(now time.Time, data []byte, by trust) {
	if _, kind, _ := peek(data); kind != kindCheque || len(l.gifts) == 0 {
		return
	}
	s, body, err := DecodeCheque(data)
	if err != nil {
		return
	}
	g := l.regained(s)
	if g == nil || by == fromPeer && !l.book.signsNow(s, body) {
		return
	}
	if record, err := g.record(); err == nil {
		l.gifts[s.key()] = g
		_ = l.append(now, giftSlot(g.Donor, g.To), record, false) // Err says when the disk takes nothing
	}
}

// regained gives what is known of a cheque's donor and receiver with what it gave, or nil if this ledger has not lost it. Its signature is not checked.
func (l *Ledger) regained(s *SignedCheque) *gift {
	old := l.gifts[s.key()]
	if old == nil || s.Net != l.cfg.Net {
		return nil
	}
	g := *old
	g.Gaps = slices.Clone(old.Gaps)
	if !g.regain(&s.Cheque) {
		return nil
	}
	return &g
}

// own is a cheque of this account as the store has it; suspect if it was found behind a damaged record.
type own struct {
	data    []byte
	suspect bool
}

// rehear looks among all cheques of this account that the store has, also those that newer ones have replaced, for donations that could not
// be read when later ones were signed. For a pool nothing is signed then.
func (l *Ledger) rehear(now time.Time, gave []own) {
	l.change()
	defer l.changed()
	for _, c := range gave {
		l.hear(now, c.data, trust(!c.suspect)) // it was checked when it came, and its key may have been replaced since
	}
}

// signsNow says whether a cheque is of the key that signs for its donor now. A key that was replaced can be anybody's.
func (b *Book) signsNow(s *SignedCheque, body []byte) bool {
	key := s.Donor
	if l := b.logs[s.Donor]; l != nil {
		key, _ = l.signers()
	}
	return VerifyCheque(s, body, key) == nil
}

// maxUnproven bounds the donations that are remembered to be shown to the owner.
const maxUnproven = 64

// Outdated gives receivers, at most most, of donations of this account that this ledger has signed itself, with a key that was replaced since.
// Whoever hears of the rotation first takes nothing from that key, and could not give the donation back. Reseal makes it good.
func (l *Ledger) Outdated(most int) (list []Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, g := range l.gifts {
		if c := l.book.cheques[k]; len(list) < most && k.Donor == l.cfg.Account && c != nil && c.Credit == g.Credit && !l.inForce(c) {
			list = append(list, k.To)
		}
	}
	return list
}

func (l *Ledger) inForce(c *SignedCheque) bool {
	body, err := encode(&c.Cheque)
	return err == nil && l.book.signsNow(c, body)
}

// Reseal signs a donation of this account anew, with the key that is in force now. Kinds: as of SignCheque.
func (l *Ledger) Reseal(now time.Time, to Key, key ed25519.PrivateKey) (*SignedCheque, error) {
	l.change()
	defer l.changed()
	c := l.book.Cheque(l.cfg.Account, to)
	if c == nil || l.inForce(c) {
		return nil, cellproto.Errorf("sign cheque anew", cellproto.NotFound, "it needs not be")
	}
	return l.signCheque(now, l.cfg.Account, to, 0, c.Purpose, key)
}

// Recall is Ingest for what another nucleus of this person has: of this account's donations it takes those, too, that a replaced key
// has signed. That one has taken them while the key was in force; from others they can be a thief's.
func (l *Ledger) Recall(now time.Time, data []byte) Result {
	l.change()
	defer l.changed()
	r := l.ingest(now, data)
	if s, body, ok := l.replaced(r, data); ok {
		return l.recall(now, s, body, data)
	}
	if r.Verdict != Stale { // else it is of less than what was given since, which does not say that it was part of that
		return r
	}
	if s, body, err := DecodeCheque(data); err == nil && s.Donor == l.cfg.Account && l.regained(s) != nil && l.book.signedBy("recall cheque", 0, s, body, nil).Verdict == 0 {
		l.hear(now, data, fromStore)
	}
	return r
}

// replaced gives a donation of this account that was refused since its key was replaced, and that is of more than is known.
func (l *Ledger) replaced(r Result, data []byte) (s *SignedCheque, body []byte, ok bool) {
	if r.Verdict != Banned || r.ID != l.cfg.Account {
		return nil, nil, false
	}
	s, body, err := DecodeCheque(data)
	return s, body, err == nil && s.Donor == l.cfg.Account
}

// recall takes a donation that some key of this account has signed, and notes that this ledger had done so: it is signed anew.
func (l *Ledger) recall(now time.Time, s *SignedCheque, body, data []byte) Result {
	if r := l.book.signedBy("recall cheque", 0, s, body, l.book.cheques[s.key()]); r.Verdict != 0 {
		return r
	}
	r := l.book.ingest(ms(now), data, fromStore)
	if r.Verdict != Stored {
		return r
	}
	l.keep(now, r)
	delete(l.unproven, s.To)
	g := &gift{Donor: s.Donor, To: s.To, N: s.N, Credit: s.Credit, T: s.T}
	if old := l.gifts[s.key()]; old != nil {
		again := *old
		again.Gaps = slices.Clone(old.Gaps)
		switch {
		case again.regain(&s.Cheque): // something was given since
			g = &again
		case old.Credit >= s.Credit:
			return r
		default:
			g.T, g.Gaps, g.life = max(g.T, old.T), old.Gaps, old.life
		}
	}
	if record, err := g.record(); err == nil {
		l.gifts[s.key()] = g
		_ = l.append(now, giftSlot(g.Donor, g.To), record, false) // Err says when the disk takes nothing
	}
	return r
}

// Unproven gives donations that somebody has shown, that a replaced key of this account has signed, and of which this ledger knows
// nothing: it has lost them, or a thief has made them.
func (l *Ledger) Unproven() (list []Cheque) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, data := range l.unproven {
		if s, _, err := DecodeCheque(data); err == nil && newerCheque(s, l.book.Cheque(s.Donor, s.To)) {
			list = append(list, s.Cheque)
		}
	}
	slices.SortFunc(list, func(x, y Cheque) int { return bytes.Compare(x.To[:], y.To[:]) })
	return list
}

// Prove takes the donation to somebody that Unproven gives, by the word of this account's owner. Kind: NotFound.
func (l *Ledger) Prove(now time.Time, to Key) error {
	const op = "take a donation back"
	l.change()
	defer l.changed()
	data := l.unproven[to]
	s, body, err := DecodeCheque(data)
	if data == nil || err != nil {
		return cellproto.Errorf(op, cellproto.NotFound, "nobody has shown such a donation")
	}
	if r := l.recall(now, s, body, data); r.Verdict != Stored && r.Verdict != Stale {
		return cellproto.Errorf(op, cellproto.Denied, "%s: %v", r.Verdict, r.Err)
	}
	return nil
}

// doubt remembers a donation that a replaced key has signed, the largest to each receiver.
func (l *Ledger) doubt(r Result, data []byte) {
	s, _, ok := l.replaced(r, data)
	if !ok {
		return
	}
	old := l.unproven[s.To]
	if old == nil && len(l.unproven) >= maxUnproven {
		return
	}
	if old != nil {
		if o, _, err := DecodeCheque(old); err == nil && !newerCheque(s, o) {
			return
		}
	}
	l.unproven[s.To] = bytes.Clone(data)
}

func (g *gift) record() ([]byte, error) {
	data, err := encode(g)
	return append([]byte{giftMark}, data...), err
}

func (l *Ledger) loadGift(data []byte) (Hash, bool) {
	g := &gift{}
	if decode("read gift", bytes.Clone(data), g) != nil {
		return Hash{}, false
	}
	l.gifts[chequeKey{Donor: g.Donor, To: g.To}] = g
	return giftSlot(g.Donor, g.To), true
}

// Void is how much of what a donor has given to somebody, by what this ledger has signed, no cheque says: it was signed before and after a
// backup was restored. Renew makes it good.
type Void struct {
	Donor, To Key
	UWH       uint64
}

// Voids gives what is to be signed anew.
func (l *Ledger) Voids() (list []Void) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, g := range l.gifts {
		var have uint64
		if c := l.book.Cheque(k.Donor, k.To); c != nil {
			have = c.Credit
		}
		if g.Credit > have {
			list = append(list, Void{k.Donor, k.To, g.Credit - have})
		}
	}
	return list
}

// Renew signs a cheque over all that was given, of which part is void. Kinds: as of SignCheque.
func (l *Ledger) Renew(now time.Time, v Void, key ed25519.PrivateKey) (*SignedCheque, error) {
	l.change()
	defer l.changed()
	c := l.book.Cheque(v.Donor, v.To)
	if g := l.gifts[chequeKey{Donor: v.Donor, To: v.To}]; g == nil || c == nil || g.Credit <= c.Credit {
		return nil, cellproto.Errorf("sign cheque anew", cellproto.NotFound, "nothing of it is void")
	}
	return l.signCheque(now, v.Donor, v.To, 0, c.Purpose, key)
}

// SignCheque donates: it adds amount to the total of what donor has given to somebody. It is on the disk
// when it returns. donor is this account, or a pool that it is the runner of; key is that in force.
// Kinds: BadInput, Denied when the key does not sign for the donor or a budget does not allow it,
// Unavailable while it is not known what was given before, Failed.
func (l *Ledger) SignCheque(now time.Time, donor, to Key, amount uint64, purpose string, key ed25519.PrivateKey) (*SignedCheque, error) {
	l.change()
	defer l.changed()
	if amount == 0 {
		return nil, cellproto.Errorf("sign cheque", cellproto.BadInput, "nothing is given")
	}
	return l.signCheque(now, donor, to, amount, purpose, key)
}

func (l *Ledger) signCheque(now time.Time, donor, to Key, amount uint64, purpose string, key ed25519.PrivateKey) (*SignedCheque, error) {
	const op = "sign cheque"
	if err := l.upToDate(op); err != nil {
		return nil, err
	}
	g := l.gift(ms(now), donor, to)
	g.Credit = add(g.Credit, amount)
	if amount > 0 {
		g.N++
	}
	t := g.T
	if state := l.book.State(donor); state != nil && len(state.Members) > 0 {
		if l.unread {
			return nil, cellproto.Errorf(op, cellproto.Unavailable, "a part of the ledger was damaged, or cannot be read: more may have been given for the pool than is known").
				WithHint("cellctl doctor names the file. If it can be read again: cellctl restart of the home cell. If nothing was given that the pool's status does not show: remove the file before.")
		}
		t = g.written(ms(now), state.Runner.NotAfter)
	}
	s, err := SealCheque(Cheque{Net: l.cfg.Net, Donor: donor, To: to, N: g.N, Credit: g.Credit, T: t, Purpose: purpose}, key)
	if err != nil {
		return nil, err
	}
	data, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if err := l.allows(op, now, s, data, key); err != nil {
		return nil, err
	}
	record, err := g.record()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	slots, datas := []Hash{chequeSlot(s.key()), giftSlot(donor, to)}, [][]byte{data, record}
	if err := l.onDisk(func(s *Store) error { return s.AppendBatch(now, slots, datas, true) }); err != nil {
		return nil, cellproto.Errorf(op, cellproto.MayHaveRun, "nobody is told, but it may be on the disk: %w", err).
			WithHint("When the disk is well again, restart the nucleus and look at the history before you try again.")
	}
	l.gifts[s.key()] = g
	r := l.book.Ingest(ms(now), data)
	l.follow(r)
	if r.Verdict != Stored {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%s: %v", r.Verdict, r.Err)
	}
	return s, nil
}

// allows says why a cheque may not be signed, by what is known of its donor.
func (l *Ledger) allows(op string, now time.Time, s *SignedCheque, data []byte, key ed25519.PrivateKey) error {
	_, body, err := DecodeCheque(data)
	if err != nil {
		return err
	}
	if state := l.book.State(s.Donor); state != nil && len(state.Members) > 0 && state.Runner.Budget > 0 && state.Runner.Runner != KeyOf(key) {
		return cellproto.Errorf(op, cellproto.Denied, "another account is the runner of this pool")
	}
	old := l.book.Cheque(s.Donor, s.To)
	r := l.book.admitCheque(op, s, old)
	if r.Verdict == 0 {
		r = l.book.signedBy(op, ms(now), s, body, old)
	}
	if r.Verdict != 0 {
		return r.Err
	}
	return nil
}
