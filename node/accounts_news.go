package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// What neighbours tell each other.

type published struct {
	credit uint64
	at     time.Time
}

// ingest takes an entry from a peer, within the limits.
func (a *accounts) ingest(from peer.ID, entry []byte) error {
	_, err := a.take(from, entry)
	return err
}

// take is ingest, and says what became of the entry.
func (a *accounts) take(from peer.ID, entry []byte) (ledger.Result, error) {
	now := time.Now()
	if !a.limit.Allow(now, from) {
		return ledger.Result{}, cellproto.Errorf("take entry", cellproto.Overloaded, "too many entries")
	}
	r := a.led.Ingest(now, entry)
	after := time.Now()
	a.limit.Spent(after, after.Sub(now))
	return r, a.judge(from, r)
}

// judge charges a peer with what it has sent, or passes it on.
func (a *accounts) judge(from peer.ID, r ledger.Result) error {
	a.count(r.Verdict)
	if r.Verdict.Charged() {
		err := cellproto.Errorf("take entry", cellproto.BadInput, "%s: %v", r.Verdict, r.Err)
		a.n.charge(from, err)
		return err
	}
	a.pass(r)
	return nil
}

func (a *accounts) count(v ledger.Verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verdicts[v]++
}

// pass tells neighbours of what was taken in and is of interest to them.
func (a *accounts) pass(r ledger.Result) {
	switch {
	case r.Verdict == ledger.Forked:
		a.news.Publish(string(r.Slot[:]), r.Record) // everybody is to know
	case r.Verdict == ledger.Stored && r.ID != ledger.Key{}:
		if a.led.Matters(r.ID) || len(r.Edges) > 0 {
			a.spread(r.ID)
		}
		if len(r.Edges) > 0 { // a cheque; behind the key log that says who signs it
			a.news.Publish(string(r.Slot[:]), r.Record)
		}
	}
}

// spread publishes of the key log of an identity what was not published yet.
func (a *accounts) spread(id ledger.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spreadLocked(id)
}

func (a *accounts) spreadLocked(id ledger.Key) {
	a.led.View(func(b *ledger.Book) {
		for _, e := range b.Log(id, a.logs[id]) {
			slot, err := e.Hash()
			if err != nil {
				return
			}
			if data, err := e.Encode(); err == nil {
				a.news.Publish(string(slot[:]), data)
			}
			a.logs[id] = e.Seq + 1
		}
	})
}

// spreadConcerns publishes, at a start, what the account and its pools have signed or were given.
func (a *accounts) spreadConcerns() {
	pools, err := a.own.named()
	if err != nil {
		a.log.Warn("the names of pools cannot be read", zap.Error(err))
	}
	var cheques []*ledger.SignedCheque
	a.led.View(func(b *ledger.Book) {
		b.Cheques(func(c *ledger.SignedCheque) bool {
			if b.Concerns(c.Donor) || b.Concerns(c.To) {
				cheques = append(cheques, c)
			}
			return true
		})
	})
	for _, id := range pools {
		a.spread(id)
	}
	for _, c := range cheques {
		a.publishCheque(c)
	}
}

func (a *accounts) publishCheque(c *ledger.SignedCheque) {
	a.spread(c.Donor)
	slot := c.Slot()
	if data, err := c.Encode(); err == nil {
		a.news.Publish(string(slot[:]), data)
	}
}

func peerOf(k ledger.Key) (peer.ID, error) {
	pub, err := cryptoKey(k)
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

// Since gives what was published; see gossip.Books.
func (a *accounts) Since(from uint64, room int) ([][]byte, uint64) { return a.news.Since(from, room) }

// publish tells neighbours of the own registers that have grown.
func (a *accounts) publish(now time.Time) {
	type news struct {
		key   ledger.RegKey
		entry *ledger.Signed
	}
	var all []news
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.grown) == 0 {
		return
	}
	a.led.View(func(b *ledger.Book) {
		for k := range a.grown {
			r, _ := b.Register(k)
			t := a.told[k]
			if r.Ack != nil && ledger.PublishDue(t.credit, r.Ack.Credit, ledger.Window(t.credit), now.Sub(t.at)) {
				all = append(all, news{k, r.Ack})
			}
		}
	})
	for _, x := range all {
		delete(a.grown, x.key)
		for _, host := range []ledger.Key{x.key.Consumer, x.key.Provider} {
			a.spreadLocked(a.owner(host)) // by whom others know whose it is
		}
		if e, err := x.entry.Encode(); err == nil {
			a.news.Publish(x.key.Consumer.String()+x.key.Provider.String()+x.key.Beneficiary.String(), e)
			a.told[x.key] = published{x.entry.Credit, now}
		}
	}
}

// maxNeed bounds the key logs that are asked for after one pull.
const maxNeed = 16

// pull asks neighbours what is new: all of them, or those that were never asked.
func (a *accounts) pull(ctx context.Context, strangers bool) {
	for _, p := range a.neighbours() {
		a.mu.Lock()
		from, known := a.pulled[p]
		a.pulled[p] = from
		a.mu.Unlock()
		if known && strangers {
			continue
		}
		a.running.Go(func() { a.pullFrom(ctx, p, from) })
	}
}

func (a *accounts) pullFrom(ctx context.Context, p peer.ID, from uint64) {
	var need []ledger.Key
	next, err := gossip.Pull(ctx, a.n.host, p, from, func(e []byte) error {
		r, err := a.take(p, e)
		if r.Verdict == ledger.Missing && len(need) < maxNeed && !slices.Contains(need, r.ID) {
			need = append(need, r.ID)
		}
		return err
	})
	for _, id := range need {
		if err == nil {
			err = a.fetchLog(ctx, p, id)
		}
	}
	if err != nil {
		a.log.Debug("a neighbour was not heard", zap.Stringer("peer", p), zap.Error(err))
		if kind := cellproto.KindOf(err); !errors.Is(err, ctx.Err()) && kind == cellproto.TooLarge {
			a.n.charge(p, err)
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pulled[p] = next
}

// maxRounds bounds the questions for one key log.
const maxRounds = 16

// fetchLog takes what a neighbour has of the key log of an identity and this host has not, and the cheques. Where
// theirs does not follow from what is here, it is read from the beginning: where two branches part is a proof.
func (a *accounts) fetchLog(ctx context.Context, p peer.ID, id ledger.Key) error {
	from := a.own.state(id).Len
	for range maxRounds {
		news, parted := false, false
		length, err := gossip.KeyLog(ctx, a.n.host, p, id, from, func(e []byte) (err error) {
			var r ledger.Result
			if id == a.own.id { // asked for, and no limit may keep this host from what it has signed itself
				r = a.led.Ingest(time.Now(), e)
				err = a.judge(p, r)
			} else {
				r, err = a.take(p, e)
			}
			news = news || r.Verdict == ledger.Stored || r.Verdict == ledger.Forked
			parted = parted || r.Verdict == ledger.Missing
			return err
		})
		if err != nil {
			return err
		}
		have := a.own.state(id).Len
		switch {
		case parted && from > 0:
			from = 0
		case have >= length || !news:
			return nil
		default:
			from = have
		}
	}
	return nil
}

// Entries gives what is known of an identity; see gossip.Books.
func (a *accounts) Entries(id ledger.Key, from uint64, room int) ([][]byte, uint64) {
	return a.led.Entries(id, from, room)
}
