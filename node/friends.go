package node

import (
	"slices"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/node/call"
)

// friends are those to whom a cell of placement "friends" gives its program: peers that have proven to be the
// owner's own, or to hold one of allowed_keys.
type friends struct {
	known atomic.Pointer[acquaintances]
}

type acquaintances struct {
	server  *call.Server
	account peer.ID
	allowed []peer.ID
}

// know says how friends are told; before that there are none.
func (f *friends) know(server *call.Server, account cellproto.PeerID, allowed []peer.ID) {
	id, err := peer.Decode(string(account))
	if err != nil {
		return // then nobody is
	}
	f.known.Store(&acquaintances{server, id, allowed})
}

// only gives the test that a placement asks for; nil: everybody may have the program.
func (f *friends) only(p celltoml.Placement) func(peer.ID) bool {
	if p != celltoml.PlacementFriends {
		return nil
	}
	return f.is
}

func (f *friends) is(p peer.ID) bool {
	k := f.known.Load()
	if k == nil {
		return false
	}
	if slices.Contains(k.allowed, p) {
		return true
	}
	key, ok := k.server.Proven(p)
	return ok && (key == k.account || slices.Contains(k.allowed, key))
}
