package node

import (
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// adverts makes the cell's advert when it is asked for, and at most every AdvertRefresh: a cell that
// nobody asks costs nothing.
type adverts struct {
	n *nucleus

	mu    sync.Mutex
	last  []byte
	made  time.Time
	of    cid.Cid
	seq   uint64
	shown *signed.Advert // to be written to cache/advert.json; nil: nothing new
}

func newAdverts(n *nucleus) *adverts { return &adverts{n: n} }

// serve answers one stream of the advert protocol. The file is written when the asker has its answer:
// races are decided in less time than a disk needs.
func (a *adverts) serve(s network.Stream) error {
	err := call.ServeAdvert(s, a.get)
	a.mu.Lock()
	ad := a.shown
	a.shown = nil
	a.mu.Unlock()
	if ad != nil {
		a.show(ad)
	}
	return err
}

// get gives the sealed advert for a cell that is served here.
func (a *adverts) get(c cid.Cid) ([]byte, error) {
	m, id := a.n.serving.published()
	if m == nil || !id.Equals(c) {
		return nil, cellproto.Errorf("advert", cellproto.NotFound, "this peer does not serve %s", c)
	}
	if err := a.n.resting(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.last != nil && a.of.Equals(c) && now.Sub(a.made) < cellproto.AdvertRefresh {
		return a.last, nil
	}
	ad := a.make(m, id, now)
	sealed, err := signed.SealAdvert(ad, a.n.identity.Host)
	if err != nil {
		return nil, err
	}
	a.last, a.made, a.of, a.seq, a.shown = sealed, now, c, ad.Seq, &ad
	return sealed, nil
}

// make describes the load at the moment. a.mu is held.
func (a *adverts) make(m *signed.Manifest, id cid.Cid, now time.Time) signed.Advert {
	load := a.n.load()
	capacity := a.n.cfg.Resources.Concurrency
	ad := signed.Advert{
		Cell: id, Peer: a.n.identity.Peer, Addrs: a.n.hostAddrs(), Seq: signed.NextSeq(a.seq, now),
		Issued: now, Expires: now.Add(cellproto.AdvertLifetime), Name: m.Name, Version: m.Version,
		P50: load.P50.Duration(), P99: load.P99.Duration(),
		Queue: uint32(max(load.InFlight-capacity, 0)), Capacity: uint32(capacity), FreeSlots: uint32(max(capacity-load.InFlight, 0)),
		Relayed: a.n.relayedOnly(), Repo: a.n.cfg.Artefact.Repo, Ref: a.n.cfg.Artefact.Ref,
		SchemasAccepted: m.Accepted, BinaryBLAKE3: a.n.serving.digest(),
	}
	if a.n.builtFrom(m, ad.BinaryBLAKE3) {
		ad.Repo, ad.Ref = m.Source.Repo, m.Source.Commit
	}
	if s := a.n.server.Serving(); s.Schema != nil {
		ad.SchemasProvided = []cellproto.SchemaHash{s.Hash}
	}
	return ad
}

// show writes cache/advert.json, for static lists and for people.
func (a *adverts) show(ad *signed.Advert) {
	data, err := ad.File(ctl.SocketPath(a.n.cfg.Dir, ctl.CellSocket)).Marshal()
	if err == nil {
		err = a.n.serving.write("advert.json", data)
	}
	if err != nil {
		a.n.log.Warn("cannot write advert.json", zap.Error(err))
	}
}

// hostAddrs gives the addresses to tell others, at most as many as an advert has room for.
func (n *nucleus) hostAddrs() []ma.Multiaddr {
	addrs := n.host.Addrs()
	return addrs[:min(len(addrs), cellproto.MaxAdvertAddrs)]
}

// addrs gives them with the peer ID at the end: what others can bootstrap from.
func (n *nucleus) addrs() []string {
	out := []string{}
	for _, addr := range n.hostAddrs() {
		out = append(out, addr.String()+"/p2p/"+n.identity.Peer.String())
	}
	return out
}

// relayedOnly says that others reach this host through a relay only.
func (n *nucleus) relayedOnly() bool {
	if n.reach.get() != network.ReachabilityPrivate {
		return false
	}
	for _, a := range n.host.Addrs() {
		if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
			return true
		}
	}
	return false
}
