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
// Nobody else is told, for an owner has signed the manifest and the question with the same key; nor that there is
// something to be told, but for what is announced anyway.

// serveCallers answers one stream.
func (n *nucleus) serveCallers(s network.Stream) error {
	return call.ServeCallers(s, n.callersFor)
}

// callersFor gives who calls any of the cells in a question, but for the asker: what this nucleus itself was made for
// first, then the schemas that the cell had, for anybody can invent one. NotFound if this nucleus has to do with none of
// the cells, or its own never leaves this machine, or the question is not signed by their owner; Denied for the last, if
// everybody can find out that it serves the cell.
func (n *nucleus) callersFor(q *signed.Question, owner peer.ID) ([]call.Claim, error) {
	const op = "say who calls"
	if n.cfg.Privacy.Placement == celltoml.PlacementLocal {
		return nil, cellproto.Errorf(op, cellproto.NotFound, "this cell stays on its machine")
	}
	var used []call.Used
	known := false
	owned := func(m *signed.Manifest) bool {
		ok := m != nil && m.Owner == cellproto.PeerID(owner.String())
		known = known || ok
		return ok
	}
	for id, schema := range n.locked.published() {
		if slices.ContainsFunc(q.Cells, id.Equals) && owned(n.caller.Known(id)) {
			used = append(used, call.Used{Schema: schema, Users: []call.User{{Who: n.identity.Peer.String(), Says: true}}})
		}
	}
	m, id := n.serving.published()
	serves := m != nil && slices.ContainsFunc(q.Cells, id.Equals)
	if serves && owned(m) {
		used = append(used, tellable(n.users(), q.Asker, n.schemas.has)...)
	}
	switch {
	case known:
		return call.Claims(used), nil
	case serves && n.reachable(): // so it is announced
		return nil, cellproto.Errorf(op, cellproto.Denied, "another account owns this cell")
	}
	return nil, cellproto.Errorf(op, cellproto.NotFound, "this peer neither serves nor calls it")
}

// tellable leaves the asker out, and puts the schemas that the cell had before those that callers may have invented.
func tellable(used []call.Used, asker peer.ID, had func(cellproto.SchemaHash) bool) (out []call.Used) {
	for _, row := range used {
		row.Users = slices.DeleteFunc(slices.Clone(row.Users), func(u call.User) bool { return u.Is(asker) })
		out = append(out, row)
	}
	slices.SortStableFunc(out, func(a, b call.Used) int {
		switch x, y := had(a.Schema), had(b.Schema); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	return out
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
