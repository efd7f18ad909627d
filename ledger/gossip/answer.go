package gossip

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// What neighbours ask of this host.

// since answers a pull, and notes that the peer listens.
func (t *Travel) since(p peer.ID, from uint64) (entries [][]byte, next uint64) {
	t.mu.Lock()
	if t.mayRead(p) {
		t.readers[p] = time.Now()
	}
	t.mu.Unlock()
	return t.news.Since(from, maxPull)
}

// mayRead says whether a peer is told what is urgent from now on. There are few places, and anybody can ask: one whom this host hears itself
// takes that of one whom it does not. t.mu is held.
func (t *Travel) mayRead(p peer.ID) bool {
	if _, ok := t.readers[p]; ok || len(t.readers) < maxReaders {
		return true
	}
	if t.sources[p] == nil {
		return false
	}
	for other := range t.readers {
		if t.sources[other] == nil {
			delete(t.readers, other)
			return true
		}
	}
	return false
}

// Serve answers one stream; see the function Serve.
func (t *Travel) Serve(s network.Stream, sign Signer) error {
	p := s.Conn().RemotePeer()
	if t.limit.Floods(time.Now(), p) {
		return t.flooded()
	}
	b := books{t: t, p: p, sign: sign}
	err := Serve(countedStream{s, &t.bytes}, &b)
	if kind := cellproto.KindOf(err); !b.refused && (kind == cellproto.BadInput || kind == cellproto.TooLarge) {
		t.unreadable(kind)
	}
	return err
}

// books is what a peer's stream is answered from.
type books struct {
	t       *Travel
	p       peer.ID
	sign    Signer
	refused bool
}

func (b *books) Sign(from ledger.Key, bill, before []byte) ([]byte, error) {
	receipt, err := b.sign.Sign(from, bill, before)
	if b.refused = err != nil; b.refused {
		b.t.count(Refused)
	}
	return receipt, err
}

func (b *books) Entries(id ledger.Key, from uint64, room int) ([][]byte, uint64) {
	list, length := b.t.deps.Ledger.Entries(id, from, room)
	if id == b.t.cfg.Account {
		b.shows(list)
	}
	b.t.limit.Answered(time.Now(), b.p, size(list))
	return list, length
}

// shows says that the peer gets these entries.
func (b *books) shows(list [][]byte) {
	if f := b.t.deps.Shown; f != nil && len(list) > 0 {
		f(b.p)
	}
}

func (b *books) Since(from uint64) ([][]byte, uint64) {
	list, next := b.t.since(b.p, from)
	b.shows(list)
	b.t.limit.Answered(time.Now(), b.p, size(list))
	return list, next
}

func (b *books) Head(from ledger.Key, data []byte) error { return b.t.head(b.p, from, data) }
