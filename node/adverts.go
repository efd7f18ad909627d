package node

import (
	"os"
	"path/filepath"
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

// adverts makes the cell's advert when it is asked for, and at most every AdvertRefresh. Its file is there for as long as
// the cell is published, whoever asks: static lists name it.
type adverts struct {
	n     *nucleus
	poked chan struct{} // capacity 1: what is published may have changed

	writing sync.Mutex // the file
	broken  bool       // it could not be written last time; writing guards it

	mu    sync.Mutex
	last  []byte
	made  time.Time
	of    cid.Cid
	seq   uint64
	shown *signed.Advert // to be written to cache/advert.json; nil: nothing new
}

func newAdverts(n *nucleus) *adverts { return &adverts{n: n, poked: make(chan struct{}, 1)} }

// fileTimes gives how long the advert's file says that it holds, and how often it is written: before that has passed, and
// on a router, whose flash memory wears out, as seldom as an advert's longest life allows.
func (a *adverts) fileTimes() (life, every time.Duration) {
	if a.n.profile == Router {
		return cellproto.MaxAdvertLifetime, cellproto.MaxAdvertLifetime / 2
	}
	return cellproto.AdvertLifetime, cellproto.AdvertLifetime - cellproto.AdvertRefresh
}

// keep writes the file now, if the cell is published, and again before it expires, until the nucleus stops.
func (a *adverts) keep(started *closers) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_, every := a.fileTimes()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
			case <-a.poked:
			case <-stop:
				return
			}
			if a.write() {
				timer.Reset(every)
			}
		}
	}()
	started.add(func() { close(stop); <-ended })
}

// poke has the file written soon: what is published may have changed.
func (a *adverts) poke() {
	select {
	case a.poked <- struct{}{}:
	default:
	}
}

// write makes the file anew, and reports whether the cell is published and can be reached.
func (a *adverts) write() bool {
	m, id := a.n.serving.published()
	if m == nil || !a.n.reachable() {
		return false
	}
	a.mu.Lock()
	ad := a.make(m, id, time.Now())
	a.mu.Unlock()
	a.show(&ad)
	return true
}

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

// show writes cache/advert.json, for static lists and for people. It is not synced: after a crash it is made again.
func (a *adverts) show(ad *signed.Advert) {
	life, _ := a.fileTimes()
	shown := *ad
	shown.Expires = shown.Issued.Add(life)
	data, err := shown.File(ctl.SocketPath(a.n.cfg.Dir, ctl.CellSocket)).Marshal()
	a.writing.Lock()
	defer a.writing.Unlock()
	if err == nil {
		err = replaceUnsynced(a.n.serving.cacheFile("advert.json"), data)
	}
	if err != nil && !a.broken { // said once
		a.n.log.Warn("cannot write advert.json", zap.Error(err))
	}
	a.broken = err != nil
}

// replaceUnsynced replaces a file below cache/ by rename, without waiting for the disk.
func replaceUnsynced(path string, data []byte) error {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // readable by the owner only
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name()) //nolint:errcheck // what matters is why it could not be written
	}
	return err
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
