package content

import (
	"context"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/internal/addrgroup"
)

// groupShare is which part of all places the peers of one group may have: an attacker makes as many
// identities as he likes, but has few networks.
const groupShare = 4

// taker is who wants a place: a peer, and the group of its address. All that are relayed are one, and so are all that have
// no IP address.
type taker struct {
	peer  peer.ID
	group string
}

func takerOf(c network.Conn) taker { return taker{c.RemotePeer(), addrgroup.Of(c.RemoteMultiaddr())} }

// shares hands out places so that neither one peer nor one group has them all.
type shares struct {
	total, perPeer, perGroup int // places at once

	mu     sync.Mutex
	taken  int
	peers  map[peer.ID]int
	groups map[string]int
	queue  []*waiter // in the order in which they came
}

type waiter struct {
	taker
	ready chan struct{} // closed when it has its place
}

func newShares(total, perPeer int) *shares {
	return &shares{
		total: total, perPeer: perPeer, perGroup: max(total/groupShare, 1),
		peers: make(map[peer.ID]int), groups: make(map[string]int),
	}
}

// take gives t a place, if there is one for it at once. Each place needs a free.
func (s *shares) take(t taker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(t)
}

func (s *shares) takeLocked(t taker) bool {
	if s.taken >= s.total || s.peers[t.peer] >= s.perPeer || s.groups[t.group] >= s.perGroup {
		return false
	}
	s.taken++
	s.peers[t.peer]++
	s.groups[t.group]++
	return true
}

// wait waits for a place until ctx ends; false: there was none.
func (s *shares) wait(ctx context.Context, t taker) bool {
	s.mu.Lock()
	if s.takeLocked(t) {
		s.mu.Unlock()
		return true
	}
	w := &waiter{t, make(chan struct{})}
	s.queue = append(s.queue, w)
	s.mu.Unlock()
	select {
	case <-w.ready:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.ready: // both at once
		s.freeLocked(t)
	default:
		s.queue = slices.DeleteFunc(s.queue, func(other *waiter) bool { return other == w })
	}
	return false
}

// free gives a place back, and on to who waits for one.
func (s *shares) free(t taker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freeLocked(t)
}

func (s *shares) freeLocked(t taker) {
	s.taken--
	if s.peers[t.peer]--; s.peers[t.peer] == 0 {
		delete(s.peers, t.peer)
	}
	if s.groups[t.group]--; s.groups[t.group] == 0 {
		delete(s.groups, t.group)
	}
	s.queue = slices.DeleteFunc(s.queue, func(w *waiter) bool {
		if !s.takeLocked(w.taker) {
			return false
		}
		close(w.ready)
		return true
	})
}

// held says how many places there are in use, and how many of them t's peer has.
func (s *shares) held(t taker) (all, own int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.peers[t.peer]
}
