package node

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/ledger"
)

// What neighbours tell each other.

type published struct {
	credit uint64
	at     time.Time
}

func (a *accounts) publishCheque(c *ledger.SignedCheque) {
	if data, err := c.Encode(); err == nil {
		a.travel.Spread(c.Donor)
		a.travel.Publish(c.Slot(), data, true)
	}
}

func peerOf(k ledger.Key) (peer.ID, error) {
	pub, err := cryptoKey(k)
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

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
			a.travel.Spread(a.owner(host)) // by whom others know whose it is
		}
		if e, err := x.entry.Encode(); err == nil {
			before := a.told[x.key].credit
			hurries := before > 0 && x.entry.Credit-before > ledger.Window(before)/2
			a.travel.Publish(x.key.Slot(), e, hurries)
			a.told[x.key] = published{x.entry.Credit, now}
		}
	}
}
