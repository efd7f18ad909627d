package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

func (n *nucleus) ctlDonors(_ context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	const op = "rank donors"
	a := n.accounts
	if a.led == nil {
		return nil, a.trouble()
	}
	root := a.self
	if text := r.URL.Query().Get("root"); text != "" {
		p, err := peer.Decode(text)
		if err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%.80q is no peer ID: %w", text, err).WithHint("cellctl wallet history shows those that this host deals with")
		}
		if root, err = gossip.KeyOf(p); err != nil {
			return nil, err
		}
	}
	rows := []ctl.DonorRow{}
	a.led.View(func(b *ledger.Book) { rows = donors(b, root) })
	return rows, nil
}

// donors ranks those who have given by what root owes them, by what a book has: its receipts are what this
// host has heard, from its own neighbours.
func donors(b *ledger.Book, root ledger.Key) []ctl.DonorRow {
	root = b.Owner(root)
	g, ids := ledger.NewGraph(root), map[ledger.Key]bool{}
	var edges []ledger.Edge
	b.Registers(func(k ledger.RegKey, r ledger.Register) bool {
		from := k.Provider
		if k.Beneficiary != (ledger.Key{}) {
			from = k.Beneficiary
		}
		from = b.Owner(from)
		ids[from] = true
		name := sha256.Sum256(binary.BigEndian.AppendUint32(slices.Concat(k.Consumer[:], k.Provider[:], k.Beneficiary[:]), k.Epoch))
		edges = append(edges, ledger.Edge{Name: name, From: from, To: b.Owner(k.Consumer), Total: r.Credit(), Signed: r.Credit()})
		return true
	})
	b.Cheques(func(c *ledger.SignedCheque) bool { // to has done that much for its donor
		to := b.Owner(c.To)
		ids[to] = true
		edges = append(edges, ledger.Edge{Name: c.Slot(), From: to, To: b.Owner(c.Donor), Total: c.Credit, Signed: c.Credit})
		return true
	})
	// What was served takes off what is owed, so their order matters, and nobody knows it: first what was done
	// for the root, which is what there is to be paid with.
	slices.SortFunc(edges, func(x, y ledger.Edge) int {
		if (x.To == root) != (y.To == root) {
			if x.To == root {
				return -1
			}
			return 1
		}
		return bytes.Compare(x.Name[:], y.Name[:])
	})
	for _, e := range edges {
		g.Apply(e)
	}
	rows := []ctl.DonorRow{}
	for id := range ids {
		p, err := peerOf(id)
		given, _ := b.Balance(id)
		if err != nil || given == 0 || id == root {
			continue
		}
		rows = append(rows, ctl.DonorRow{Peer: p.String(), Owed: g.Residual(id), Given: given})
	}
	slices.SortFunc(rows, func(x, y ctl.DonorRow) int {
		return cmp.Or(-cmp.Compare(x.Owed, y.Owed), -cmp.Compare(x.Given, y.Given), cmp.Compare(x.Peer, y.Peer))
	})
	return rows
}
