package node

import (
	"slices"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/addrgroup"
	"github.com/celldnet/celld/ledger"
)

// Neighbours, whom the ledger hears from. An attacker who is all of them decides what this host knows:
// they are to be many, and in different networks.
const (
	minNeighbours = 8
	maxNeighbours = 16
)

// neighbours gives connected peers that speak the protocol, at most one of a group of addresses as long as
// there are others: /16 of IPv4, /32 of IPv6. Whom this host deals with comes first.
func (a *accounts) neighbours() []peer.ID {
	h := a.n.host
	var peers []peer.ID
	group := map[peer.ID]string{}
	for _, p := range h.Network().Peers() {
		if ok, err := h.Peerstore().SupportsProtocols(p, cellproto.ProtocolLedger); err != nil || len(ok) == 0 {
			continue
		}
		for _, c := range h.Network().ConnsToPeer(p) {
			group[p] = addrGroup(c.RemoteMultiaddr())
		}
		peers = append(peers, p)
	}
	return diverse(peers, group, maxNeighbours)
}

// diverse picks n peers of as many groups as there are.
func diverse(peers []peer.ID, group map[peer.ID]string, n int) (picked []peer.ID) {
	left := slices.Clone(peers)
	for len(left) > 0 && len(picked) < n {
		taken := map[string]bool{}
		left = slices.DeleteFunc(left, func(p peer.ID) bool {
			if g := group[p]; !taken[g] && len(picked) < n {
				taken[g] = true
				picked = append(picked, p)
				return true
			}
			return false
		})
	}
	return picked
}

// addrGroup names the network that an address is in; all that have no IP address are one.
func addrGroup(a ma.Multiaddr) string {
	if g := addrgroup.Wide(a); g != "" {
		return g
	}
	return "relayed"
}

// groups says how many different networks the neighbours are in.
func (a *accounts) groups() (peers, groups int) {
	seen := map[string]bool{}
	all := a.neighbours()
	for _, p := range all {
		for _, c := range a.n.host.Network().ConnsToPeer(p) {
			seen[addrGroup(c.RemoteMultiaddr())] = true
		}
	}
	return len(all), len(seen)
}

func cryptoKey(k ledger.Key) (crypto.PubKey, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return nil, cellproto.Errorf("read host key", cellproto.BadInput, "%w", err)
	}
	return pub, nil
}
