package gossip

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// When neighbours are asked, and told.
const (
	pullEvery    = time.Minute      // each neighbour
	readerStays  = 3 * pullEvery    // after it asked last, a neighbour is told what is urgent
	urgentEvery  = 10 * time.Minute // of one identity; a proof always is
	againEvery   = 10 * time.Minute // everything is read anew, at most
	headsEvery   = time.Second      // what is urgent meanwhile goes together
	maxRanges    = 8                // of one neighbour in one go
	maxReaders   = 64
	pullsAtOnce  = 16              // questions under way: as many as there are neighbours
	maxSources   = 256             // of whom it is remembered what was read
	maxNeed      = 16              // key logs that are asked for after one answer
	newEvery     = 5 * time.Second // neighbours that were never asked
	badOfOnePull = 3               // entries; then its sender is heard no further
)

// Config says for whom a Travel works.
type Config struct {
	Net ledger.Net
	Key ed25519.PrivateKey // of this host
	// Account is whose key log this host may write: no limit keeps it from what it has signed itself.
	Account ledger.Key
	First   uint64 // above all numbers that this host ever gave to what it publishes, like the time
}

// Deps is what a Travel stands on.
type Deps struct {
	Host   host.Host
	Ledger *ledger.Ledger
	// Neighbours gives whom to hear, in different networks; Charge is told who breaks the protocol.
	Neighbours func() []peer.ID
	Charge     func(peer.ID, error)
	// Consents gives a peer which hosts of this machine agree to belong to an account; nil: none do.
	Consents func(p peer.ID, account ledger.Key) ([]*ledger.Delegate, error)
	// Shown is told who gets something of what this host has published, or of its account's key log, before it does; nil: nobody is.
	Shown func(peer.ID)
	Log   *zap.Logger
}

// Travel is how entries come to this host, and leave it. It asks neighbours once a minute what they have
// published, and those who ask it are told at once, by a signed head, when there is something urgent: a
// fork proof, a change of keys, a caller that hurries from host to host. Whatever is new to this host it
// publishes in turn, so that each entry is passed on once by everybody, and checked by everybody. Run
// drives it; its other methods may be used by several goroutines.
type Travel struct {
	cfg   Config
	deps  Deps
	self  ledger.Key
	news  *Log
	limit Limiter
	due   chan struct{} // holds one: readers are to be told
	slots chan struct{} // pulls under way
	work  sync.WaitGroup
	host  counting
	bytes traffic
	ctx   context.Context // ends with Run

	mu      sync.Mutex
	sources map[peer.ID]*source
	readers map[peer.ID]time.Time // who has asked, and when last
	urgent  map[ledger.Key]time.Time
	logs    map[ledger.Key]uint64 // of key logs, how many entries were published
	counts  map[string]uint64
	refused map[string]uint64 // by kind; see Metrics
	back    uint64            // entries that this host had lost
	again   time.Time
	paces   paces
	over    bool // Run waits for what is under way: nothing new begins
}

// source is a neighbour that is heard.
type source struct {
	next uint64 // to ask from
	busy bool   // it is being asked
	more bool   // and has said meanwhile that there is more
	away bool   // it is not heard at the moment
}

// NewTravel makes a Travel, which publishes all that the ledger has of others: this host may be the only one
// that a neighbour hears it from. Bans and keys come first: whoever reads all of it has those before the many registers.
func NewTravel(cfg Config, deps Deps) *Travel {
	t := &Travel{
		cfg: cfg, deps: deps, self: ledger.KeyOf(cfg.Key), news: NewLog(cfg.First), due: make(chan struct{}, 1), slots: make(chan struct{}, pullsAtOnce),
		sources: map[peer.ID]*source{}, readers: map[peer.ID]time.Time{}, urgent: map[ledger.Key]time.Time{}, logs: map[ledger.Key]uint64{},
		counts: map[string]uint64{}, refused: map[string]uint64{},
	}
	t.host = counting{deps.Host, &t.bytes}
	var ids []ledger.Key
	var cheques []*ledger.SignedCheque
	deps.Ledger.View(func(b *ledger.Book) {
		ids = b.Identities()
		b.Cheques(func(c *ledger.SignedCheque) bool {
			if b.Concerns(c.Donor) || b.Concerns(c.To) {
				cheques = append(cheques, c)
			}
			return true
		})
		for _, p := range b.Proofs() {
			t.put(ledger.Hash(p.ID()), p)
		}
	})
	for _, id := range ids {
		if deps.Ledger.Matters(id) {
			t.Spread(id)
		}
	}
	for _, c := range cheques {
		t.put(c.Slot(), c)
	}
	deps.Ledger.View(func(b *ledger.Book) {
		b.Registers(func(k ledger.RegKey, r ledger.Register) bool {
			if r.Ack != nil && k.Consumer != t.self && k.Provider != t.self {
				t.put(k.Slot(), r.Ack)
			}
			return true
		})
	})
	return t
}

func (t *Travel) put(slot ledger.Hash, e interface{ Encode() ([]byte, error) }) {
	if data, err := e.Encode(); err == nil { // it was read or made here
		t.news.Publish(string(slot[:]), data)
	}
}

// Run asks neighbours and tells readers until ctx ends, and returns when nothing is under way any more.
func (t *Travel) Run(ctx context.Context) {
	t.mu.Lock()
	t.ctx = ctx
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.over = true
		t.mu.Unlock()
		t.work.Wait()
	}()
	pull, first := time.NewTicker(pullEvery), time.NewTicker(newEvery)
	defer pull.Stop()
	defer first.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	<-rest.C
	due := t.due
	t.PullAll(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-pull.C:
			t.takeLate(now)
			t.PullAll(ctx)
		case <-first.C:
			t.pullNew(ctx)
		case <-due:
			t.tellReaders(ctx, time.Now())
			due = nil
			rest.Reset(headsEvery)
		case <-rest.C:
			due = t.due
		}
	}
}

// PullAll asks all neighbours what is new, in the background.
func (t *Travel) PullAll(ctx context.Context) {
	all := t.deps.Neighbours()
	heard := make(map[peer.ID]bool, len(all))
	for _, p := range all {
		heard[p] = true
	}
	t.mu.Lock()
	for p, s := range t.sources { // who is heard again later is asked for what is new since, if it is remembered
		if s.away = !heard[p]; s.away && !s.busy && len(t.sources) > maxSources {
			delete(t.sources, p)
		}
	}
	t.mu.Unlock()
	for _, p := range all {
		t.ask(ctx, p)
	}
}

// pullNew asks neighbours that were not asked before, or were away.
func (t *Travel) pullNew(ctx context.Context) {
	for _, p := range t.deps.Neighbours() {
		t.mu.Lock()
		s := t.sources[p]
		known := s != nil && !s.away
		if s != nil {
			s.away = false
		}
		t.mu.Unlock()
		if !known {
			t.ask(ctx, p)
		}
	}
}

// ask pulls from one peer in the background, unless that is done already.
func (t *Travel) ask(ctx context.Context, p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sources[p]
	if s == nil {
		s = &source{}
		t.sources[p] = s
	}
	if s.more = s.busy; s.busy || t.over || ctx.Err() != nil {
		return
	}
	s.busy = true
	t.work.Go(func() {
		for again := true; again; {
			t.pull(ctx, p, s)
			t.mu.Lock()
			again = s.more && ctx.Err() == nil
			s.busy, s.more = again, false
			t.mu.Unlock()
		}
	})
}

// pull takes what a peer has published since it was asked last.
func (t *Travel) pull(ctx context.Context, p peer.ID, s *source) {
	for range maxRanges {
		t.mu.Lock()
		from := s.next
		t.mu.Unlock()
		entries, next, err := t.pullRange(ctx, p, from)
		if err == nil {
			err = t.takeAll(ctx, p, entries)
		}
		if err != nil {
			t.deps.Log.Debug("a neighbour was not heard to the end", zap.Stringer("peer", p), zap.Error(err))
			t.blame(p, err)
			return
		}
		t.mu.Lock()
		if s.next == from { // else everything is to be read anew
			s.next = next
		}
		t.mu.Unlock()
		if size(entries) < maxPull-maxProof {
			return
		}
	}
}

// pullRange asks one question. Of those there are so many at once; what is answered is looked at without keeping others from asking.
func (t *Travel) pullRange(ctx context.Context, p peer.ID, from uint64) (entries [][]byte, next uint64, err error) {
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	return Pull(ctx, t.host, p, from)
}

func size(entries [][]byte) (n int) {
	for _, e := range entries {
		n += len(e)
	}
	return n
}

// takeAll takes the entries of one answer, no faster than a peer may send, and asks for the key logs without which
// some cannot be taken. The error is ctx's, or says that too many of them are bad.
func (t *Travel) takeAll(ctx context.Context, p peer.ID, entries [][]byte) error {
	bad := 0
	var need []ledger.Key
	for _, e := range entries {
		if err := t.pace(ctx, p); err != nil {
			return err
		}
		r, err := t.take(p, e)
		if r.Verdict == ledger.Stale {
			t.limit.Known(p)
		}
		if r.Verdict == ledger.Missing && len(need) < maxNeed && !slices.Contains(need, r.ID) {
			need = append(need, r.ID)
		}
		if r.Verdict.Charged() {
			t.deps.Charge(p, err)
			if bad++; bad == badOfOnePull {
				return cellproto.Errorf("pull", cellproto.Denied, "%d of its entries are bad, the last: %w", bad, err)
			}
		}
	}
	for _, id := range need {
		if _, err := t.FetchLog(ctx, p, id); err != nil {
			return err
		}
	}
	return nil
}

// pace waits until another entry of a peer may be looked at: what this host asks for is no flood.
func (t *Travel) pace(ctx context.Context, p peer.ID) error {
	for {
		wait := t.limit.Wait(time.Now(), p)
		if wait == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// Again has all neighbours asked for everything next time: what was too far away to matter may matter now.
func (t *Travel) Again(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.again) < againEvery {
		return
	}
	t.again = now
	for _, s := range t.sources {
		s.next = 0
	}
}

// Ingest takes an entry that a peer has sent of its own accord; to charge for it is the caller's. Kinds: BadInput for
// one that no honest program sends, and for too many; Overloaded.
func (t *Travel) Ingest(p peer.ID, entry []byte) error {
	if err := t.admit(time.Now(), p); err != nil {
		return err
	}
	_, err := t.take(p, entry)
	return err
}

// IngestOwn is Ingest for receipts between this host and a peer that it has called, or has sent a bill: they do not wait
// behind what all others send, or a crowd could keep this host from signing, and from being signed for.
func (t *Travel) IngestOwn(p peer.ID, entry []byte) error {
	if t.limit.Floods(time.Now(), p) {
		return t.flooded()
	}
	_, err := t.take(p, entry)
	return err
}

// admit says whether an entry that a peer sends is looked at.
func (t *Travel) admit(now time.Time, p peer.ID) error {
	flood, ok := t.limit.Allow(now, p)
	switch {
	case ok:
		return nil
	case flood:
		return t.flooded()
	}
	t.refuse(Busy, Busy)
	return cellproto.Errorf("take entry", cellproto.Overloaded, "there was too much to look at")
}

func (t *Travel) flooded() error {
	t.refuse(Flooding, Flooding)
	return cellproto.Errorf("take entry", cellproto.BadInput, "more than %d entries a second", entryRate)
}

// take has the ledger look at an entry, and publishes what is new. What comes too soon is put off, and has no verdict.
func (t *Travel) take(p peer.ID, entry []byte) (ledger.Result, error) {
	return t.takeAt(time.Now(), p, entry)
}

func (t *Travel) takeAt(now time.Time, p peer.ID, entry []byte) (ledger.Result, error) {
	step, paced := t.deps.Ledger.Step(entry)
	if paced && t.early(now, p, step, entry) {
		return ledger.Result{}, nil
	}
	begin := time.Now()
	r := t.deps.Ledger.Ingest(now, entry)
	after := time.Now()
	t.limit.Spent(after, after.Sub(begin))
	if r.Verdict == ledger.Forked {
		t.deps.Log.Warn("the key log of an identity has forked: it is banned", zap.Stringer("from", p))
	}
	if paced && r.Verdict == ledger.Stored {
		t.mu.Lock()
		t.paces.taken(now, step)
		t.mu.Unlock()
	}
	t.Pass(r)
	if r.Verdict.Charged() {
		return r, cellproto.Errorf("take entry", cellproto.BadInput, "%s: %w", r.Verdict, r.Err)
	}
	return r, nil
}

// Publish has neighbours find an entry when they ask next. What is urgent they are told of at once.
func (t *Travel) Publish(slot ledger.Hash, entry []byte, urgent bool) {
	t.news.Publish(string(slot[:]), entry)
	if urgent {
		t.tell()
	}
}

// tell has readers told that there is something.
func (t *Travel) tell() {
	select {
	case t.due <- struct{}{}:
	default:
	}
}

// tellReaders sends a head to those who have asked not long ago.
func (t *Travel) tellReaders(ctx context.Context, now time.Time) {
	head, err := ledger.SealHead(ledger.Head{Net: t.cfg.Net, Host: t.self, Next: t.news.Next(), T: uint64(now.UnixMilli())}, t.cfg.Key)
	if err != nil {
		t.deps.Log.Error("a head cannot be signed", zap.Error(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, asked := range t.readers {
		if now.Sub(asked) > readerStays {
			delete(t.readers, p)
			continue
		}
		t.work.Go(func() {
			if err := tell(ctx, t.host, p, head); err != nil {
				t.deps.Log.Debug("a neighbour was not told", zap.Stringer("peer", p), zap.Error(err))
			}
		})
	}
}

// head takes a neighbour's word that it has more, and asks it. From others it is nothing.
func (t *Travel) head(p peer.ID, from ledger.Key, data []byte) error {
	h, verify, err := ledger.DecodeHead(data)
	switch {
	case cellproto.KindOf(err) == cellproto.Unsupported:
		return nil
	case err != nil:
		return err
	case h.Net != t.cfg.Net:
		return nil
	case h.Host != from:
		return cellproto.Errorf("take head", cellproto.BadInput, "it is another host's")
	}
	t.mu.Lock()
	s, ctx := t.sources[p], t.ctx
	fresh := s != nil && !s.away && ctx != nil && h.Next > s.next
	t.mu.Unlock()
	if !fresh {
		t.refuse(ledger.Stale.String(), ledger.Result{Verdict: ledger.Stale}.Sort())
		return nil
	}
	if err := verify(); err != nil {
		t.refuse(ledger.Forged.String(), ledger.Forged.String())
		return cellproto.Errorf("take head", cellproto.BadInput, "%w", err)
	}
	t.ask(ctx, p)
	return nil
}

// blame charges a peer for an answer that breaks the protocol.
func (t *Travel) blame(p peer.ID, err error) {
	if kind := cellproto.KindOf(err); kind == cellproto.TooLarge || kind == cellproto.BadInput {
		t.unreadable(kind)
		if !errors.Is(err, context.Canceled) {
			t.deps.Charge(p, err)
		}
	}
}
