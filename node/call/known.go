package call

import (
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
)

// maxInfos bounds the peers whose addresses are remembered for one cell. It is more than all that know spares.
const maxInfos = 4 * cellproto.MaxProviders

// know notes where a peer may be. If too many are known another one is forgotten for it: anybody can have the network name
// peers that are not there. joined are those of the race that goes on. r.mu is held.
func (r *remote) know(info peer.AddrInfo, reached multiaddr.Multiaddr, joined map[cellproto.PeerID]bool) {
	id := cellproto.PeerID(info.ID.String())
	old, ok := r.infos[id]
	if ok && len(info.Addrs) == 0 {
		return
	}
	if !ok && len(r.infos) >= maxInfos {
		r.unknow(joined)
	}
	r.infos[id] = merge(old, info, reached)
}

// unknow forgets a peer: none of the race that goes on, of those suggested, or of those that did not fail in the last one that
// had a winner; rather one that has never given an advert; else any. r.mu is held.
func (r *remote) unknow(joined map[cellproto.PeerID]bool) {
	spared := map[cellproto.PeerID]bool{}
	if r.decision != nil {
		for _, k := range r.decision.Ranking {
			spared[k.Peer] = k.Out == "" || k.Kind == 0
		}
	}
	for _, f := range r.suggested {
		spared[cellproto.PeerID(f.Info.ID.String())] = true
	}
	var victim cellproto.PeerID
	for p := range r.infos { // in random order
		if joined[p] || spared[p] {
			continue
		}
		victim = p
		if _, answered := r.programs[p]; !answered {
			break
		}
	}
	delete(r.infos, victim)
}
