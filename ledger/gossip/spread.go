package gossip

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// What is passed on of others, and key logs as a whole.

// Pass counts what became of an entry, and tells neighbours of what is new. Key logs go on as far as they matter: else
// anybody could fill everybody's room with identities that nobody knows.
func (t *Travel) Pass(r ledger.Result) {
	t.took(r)
	switch {
	case r.Verdict == ledger.Forked:
		t.Publish(ledger.Hash(r.Proof.ID()), r.Record, true)
	case r.Verdict != ledger.Stored || r.Own: // own registers are told when it is time to; see ledger.PublishDue
	case r.ID == ledger.Key{}:
		t.Publish(r.Slot, r.Record, false)
	default:
		cheque := len(r.Edges) > 0
		if cheque || t.deps.Ledger.Matters(r.ID) {
			t.Spread(r.ID)
		}
		if cheque { // behind the key log that says who signs it
			t.Publish(r.Slot, r.Record, false)
		}
	}
}

// Spread publishes of the key log of an identity what was not published yet. It is urgent if nothing of that identity
// was in the last ten minutes.
func (t *Travel) Spread(id ledger.Key) {
	var fresh []*ledger.KeyEntry
	t.mu.Lock()
	t.deps.Ledger.View(func(b *ledger.Book) { fresh = b.Log(id, t.logs[id]) })
	if len(fresh) > 0 {
		t.logs[id] = fresh[len(fresh)-1].Seq + 1
	}
	t.mu.Unlock()
	for _, e := range fresh {
		slot, err := e.Hash()
		if err == nil {
			t.put(slot, e)
		}
	}
	if len(fresh) > 0 && t.hurry(id, time.Now()) {
		t.tell()
	}
}

// maxUrgent bounds the identities that are remembered; past it all start anew.
const maxUrgent = 4096

// hurry says whether a change of an identity's keys is urgent: one in ten minutes is.
func (t *Travel) hurry(id ledger.Key, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.urgent[id]; ok && now.Sub(last) < urgentEvery {
		return false
	}
	if len(t.urgent) >= maxUrgent {
		clear(t.urgent)
	}
	t.urgent[id] = now
	return true
}

// maxRounds bounds the questions for one key log.
const maxRounds = 16

// FetchLog takes what a neighbour has of the key log of an identity and this host has not, and the cheques. Where
// theirs does not follow from what is here, it is read from the beginning: where two branches part is a proof. It gives
// how long the log is, as the neighbour says; 0: it does not know it.
func (t *Travel) FetchLog(ctx context.Context, p peer.ID, id ledger.Key) (length uint64, err error) {
	from := t.length(id)
	for range maxRounds {
		var list [][]byte
		if list, length, err = KeyLog(ctx, t.host, p, id, from); err != nil {
			t.blame(p, err)
			return 0, err
		}
		news, parted := false, false
		for _, e := range list {
			if id != t.cfg.Account { // asked for, and no limit may keep this host from what it has signed itself
				if err := t.pace(ctx, p); err != nil {
					return 0, err
				}
			}
			r, err := t.take(p, e)
			if err != nil {
				t.deps.Charge(p, err)
				return 0, err
			}
			news = news || r.Verdict == ledger.Stored || r.Verdict == ledger.Forked
			parted = parted || r.Verdict == ledger.Missing
		}
		have := t.length(id)
		switch {
		case parted && from > 0:
			from = 0
		case have >= length || !news:
			return length, nil
		default:
			from = have
		}
	}
	return 0, cellproto.Errorf("ask for a key log", cellproto.TooLarge, "it does not end")
}

// length gives how many entries of a key log are here.
func (t *Travel) length(id ledger.Key) (n uint64) {
	t.deps.Ledger.View(func(b *ledger.Book) {
		if s := b.State(id); s != nil {
			n = s.Len
		}
	})
	return n
}
