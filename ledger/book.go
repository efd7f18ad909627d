package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/celldnet/celld/cellproto"
)

// Verdict says what became of an entry that came in.
type Verdict uint8

// The verdicts, in the order in which they are reached. Those before Banned cost no signature's check.
const (
	Stored     Verdict = iota + 1 // new; Result says what has to be kept
	TooLarge                      // past the limit of an entry
	Malformed                     // not canonical, or numbers that make no sense
	Foreign                       // of another network or a later version: ignored, nobody's fault
	Stale                         // not newer than what is here
	Banned                        // of an identity whose fork is proven, or of a host that was revoked
	Beyond                        // of hosts that are too far away to matter here, or there is no room
	Decreasing                    // a number in it is smaller than before
	Forged                        // a signature is false, or of who may not sign
	Missing                       // the entries before it in its key log are needed first
	Forked                        // Result.Proof is new: tell everybody
)

var verdictNames = [...]string{
	Stored: "stored", TooLarge: "too large", Malformed: "malformed", Foreign: "foreign", Stale: "stale", Banned: "banned",
	Beyond: "beyond", Decreasing: "decreasing", Forged: "forged", Missing: "missing", Forked: "forked",
}

// String gives the verdict as metrics have it.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) && verdictNames[v] != "" {
		return verdictNames[v]
	}
	return "unknown"
}

// Charged says whether who has sent such an entry is to blame: no honest program sends it on. A number that falls is
// the fault of who has signed it: who passes it on may not know what was before.
func (v Verdict) Charged() bool {
	return v == TooLarge || v == Malformed || v == Forged
}

// Result is what Book says of one entry.
type Result struct {
	Verdict Verdict
	Err     error      // why, unless it is Stored, Stale or Foreign
	Slot    Hash       // with Stored and Forked: what Record replaces in the store
	Record  []byte     // with Stored and Forked: what has to be kept
	Durable bool       // it is of one's own key log: on the disk before anybody is told
	Edges   []Edge     // with Stored: what the work graph learns from it
	Proof   *ForkProof // with Forked
	Host    Key        // with Stored, a delegation: this host is now Account's
	Account Key
	ID      Key    // of a key entry, or the donor of a cheque: whose log it is about, and with Missing is needed
	Own     bool   // with Stored, a receipt: this host is one of its two
	Lost    bool   // with Stored: this host or its account had signed it, and knew of it no more
	Older   bool   // with Stale: what is here is newer, and not the same
	Gone    []Hash // with Stored: slots that are of no use any more, to make room
}

// Sort gives the verdict as metrics have it: in one word, and where a verdict is of several faults, which one.
func (r Result) Sort() string {
	switch {
	case r.Verdict == TooLarge:
		return "oversized"
	case r.Verdict == Malformed && errors.Is(r.Err, errNotCanonical):
		return "non_canonical"
	case r.Verdict == Stale && r.Older:
		return "reordered"
	case r.Verdict == Stale:
		return "replayed"
	}
	return r.Verdict.String()
}

// Edge is a total of what From has done for To.
type Edge struct {
	Name     Hash // of the register: totals of one name replace each other
	From, To Key
	Total    uint64 // µWh
	Signed   uint64 // of it, what To has signed for; where From is this host, else all of it
}

// Config says for whom a Book is kept.
type Config struct {
	Net  Net
	Self Key // this nucleus's host key
	// Account is whose key log this nucleus writes, or zero.
	Account Key
	// MaxForeign bounds the registers that this host has not signed, those that it alone has, and cheques; MaxLogs the
	// key logs of others, which have four entries each on average. 0 is 100,000 and 10,000.
	MaxForeign, MaxLogs int
	// Claims has the book take what providers alone have signed, too: whoever reads an export finds them in it. They
	// count for nobody but their provider.
	Claims bool
	// Near says whether receipts between two other hosts are of interest; nil means that all are.
	Near func(consumer, provider Key) bool
}

// Book is everything that is known: registers, cheques, key logs, bans. It decides what to believe and
// remembers it; keeping it on a disk is for Store, what follows from it for Graph. It has no lock.
type Book struct {
	cfg      Config
	regs     map[RegKey]Register
	cheques  map[chequeKey]*SignedCheque
	gifts    map[Key][]chequeKey // of a donor
	logs     map[Key]*keyLog
	owner    map[Key]Key // host -> account
	bans     map[Key]*ForkProof
	foreign  int            // registers that this host has not signed
	unpaid   int            // registers of those who have called here and signed for nothing yet
	others   int            // entries of key logs of others
	outcasts int            // bans of identities that nothing else was known of
	given    map[Key]uint64 // by host, account or pool
	taken    map[Key]uint64
	served   map[Key]service  // by consumer, of this host
	signed   map[Key][]RegKey // in which this host has signed as the consumer, by provider
}

// service is what this host has done for another.
type service struct{ acked, claimed uint64 }

// NewBook gives an empty book.
func NewBook(cfg Config) *Book {
	if cfg.MaxForeign == 0 {
		cfg.MaxForeign = 100_000
	}
	if cfg.MaxLogs == 0 {
		cfg.MaxLogs = 10_000
	}
	return &Book{
		cfg: cfg, regs: map[RegKey]Register{}, cheques: map[chequeKey]*SignedCheque{}, gifts: map[Key][]chequeKey{}, logs: map[Key]*keyLog{},
		owner: map[Key]Key{}, bans: map[Key]*ForkProof{}, given: map[Key]uint64{}, taken: map[Key]uint64{}, served: map[Key]service{}, signed: map[Key][]RegKey{},
	}
}

// trust says how much of an entry was checked before: all of it by somebody else, or, when it comes
// from one's own store, everything by this program.
type trust bool

const (
	fromPeer  trust = false
	fromStore trust = true
)

// Ingest takes an entry that a peer has sent: a receipt, a cheque or a key-log entry. now is in ms
// since 1970. What costs least is asked first: size, form, network, whether it is new, whether its
// signers are banned or too far away, whether a number falls; then the signatures.
func (b *Book) Ingest(nowMS uint64, data []byte) Result { return b.ingest(nowMS, data, fromPeer) }

// Load takes a record of one's own store. Signatures are not checked again, unless the record was
// found behind a damaged one.
func (b *Book) Load(nowMS uint64, record []byte, suspect bool) Result {
	if isProof(record) {
		return b.IngestProof(record)
	}
	return b.ingest(nowMS, record, trust(!suspect))
}

// isProof tells a fork proof, an array of five whose first is a number, from entries, whose first is a body.
func isProof(data []byte) bool { return len(data) > 1 && data[0] == 0x85 && data[1] <= 0x17 }

func (b *Book) ingest(nowMS uint64, data []byte, by trust) Result {
	if len(data) > cellproto.MaxLedgerEntry {
		return refused(cellproto.Errorf("take entry", cellproto.TooLarge, "%d bytes, the limit is %d", len(data), cellproto.MaxLedgerEntry))
	}
	_, kind, _ := peek(data)
	switch kind {
	case kindCheque:
		return b.ingestCheque(nowMS, data, by)
	case kindKey:
		return b.ingestKey(data)
	}
	return b.ingestReceipt(nowMS, data, by)
}

// refused gives the result for an entry that could not be decoded.
func refused(err error) Result {
	switch cellproto.KindOf(err) {
	case cellproto.TooLarge:
		return Result{Verdict: TooLarge, Err: err}
	case cellproto.Unsupported:
		return Result{Verdict: Foreign}
	case cellproto.Corrupt:
		return Result{Verdict: Forged, Err: err}
	}
	return Result{Verdict: Malformed, Err: err}
}

func (b *Book) ingestReceipt(nowMS uint64, data []byte, by trust) Result {
	const op = "take receipt"
	s, body, err := DecodeReceipt(data)
	if err != nil {
		return refused(err)
	}
	if s.Net != b.cfg.Net {
		return Result{Verdict: Foreign}
	}
	key := s.RegKey()
	old, known := b.regs[key]
	in := registerOf(s)
	if !newer(in.Ack, old.Ack) && !newer(in.Claim, old.Claim) {
		return Result{Verdict: Stale, Older: older(s, old)}
	}
	if by == fromPeer {
		if r := b.admit(nowMS, s, known); r.Verdict != 0 {
			return r
		}
		if r := decreasing(op, s, old); r.Verdict != 0 {
			return r
		}
		if err := VerifyReceipt(s, body); err != nil {
			return refused(err)
		}
	}
	if !known && !b.mine(s) {
		b.foreign++
	}
	if s.complete(old) {
		if data, err = s.Encode(); err != nil {
			return refused(err)
		}
		in = registerOf(s)
	}
	merged := old.Merge(in)
	b.regs[key] = merged
	if s.Consumer == b.cfg.Self && old.Ack == nil && merged.Ack != nil {
		b.signed[s.Provider] = append(b.signed[s.Provider], key)
	}
	if s.Provider == b.cfg.Self {
		b.unpaid += btoi(merged.Ack == nil) - btoi(known && old.Ack == nil)
	}
	gain := merged.Credit() - old.Credit() // the halves only grow
	if s.Provider == b.cfg.Self {
		d := b.served[s.Consumer]
		d.acked, d.claimed = add(d.acked, gain), add(d.claimed, merged.Claimed()-old.Claimed())
		b.served[s.Consumer] = d
	}
	b.taken[s.Consumer] = add(b.taken[s.Consumer], gain)
	b.given[creditor(&s.Receipt)] = add(b.given[creditor(&s.Receipt)], gain)
	return Result{Verdict: Stored, Slot: regSlot(key, merged.Ack == s), Record: data, Edges: b.edges(key, merged), Own: b.party(s), Lost: b.lost(in, old)}
}

// older says whether a receipt that is not newer is of less credit than what is here.
func older(s *Signed, here Register) bool {
	return s.ConsumerSig != nil && s.Credit < here.Credit() || s.ConsumerSig == nil && s.Credit < here.Claimed()
}

// lost says whether this host has signed a receipt for more than it knows of.
func (b *Book) lost(in, old Register) bool {
	more := func(s, old *Signed) bool { return s != nil && (old == nil || s.Credit > old.Credit) }
	return more(in.Ack, old.Ack) && in.Ack.Consumer == b.cfg.Self || more(in.Claim, old.Claim) && in.Claim.Provider == b.cfg.Self
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// admit asks whether anything by these hosts is taken.
func (b *Book) admit(nowMS uint64, s *Signed, known bool) Result {
	const op = "take receipt"
	for _, host := range []Key{s.Consumer, s.Provider} {
		if b.bannedHost(host) {
			return Result{Verdict: Banned, Err: cellproto.Errorf(op, cellproto.Denied, "%s belongs to a banned identity", host)}
		}
		if d, ok := b.delegation(host); ok && !d.active(nowMS) {
			return Result{Verdict: Banned, Err: cellproto.Errorf(op, cellproto.Denied, "the delegation of %s was revoked or has ended", host)}
		}
	}
	party := b.party(s)
	switch {
	case b.mine(s) && !known && s.ConsumerSig == nil && b.unpaid >= b.cfg.MaxForeign:
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Overloaded, "%d callers have signed for nothing, there is no room", b.unpaid)}
	case b.mine(s):
		return Result{}
	case !party && s.ConsumerSig == nil && !b.cfg.Claims:
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Denied, "without the consumer's signature it counts for its provider alone")}
	case !known && b.foreign >= b.room(s.Consumer, s.Provider):
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Overloaded, "%d registers of others are kept, there is no room", b.foreign)}
	case s.Beneficiary != nil && b.Concerns(*s.Beneficiary):
	case !party && b.cfg.Near != nil && !b.cfg.Near(s.Consumer, s.Provider):
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Denied, "its hosts are too far away")}
	}
	return Result{}
}

// room gives how many registers of others, or cheques, there may be before one more between these two is taken. Half is
// kept for those who are near: anybody can make up who has served this host, or gives to its account.
func (b *Book) room(x, y Key) int {
	for _, k := range []Key{x, y} {
		if b.cfg.Near == nil || !b.Concerns(k) && b.cfg.Near(k, k) {
			return b.cfg.MaxForeign
		}
	}
	return b.cfg.MaxForeign / 2
}

func (b *Book) party(s *Signed) bool { return s.Consumer == b.cfg.Self || s.Provider == b.cfg.Self }

// mine says whether this host has signed the entry, or somebody pretends so: that is found out next.
// Only such a register needs no room: anybody can make up keys that have served it, or were served.
func (b *Book) mine(s *Signed) bool {
	return s.Consumer == b.cfg.Self && s.ConsumerSig != nil || s.Provider == b.cfg.Self && s.ProviderSig != nil
}

// decreasing compares what one side alone has signed with the half of a register that it would replace. What both have
// signed needs no comparison: a consumer could sign a total with huge numbers by itself, and nobody would take the
// receipts any more that come after it; and when both have lost their newest receipts they agree on other numbers,
// before the old ones come back. Equal credit with smaller numbers is no fault: the first seen stays.
func decreasing(op string, s *Signed, old Register) Result {
	before := old.Ack
	if s.ConsumerSig == nil {
		before = old.Claim
	}
	both := s.ConsumerSig != nil && s.ProviderSig != nil
	switch {
	case both || before == nil || !newer(s, before) || s.covers(&before.Receipt):
		return Result{}
	case s.Credit == before.Credit:
		return Result{Verdict: Stale}
	}
	return Result{Verdict: Decreasing, Err: cellproto.Errorf(op, cellproto.BadInput, "credit has grown from %d to %d µWh, but another number is smaller than before", before.Credit, s.Credit)}
}

// creditor is whose the credit of a receipt is.
func creditor(r *Receipt) Key {
	if r.Beneficiary != nil {
		return *r.Beneficiary
	}
	return r.Provider
}

// edges gives what a register says about the work graph. The provider's own word counts in its own view.
func (b *Book) edges(key RegKey, r Register) []Edge {
	total := r.Credit()
	if key.Provider == b.cfg.Self {
		total = r.Claimed()
	}
	from := key.Provider
	if key.Beneficiary != (Key{}) {
		from = key.Beneficiary
	}
	return []Edge{{Name: regSlot(key, true), From: b.Owner(from), To: b.Owner(key.Consumer), Total: total, Signed: r.Credit()}}
}

// Slot names what the consumer has signed of a register, in the store and among what is published.
func (k RegKey) Slot() Hash { return regSlot(k, true) }

// The slots of the store: what is newer replaces what is older in the same one.
func regSlot(k RegKey, ack bool) Hash {
	b := make([]byte, 0, 128)
	b = append(append(append(b, k.Consumer[:]...), k.Provider[:]...), k.Beneficiary[:]...)
	b = binary.BigEndian.AppendUint32(b, k.Epoch)
	if ack {
		return sha256.Sum256(append(b, 'a'))
	}
	return sha256.Sum256(append(b, 'c'))
}

func chequeSlot(k chequeKey) Hash {
	b := append(append([]byte("cheque"), k.Donor[:]...), k.To[:]...)
	return sha256.Sum256(binary.BigEndian.AppendUint32(b, k.Epoch))
}
