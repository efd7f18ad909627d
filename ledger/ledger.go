package ledger

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Confirmations is how many neighbours must have said how long one's own key log is before it gets
// another entry: a restored backup does not know what it has signed since.
const Confirmations = 3

// Ledger is the book, its store and the graph of one nucleus, together. It may be used by several
// goroutines. What it is told to be now only has to be about right.
//
// Whoever only looks something up, as a call does that waits for its place, waits for no disk: what changes the ledger
// holds writing to its end, and mu but while the store is at work.
type Ledger struct {
	writing sync.Mutex // guards store and held; taken before mu
	mu      sync.Mutex // guards all else

	cfg    Config
	book   *Book
	graph  *Graph
	store  *Store
	heads  map[Key]uint64     // neighbours -> entries of the own log that they have
	alone  bool               // the owner has said that there is nobody to ask
	held   *KeyEntry          // signed, and perhaps on the disk; nothing else may take its place
	since  time.Time          // when the graph forgave last
	goods  map[Key]uint64     // how many times what they have earned counts; see Curate
	signed map[Hash]Hash      // place in a pool's log -> the entry that this member has signed for it
	drafts map[Hash]*KeyEntry // those of them that are known, by place
	tabs   map[Key]Tab        // of providers
	gifts  map[chequeKey]*gift
	unread bool  // a part of the store could not be read, or has been lost
	fault  error // what is wrong with the disk
	harm   Harm
	// unproven are donations of this account, by receiver: see Unproven.
	unproven map[Key][]byte
}

// Open reads a ledger. Registers come back as they were at the last sync at least; who lacks something
// gets it from counterparties.
func Open(cfg Config, files Files, now time.Time) (*Ledger, *Report, error) {
	l := &Ledger{cfg: cfg, heads: map[Key]uint64{}, signed: map[Hash]Hash{}, drafts: map[Hash]*KeyEntry{}, tabs: map[Key]Tab{}, gifts: map[chequeKey]*gift{}, unproven: map[Key][]byte{}, graph: NewGraph(cfg.Self), since: now}
	if cfg.Near == nil {
		cfg.Near = l.near
	}
	l.book = NewBook(cfg)
	var early [][]byte // key entries whose predecessors come later, since cleaning changes the order
	var gave []own
	store, report, err := OpenStore(files, func(data []byte, by finding) (Hash, bool) {
		if isLocal(data) {
			// Nobody has signed it: it may be what a peer has put into an entry. A draft is kept even so: without one that is
			// real this host could sign for its place once more.
			if by == byBytes && data[0] != draftMark {
				return Hash{}, false
			}
			return l.loadLocal(data)
		}
		suspect := by != inOrder
		if _, kind, _ := peek(data); kind == kindCheque {
			if s, _, err := DecodeCheque(data); err == nil && s.Donor == cfg.Account {
				gave = append(gave, own{bytes.Clone(data), suspect})
			}
		}
		r := l.book.Load(ms(now), data, suspect)
		switch r.Verdict {
		case Stored, Forked:
			l.follow(r)
			return r.Slot, true
		case Missing:
			early = append(early, slices.Clone(data))
			return entryID(data), true
		}
		return Hash{}, false
	})
	if err != nil {
		return nil, nil, err
	}
	for again := true; again; {
		again = false
		early = slices.DeleteFunc(early, func(data []byte) bool {
			r := l.book.Load(ms(now), data, true)
			l.follow(r)
			again = again || r.Verdict == Stored
			return r.Verdict != Missing
		})
	}
	l.store, l.unread = store, len(report.Unread)+len(report.Damaged)+len(report.Aside) > 0
	l.look()
	for len(l.tabs) > maxTabs { // an older file may have more
		l.dropTab()
	}
	l.rehear(now, gave)
	return l, report, nil
}

// change begins a change of the ledger, which changed ends.
func (l *Ledger) change() {
	l.writing.Lock()
	l.mu.Lock()
}

func (l *Ledger) changed() {
	l.mu.Unlock()
	l.writing.Unlock()
}

// onDisk has the store do something, while others look things up: book and graph have to agree at that moment.
// The caller has begun a change.
func (l *Ledger) onDisk(f func(*Store) error) error {
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.look()
	}()
	return f(l.store)
}

// append is Store.Append by onDisk.
func (l *Ledger) append(now time.Time, slot Hash, data []byte, durable bool) error {
	return l.onDisk(func(s *Store) error { return s.Append(now, slot, data, durable) })
}

// look notes how the store is.
func (l *Ledger) look() {
	l.fault, l.harm = l.store.Err(), Harm{l.store.damaged, l.store.healed, l.store.dropped}
}

func ms(t time.Time) uint64 { return uint64(t.UnixMilli()) }

// entryID gives the slot of a key entry that cannot be taken yet.
func entryID(data []byte) Hash {
	e, err := DecodeKeyEntry(data)
	if err != nil {
		return bodyID(data)
	}
	return bodyID(e.body)
}

// near keeps what can matter for who is owed what here.
func (l *Ledger) near(consumer, provider Key) bool {
	return l.graph.Near(l.book.Owner(consumer)) || l.graph.Near(l.book.Owner(provider))
}

// follow has the graph take in what the book has.
func (l *Ledger) follow(r Result) {
	for _, e := range r.Edges {
		l.graph.Apply(e)
	}
	if r.Host != (Key{}) {
		l.graph.Merge(r.Host, r.Account)
	}
	if r.Proof != nil {
		l.graph.Ban(r.Proof.ID())
	}
}

// Ingest takes an entry or a fork proof that a peer has sent.
func (l *Ledger) Ingest(now time.Time, data []byte) Result {
	l.change()
	defer l.changed()
	return l.ingest(now, data)
}

func (l *Ledger) ingest(now time.Time, data []byte) Result {
	var r Result
	if isProof(data) {
		r = l.book.IngestProof(data)
	} else {
		r = l.book.Ingest(ms(now), data)
	}
	if r.Verdict == Stored || r.Verdict == Forked {
		l.keep(now, r)
	}
	if r.Verdict == Stored || r.Verdict == Stale { // kept by now: whoever looks something up while this is written sees the cheque in the graph, too
		l.hear(now, data, fromPeer)
	}
	l.doubt(r, data)
	return r
}

// keep has the graph and the store follow the book.
func (l *Ledger) keep(now time.Time, r Result) {
	l.follow(r)
	for _, slot := range r.Gone {
		l.store.Forget(slot)
	}
	// A disk that fails is the store's to report (Err): what it lacks comes back from others. An entry of the own log does not, since it is
	// known here: it waits, and is on the disk before any that follows it.
	if err := l.append(now, r.Slot, r.Record, r.Durable); err != nil && r.Durable {
		_ = l.append(now, r.Slot, r.Record, false)
	}
}

// SignTotal signs a new total of a register, as its consumer or its provider, and keeps it, unless there are too many whose
// consumers have signed nothing. It refuses
// what is below anything that this host has signed or seen in that register. Kinds: BadInput, Denied.
func (l *Ledger) SignTotal(now time.Time, r Receipt, role Role, key ed25519.PrivateKey) (*Signed, error) {
	const op = "sign receipt"
	l.change()
	defer l.changed()
	reg, _ := l.book.Register(r.RegKey())
	seen := []*Signed{reg.Ack}
	if role == RoleProvider { // a consumer may sign for less than is claimed
		seen = append(seen, reg.Claim)
	}
	for _, old := range seen {
		if old != nil && !r.covers(&old.Receipt) {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "the total was %d µWh after %d calls already, and would fall", old.Credit, old.N)
		}
	}
	s, err := SealReceipt(r, key, role)
	if err != nil {
		return nil, err
	}
	s.complete(reg) // of the same body the other half may be here
	data, err := s.Encode()
	if err != nil {
		return nil, err
	}
	switch res := l.ingest(now, data); {
	case res.Verdict == Stored || res.Verdict == Stale:
	case res.Verdict == Beyond && s.ConsumerSig == nil: // kept once the consumer signs
	default:
		return nil, cellproto.Errorf(op, cellproto.Denied, "%s: %v", res.Verdict, res.Err)
	}
	return s, nil
}

// Confirm notes how many entries of this account's own key log a neighbour has. Who has more is asked
// for them first; who says so and sends none is confirmed again, with what it sent.
func (l *Ledger) Confirm(neighbour Key, entries uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heads) < 64 {
		l.heads[neighbour] = entries
	}
}

// Unconfirm forgets what neighbours have said: the log is longer now, and they may not know all of it.
func (l *Ledger) Unconfirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.heads)
}

// Alone says, for the owner, that there are no neighbours who could know more of the own key log.
func (l *Ledger) Alone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alone = true
}

// AppendKey adds an entry to the account's own key log, signed with its key in force, or for a rotation
// with the next. When it returns the entry it is on the disk; before that no signature leaves. When the
// disk fails the entry is held, and is the only one that can come next. Kinds: Unavailable when too few
// neighbours have been asked, Failed, and those of KeyState.Apply.
func (l *Ledger) AppendKey(now time.Time, p Payload, key ed25519.PrivateKey) (*KeyEntry, error) {
	const op = "add to key log"
	l.change()
	defer l.changed()
	if err := l.upToDate(op); err != nil {
		return nil, err
	}
	if l.held != nil {
		if err := l.release(now, op); err != nil {
			return nil, err
		}
		if err := l.upToDate(op); err != nil { // neighbours can have said more while it was written
			return nil, err
		}
	}
	state := l.ownState()
	if state.Len >= maxLog {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "the log has %d entries, which is the limit", state.Len)
	}
	e := &KeyEntry{Net: l.cfg.Net, ID: l.cfg.Account, Seq: state.Len, Prev: state.Head, T: ms(now), Payload: p}
	if err := e.Sign(key, 0); err != nil {
		return nil, err
	}
	if _, err := state.Apply(e); err != nil {
		return nil, err
	}
	l.held = e
	if err := l.release(now, op); err != nil {
		return nil, err
	}
	return e, nil
}

// release writes the held entry to the disk, and only then takes it in. Nobody sees it before.
func (l *Ledger) release(now time.Time, op string) error {
	data, err := l.held.Encode()
	if err != nil {
		return err
	}
	if err := l.append(now, bodyID(l.held.body), data, true); err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "entry %d waits for the disk: %w", l.held.Seq, err).
			WithHint("It is written again with the next try; no other entry can take its place.")
	}
	l.held = nil
	r := l.book.Ingest(ms(now), data)
	l.follow(r)
	if r.Verdict != Stored && r.Verdict != Stale {
		return cellproto.Errorf(op, cellproto.Failed, "%s: %v", r.Verdict, r.Err)
	}
	return nil
}

func (l *Ledger) ownState() *KeyState {
	if s := l.book.State(l.cfg.Account); s != nil {
		return s
	}
	return &KeyState{Net: l.cfg.Net, ID: l.cfg.Account}
}

// upToDate refuses to extend a log of which there may be more than is known here.
func (l *Ledger) upToDate(op string) error {
	have := l.ownState().Len
	for _, n := range l.heads {
		if n > have {
			return cellproto.Errorf(op, cellproto.Unavailable, "neighbours have %d entries of this key log, here are %d", n, have).
				WithHint("It was perhaps restored from a backup: wait until they have sent the others.")
		}
	}
	if !l.alone && len(l.heads) < Confirmations {
		return cellproto.Errorf(op, cellproto.Unavailable, "%d of %d neighbours have said how long this key log is", len(l.heads), Confirmations).
			WithHint("Wait until more are connected. If there are none, say that you are alone.")
	}
	return nil
}

// Tick syncs and cleans the store; to be called about once a second.
func (l *Ledger) Tick(now time.Time) error {
	l.change()
	defer l.changed()
	if now.Sub(l.since) >= 24*time.Hour {
		l.since = now
		l.graph.Forgive()
	}
	return l.onDisk(func(s *Store) error { return s.Tick(now) })
}

// Err says why nothing reaches the disk, or nil. The ledger goes on in memory meanwhile.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// Harm is what a disk has done, since the ledger was opened.
type Harm struct {
	Damaged uint64 // segments in which bytes had changed
	Healed  uint64 // of these, put aside: what was good in them is written anew
	Dropped uint64 // records that found no room in memory while the disk took nothing
}

// Harm gives what the disk has done.
func (l *Ledger) Harm() Harm {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.harm
}

// Residual gives what this host still owes a caller, in µWh.
func (l *Ledger) Residual(caller Key) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.graph.Residual(l.book.Owner(caller))
}

// Standing gives what is known of a caller, a host or an account. used are µWh that the meter has
// counted for it and that no receipt has yet. A host whose delegation was revoked or has ended has nothing of what its
// account has: somebody else may hold its key.
func (l *Ledger) Standing(now time.Time, caller Key, used uint64) Standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.book.Owner(caller)
	s := Standing{Banned: l.book.Banned(caller)}
	if d, ok := l.book.delegation(caller); ok && !d.active(ms(now)) {
		s.Unsigned = used
		return s
	}
	s.Owner = l.cfg.Account != Key{} && id == l.cfg.Account
	s.Acknowledged, s.Unsigned = l.book.Served(caller)
	s.Unsigned = add(s.Unsigned, used)
	s.Residual, s.Room = l.graph.Residual(id), l.graph.Room(id)
	s.Residual, s.Room = s.Residual-min(used, s.Residual), s.Room-min(used, s.Room)
	s.Curated = max(l.goods[id], l.goods[caller])
	return s
}

// View calls f with the book, which must not be kept or changed.
func (l *Ledger) View(f func(*Book)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.book)
}

// Close syncs everything and closes the files.
func (l *Ledger) Close() error {
	l.change()
	defer l.changed()
	return l.onDisk((*Store).Close)
}

// Matters says whether others near by are told of what an identity signs: it concerns this host, or is at
// most two edges away.
func (l *Ledger) Matters(id Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.book.Concerns(id) || l.graph.Near(l.book.Owner(id))
}

// Entries gives what is known of an identity, at most room bytes: its key log from one entry on, then the cheques of
// which it is the donor; and how long the log is.
func (l *Ledger) Entries(id Key, from uint64, room int) (entries [][]byte, length uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	put := func(e interface{ Encode() ([]byte, error) }) bool {
		data, err := e.Encode()
		if room -= len(data); err != nil || room < 0 {
			return false
		}
		entries = append(entries, data)
		return true
	}
	if s := l.book.State(id); s != nil {
		length = s.Len
	}
	for _, e := range l.book.Log(id, from) {
		if !put(e) {
			return entries, length
		}
	}
	for _, c := range l.book.Gifts(id) { // looked up: anybody can ask, and others wait meanwhile
		if !put(c) {
			break
		}
	}
	return entries, length
}
