package node

import (
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/call"
)

// What this nucleus tells the owner of a cell that it serves for others, or was made for: who calls by which schema.
// Nobody else is told, for an owner has signed the manifest and the question with the same key.

// serveCallers answers one stream.
func (n *nucleus) serveCallers(s network.Stream) error {
	return call.ServeCallers(s, n.callersFor)
}

// callersFor gives who calls any of the cells in a question: NotFound if this nucleus has to do with none of them, or its
// own cell never leaves this machine; Denied if they are not whose account has signed the question.
func (n *nucleus) callersFor(q *signed.Question, owner peer.ID) ([]call.Claim, error) {
	const op = "say who calls"
	if n.cfg.Privacy.Placement == celltoml.PlacementLocal {
		return nil, cellproto.Errorf(op, cellproto.NotFound, "this cell stays on its machine")
	}
	var used []call.Used
	denied, known := false, false
	is := func(m *signed.Manifest) bool {
		ok := m != nil && m.Owner == cellproto.PeerID(owner.String())
		known, denied = known || ok, denied || m != nil && !ok
		return ok
	}
	if m, id := n.serving.published(); slices.ContainsFunc(q.Cells, id.Equals) && is(m) {
		used = n.users()
	}
	for id, schema := range n.locked.published() {
		if slices.ContainsFunc(q.Cells, id.Equals) && is(n.caller.Known(id)) {
			used = append(used, call.Used{Schema: schema, Users: []call.User{{Who: n.identity.Peer.String(), Says: true}}})
		}
	}
	switch {
	case known:
		return call.Claims(used), nil
	case denied:
		return nil, cellproto.Errorf(op, cellproto.Denied, "another account owns this cell")
	}
	return nil, cellproto.Errorf(op, cellproto.NotFound, "this peer neither serves nor calls it")
}

// published gives the cells that this one was made for by their CIDs, with their schemas.
func (p *locked) published() map[cid.Cid]cellproto.SchemaHash {
	out := map[cid.Cid]cellproto.SchemaHash{}
	cells := p.now.Load()
	if cells == nil {
		return out
	}
	for _, c := range *cells {
		if id, err := cid.Decode(c.CID); err == nil {
			out[id] = c.Schema
		}
	}
	return out
}
