package call

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// strangers are providers that the network names and that are not there.
func strangers(t testing.TB, n int) (out []Found) {
	for range n {
		info := peer.AddrInfo{ID: idOf(t, newKeyPair(t)), Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")}}
		out = append(out, Found{Info: info, Source: "dht"})
	}
	return out
}

// The network has named more providers that are not there than are remembered: a copy that was just made is used.
func TestCopyAmongStrangers(t *testing.T) {
	cell, peers := publish(t, testSchema()), &book{}
	old, fresh := provide(t, cell, nil), provide(t, cell, nil)
	peers.add(old.host)
	c := use(t, cell, peers, nil)
	c.mustRace(t, cell)
	r := c.remote(cell.id)
	r.mu.Lock()
	for _, f := range strangers(t, 2*maxInfos) {
		r.know(f.Info, nil, nil)
	}
	n := len(r.infos)
	_, kept := r.infos[cellproto.PeerID(peerText(old.host))]
	r.mu.Unlock()
	if n != maxInfos || !kept {
		t.Errorf("%d are remembered, the winner: %v", n, kept)
	}
	old.stop()
	c.Suggest(cell.id, infoOf(fresh.host), "mirror")
	d, err := c.Race(t.Context(), cell.id.String())
	if err != nil || string(d.Winner) != peerText(fresh.host) {
		t.Errorf("the copy does not win: %v", err)
	}
}

// Who is forgotten: none that takes part or was suggested, and of the others rather who has never answered.
func TestForgotten(t *testing.T) {
	r := &remote{infos: map[cellproto.PeerID]peer.AddrInfo{}, programs: map[cellproto.PeerID]program{}}
	all := strangers(t, maxInfos+64)
	id := func(f Found) cellproto.PeerID { return cellproto.PeerID(f.Info.ID.String()) }
	joined := map[cellproto.PeerID]bool{id(all[0]): true}
	r.suggested = all[1:2]
	r.decision = &race.Decision{Ranking: []race.Ranked{
		{Candidate: race.Candidate{Peer: id(all[2])}},
		{Candidate: race.Candidate{Peer: id(all[3])}, Out: "not in time"},
	}}
	r.programs[id(all[4])] = program{}
	for _, f := range all {
		r.know(f.Info, nil, joined)
	}
	for i, f := range all[:5] {
		if _, ok := r.infos[id(f)]; !ok {
			t.Errorf("peer %d is forgotten", i)
		}
	}
	if _, ok := r.infos[id(all[len(all)-1])]; !ok || len(r.infos) != maxInfos {
		t.Errorf("%d are remembered, the newest: %v", len(r.infos), ok)
	}
}
