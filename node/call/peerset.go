package call

import (
	"slices"

	"github.com/celldnet/celld/cellproto"
)

// peerSet is the few peers that one call has used up.
type peerSet struct {
	peers []cellproto.PeerID
	room  [2]cellproto.PeerID // for the first ones
}

func (s *peerSet) has(p cellproto.PeerID) bool { return slices.Contains(s.peers, p) }

func (s *peerSet) add(p cellproto.PeerID) {
	if s.peers == nil {
		s.peers = s.room[:0]
	}
	if !s.has(p) {
		s.peers = append(s.peers, p)
	}
}

func (s *peerSet) addAll(other *peerSet) {
	for _, p := range other.peers {
		s.add(p)
	}
}
