package node

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
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

// meeting is how new neighbours are looked for.
const (
	meetEvery   = time.Minute
	meetAtOnce  = 4 // dialed
	meetTimeout = 10 * time.Second
	metAgain    = time.Hour // who was no neighbour then is tried again
	maxMet      = 1024
	keptTag     = "ledger" // of connections that are not given up while there are too many
)

// neighbours gives connected peers that speak the protocol, at most one of a group of addresses as long as
// there are others: /16 of IPv4, /32 of IPv6. Whom this host deals with comes first.
func (a *accounts) neighbours() []peer.ID {
	h := a.n.host
	var peers []peer.ID
	group := map[peer.ID]string{}
	for _, p := range h.Network().Peers() {
		if !speaks(h, p) {
			continue
		}
		for _, c := range h.Network().ConnsToPeer(p) {
			group[p] = addrGroup(c.RemoteMultiaddr())
		}
		peers = append(peers, p)
	}
	known := a.partners()
	slices.SortStableFunc(peers, func(x, y peer.ID) int { return cmp.Compare(btoi(known[y]), btoi(known[x])) })
	return diverse(peers, group, maxNeighbours)
}

func speaks(h host.Host, p peer.ID) bool {
	ok, err := h.Peerstore().SupportsProtocols(p, cellproto.ProtocolLedger)
	return err == nil && len(ok) > 0
}

// partners gives those whom this host has called and signed for, or that have signed for a window at least. What this
// host alone has signed makes nobody a partner: by one call each strangers would be all its neighbours.
func (a *accounts) partners() map[peer.ID]bool {
	out := map[peer.ID]bool{}
	a.led.View(func(b *ledger.Book) {
		b.Registers(func(k ledger.RegKey, r ledger.Register) bool {
			var other ledger.Key
			switch {
			case k.Consumer == a.self && r.Credit() > 0:
				other = k.Provider
			case k.Provider == a.self && r.Credit() >= ledger.MinWindow:
				other = k.Consumer
			default:
				return true
			}
			if p, err := peerOf(other); err == nil {
				out[p] = true
			}
			return true
		})
	})
	return out
}

// meet keeps the connections to neighbours, and looks for further ones in other networks while there are too few.
func (a *accounts) meet(ctx context.Context) {
	tick := time.NewTicker(meetEvery)
	defer tick.Stop()
	met, kept := map[peer.ID]time.Time{}, []peer.ID(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		kept = a.keepNeighbours(kept)
		if _, groups := a.groups(); groups < minNeighbours {
			a.seek(ctx, met, time.Now())
		}
	}
}

// keepNeighbours has the connections to those who are heard stay, and gives them; before are those of last time.
func (a *accounts) keepNeighbours(before []peer.ID) []peer.ID {
	manager := a.n.host.ConnManager()
	now := a.neighbours()
	for _, p := range before {
		if !slices.Contains(now, p) {
			manager.Unprotect(p, keptTag)
		}
	}
	for _, p := range now {
		manager.Protect(p, keptTag)
	}
	return now
}

// seek dials a few peers whose addresses are known, in networks where no neighbour is: first those that this host
// deals with.
func (a *accounts) seek(ctx context.Context, met map[peer.ID]time.Time, now time.Time) {
	h := a.n.host
	have := map[string]bool{}
	for _, p := range a.neighbours() {
		for _, c := range h.Network().ConnsToPeer(p) {
			have[addrGroup(c.RemoteMultiaddr())] = true
		}
	}
	known := a.partners()
	others := h.Peerstore().PeersWithAddrs()
	if a.n.cfg.Network.IsPublic() { // most of those there know nothing of cells
		others = slices.DeleteFunc(others, func(p peer.ID) bool { return !known[p] && !speaks(h, p) })
	}
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	slices.SortStableFunc(others, func(x, y peer.ID) int { return cmp.Compare(btoi(known[y]), btoi(known[x])) })
	if len(met) > maxMet {
		clear(met)
	}
	dialed := 0
	for _, p := range others {
		addrs := h.Peerstore().Addrs(p)
		if dialed == meetAtOnce || ctx.Err() != nil {
			return
		}
		if len(addrs) == 0 || p == h.ID() || now.Sub(met[p]) < metAgain || have[addrGroup(addrs[0])] || h.Network().Connectedness(p) == network.Connected {
			continue
		}
		met[p] = now
		dialed++
		limited, cancel := context.WithTimeout(ctx, meetTimeout)
		err := h.Connect(limited, peer.AddrInfo{ID: p, Addrs: addrs})
		cancel()
		if err == nil && speaks(h, p) {
			have[addrGroup(addrs[0])] = true
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
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

// addrGroup names the network that an address is in; all that have no IP address, and all behind relays, are one.
func addrGroup(a ma.Multiaddr) string {
	if g := addrgroup.Wide(a); g != "" {
		return g
	}
	return addrgroup.Relayed
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
