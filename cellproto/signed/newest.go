package signed

import (
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Newest keeps the newest advert of each peer for each cell: an advert whose sequence number does not
// rise is dropped and the one before is kept. It holds a bounded number of them and forgets the one
// that expires first; what is forgotten can come back only until it expires. It is safe for concurrent use.
type Newest struct {
	max int

	mu   sync.Mutex
	kept map[advertKey]*Advert
}

type advertKey struct {
	peer peer.ID
	cell cid.Cid
}

// NewNewest keeps at most max adverts, at least one. An advert takes at most a few MaxAdvert of memory.
func NewNewest(max int) *Newest {
	if max < 1 {
		max = 1
	}
	return &Newest{max: max, kept: make(map[advertKey]*Advert)}
}

// Put takes an advert that OpenAdvert has checked and gives the newest one of its peer for its cell,
// and whether that is a. An advert that comes a second time is not newer; there is nothing wrong with it.
func (n *Newest) Put(a *Advert, now time.Time) (newest *Advert, newer bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := advertKey{a.Peer, a.Cell}
	old := n.kept[key]
	if old != nil && !stale(old, now) && a.Seq <= old.Seq {
		return old, false
	}
	if old == nil && len(n.kept) >= n.max {
		n.forget(now)
	}
	n.kept[key] = a
	return a, true
}

// Get gives the newest advert of a peer for a cell, or nil. It may have expired.
func (n *Newest) Get(p peer.ID, cell cid.Cid) *Advert {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kept[advertKey{p, cell}]
}

// forget makes room: everything that OpenAdvert would refuse now, else what will be refused first.
func (n *Newest) forget(now time.Time) {
	var first advertKey
	var firstAt time.Time
	for key, a := range n.kept {
		if stale(a, now) {
			delete(n.kept, key)
		} else if firstAt.IsZero() || a.Expires.Before(firstAt) {
			first, firstAt = key, a.Expires
		}
	}
	if len(n.kept) >= n.max {
		delete(n.kept, first)
	}
}

func stale(a *Advert, now time.Time) bool { return !now.Before(a.Expires.Add(cellproto.MaxClockSkew)) }
