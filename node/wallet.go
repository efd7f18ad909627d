package node

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// What people are told of the ledger.

// energyNames are the ways of estimating energy, as people are told.
var energyNames = map[uint8]string{ledger.EstRAPL: "RAPL", ledger.EstGPU: "GPU", ledger.EstTDP: "TDP", ledger.EstTable: "table"}

func (n *nucleus) ctlWallet(context.Context, *http.Request, *ctl.Writer) (any, error) {
	return n.accounts.wallet()
}

// wallet describes the ledger.
func (a *accounts) wallet() (ctl.Wallet, error) {
	account, err := peer.IDFromPrivateKey(a.n.identity.Account)
	if err != nil {
		return ctl.Wallet{}, cellproto.Errorf("read account key", cellproto.Corrupt, "%w", err)
	}
	w := ctl.Wallet{
		Account: account.String(), Host: a.n.identity.Peer.String(), Priority: "newcomer", Registers: []ctl.WalletRow{},
		Energy: energyNames[a.energy.source()],
	}
	if err := a.trouble(); err != nil {
		w.Error = err.Error()
	}
	if a.led == nil {
		return w, nil
	}
	w.Neighbours, w.Networks = a.groups()
	w.Registers = a.rows()
	a.led.View(func(b *ledger.Book) { w.GivenUWH, w.TakenUWH = b.Balance(a.self) })
	if w.GivenUWH > w.TakenUWH {
		w.Priority = "earned"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Dropped = map[string]uint64{}
	for v, n := range a.verdicts {
		w.Dropped[v.String()] = n
	}
	return w, nil
}

// rows gives the registers of this host, the largest first.
func (a *accounts) rows() []ctl.WalletRow {
	type reg struct {
		k ledger.RegKey
		r ledger.Register
	}
	var all []reg
	a.led.View(func(b *ledger.Book) {
		b.Registers(func(k ledger.RegKey, r ledger.Register) bool {
			if k.Provider == a.self || k.Consumer == a.self {
				all = append(all, reg{k, r})
			}
			return true
		})
	})
	rows := []ctl.WalletRow{}
	for _, x := range all {
		row := ctl.WalletRow{Gave: x.k.Provider == a.self, UWH: x.r.Credit(), Unsigned: x.r.Claimed() - x.r.Credit()}
		other := x.k.Provider
		if row.Gave {
			other = x.k.Consumer
		}
		p, err := peerOf(other)
		if err != nil {
			continue // no receipt is signed by such a key
		}
		row.Peer = p.String()
		s := x.r.Ack
		if s == nil {
			s = x.r.Claim
		} else {
			row.Signed = int64(s.T)
		}
		m := s.Meter
		row.Calls, row.CPUNS, row.WallNS, row.RAM, row.In, row.Out, row.Energy = s.N, m.CPU, m.Wall, m.RAM, m.In, m.Out, m.Energy
		a.explain(&row, other)
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(x, y ctl.WalletRow) int {
		return cmp.Or(-cmp.Compare(x.UWH+x.Unsigned, y.UWH+y.Unsigned), cmp.Compare(x.Peer, y.Peer))
	})
	return rows
}

// explain adds how the other side is served, or why bills are not signed.
func (a *accounts) explain(row *ctl.WalletRow, other ledger.Key) {
	if row.Gave {
		class, _ := a.rank(row.Peer)
		row.Class = class.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	if d := a.debtors[row.Peer]; row.Gave && d != nil {
		err = d.refused
	} else if l := a.lenders[other]; !row.Gave && l != nil {
		err = l.refused
	}
	if err != nil {
		row.Refused = err.Error()
	}
}

// rank gives the queue that a caller waits in when this host is busy, and its weight there.
func (a *accounts) rank(who string) (ledger.Class, uint64) {
	a.mu.Lock()
	d := a.owes(who)
	if d == nil {
		a.mu.Unlock()
		return ledger.ClassStranger, 1
	}
	refused, key := d.refused != nil, d.key
	used := a.unclaimed(who, d)
	a.mu.Unlock()
	if refused {
		return ledger.ClassStranger, 1 // whatever is owed to it, until it signs
	}
	return a.led.Standing(key, used).Rank()
}

// rank says as what a caller waits while this host is busy.
func (n *nucleus) rank(who call.Who) call.Rank {
	r := call.Rank{Class: ledger.ClassStranger, Weight: 1, Group: "local"}
	if who.Peer == "" {
		return r // another user of this machine
	}
	r.Key, _ = gossip.KeyOf(who.Peer) // zero: all of those share their turns
	for _, c := range n.host.Network().ConnsToPeer(who.Peer) {
		r.Group = addrGroup(c.RemoteMultiaddr())
	}
	if n.accounts != nil && n.accounts.led != nil {
		r.Class, r.Weight = n.accounts.rank(who.Peer.String())
	}
	return r
}

// unclaimed gives what the meter has counted for a caller and no bill has yet. a.mu is held.
func (a *accounts) unclaimed(who string, d *debtor) uint64 {
	u := a.n.server.Meter().Divided(who)
	total, _, err := a.total(d, u, a.at)
	if err != nil {
		return 0
	}
	return total.Credit - min(a.register(total.RegKey()).Claimed(), total.Credit)
}

// trouble says what is wrong with the ledger's disk.
func (a *accounts) trouble() error {
	a.mu.Lock()
	err := a.fault
	a.mu.Unlock()
	if err == nil && a.led != nil {
		err = a.led.Err()
	}
	return err
}

func (n *nucleus) ctlWalletExport(_ context.Context, _ *http.Request, w *ctl.Writer) (any, error) {
	if n.accounts.led == nil {
		return nil, n.accounts.trouble()
	}
	var all bytes.Buffer
	var err error
	n.accounts.led.View(func(b *ledger.Book) { err = b.Export(&all) })
	for err == nil && all.Len() > 0 {
		err = w.Item(ctl.Exported{Bytes: all.Next(ctl.MaxLine / 2)}) // base64 adds a third
	}
	return nil, err
}

// checkLedger says whether the ledger is well.
func (n *nucleus) checkLedger() ctl.Check {
	const name = "ledger"
	a := n.accounts
	if err := a.trouble(); err != nil {
		return wrong(name, "df -h "+quote(n.cfg.Dir)+"; then cellctl restart "+quote(n.cfg.Dir), "%v; calls are served, and counted in memory if it could be read", err)
	}
	peers, groups := a.groups()
	if bad := a.report.Damaged; len(bad) > 0 {
		return good(name, "a part was damaged and is put aside (%s); what it had comes back from those who signed it", bad)
	}
	if cut := a.report.Truncated; cut > 0 {
		return good(name, "%d bytes at its end were not whole, as after a crash; what they had comes back from those who signed it", cut)
	}
	return good(name, "%d neighbours in %d networks; %d of %d wanted", peers, groups, min(peers, minNeighbours), minNeighbours)
}
