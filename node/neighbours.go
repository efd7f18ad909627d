package node

import (
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/celldnet/celld/cellproto"
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

// addrGroup names the network that an address is in, as far as who has one address there is likely to
// have others.
func addrGroup(a ma.Multiaddr) string {
	ip, err := manet.ToIP(a)
	if err != nil {
		return "relayed"
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return "relayed"
	}
	addr = addr.Unmap()
	bits := 32
	if addr.Is4() {
		bits = 16
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
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
