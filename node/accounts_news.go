package node

import (
	"context"
	"errors"
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
	now := time.Now()
	if !a.limit.Allow(now, from) {
		return cellproto.Errorf("take entry", cellproto.Overloaded, "too many entries")
	}
	r := a.led.Ingest(now, entry)
	after := time.Now()
	a.limit.Spent(after, after.Sub(now))
	a.mu.Lock()
	a.verdicts[r.Verdict]++
	a.mu.Unlock()
	if r.Verdict.Charged() {
		err := cellproto.Errorf("take entry", cellproto.BadInput, "%s: %v", r.Verdict, r.Err)
		a.n.charge(from, err)
		return err
	}
	if r.Verdict == ledger.Forked || r.Verdict == ledger.Stored && r.Host != (ledger.Key{}) {
		a.news.Publish(string(r.Slot[:]), r.Record) // everybody is to know
	}
	return nil
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
		if e, err := x.entry.Encode(); err == nil {
			a.news.Publish(x.key.Consumer.String()+x.key.Provider.String()+x.key.Beneficiary.String(), e)
			a.told[x.key] = published{x.entry.Credit, now}
		}
	}
}

// pull asks neighbours what is new.
func (a *accounts) pull(ctx context.Context) {
	for _, p := range a.neighbours() {
		a.running.Go(func() {
			a.mu.Lock()
			from := a.pulled[p]
			a.mu.Unlock()
			next, err := gossip.Pull(ctx, a.n.host, p, from, func(e []byte) error { return a.ingest(p, e) })
			if err != nil {
				a.log.Debug("a neighbour was not heard", zap.Stringer("peer", p), zap.Error(err))
				if kind := cellproto.KindOf(err); !errors.Is(err, ctx.Err()) && kind == cellproto.TooLarge {
					a.n.charge(p, err)
				}
				return
			}
			a.mu.Lock()
			a.pulled[p] = next
			a.mu.Unlock()
		})
	}
}
