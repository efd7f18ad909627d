package node

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// What people are told of the ledger.

// energyNames are the ways of estimating energy, as people are told.
var energyNames = map[uint8]string{ledger.EstRAPL: "RAPL", ledger.EstGPU: "GPU", ledger.EstTDP: "TDP", ledger.EstTable: "table"}

func (n *nucleus) ctlWallet(ctx context.Context, _ *http.Request, _ *ctl.Writer) (any, error) {
	if n.accounts.led != nil {
		n.accounts.own.gather(ctx)
	}
	return n.accounts.wallet(), nil
}

// wallet describes the ledger.
func (a *accounts) wallet() ctl.Wallet {
	w := ctl.Wallet{
		Account: textOf(a.own.id), Hosts: []ctl.WalletHost{}, Donations: []ctl.DonationRow{}, Host: a.n.identity.Peer.String(), Priority: "newcomer", Registers: []ctl.WalletRow{},
		Energy: energyNames[a.energy.source()],
	}
	if err := a.trouble(); err != nil {
		w.Error = err.Error()
	}
	if a.led == nil {
		return w
	}
	w.Key, w.Elsewhere = w.Account, a.own.elsewhere()
	if s := a.own.state(a.own.id); s.Len > 0 {
		w.Key = textOf(s.Key)
	}
	w.Neighbours, w.Networks = a.groups()
	w.Registers = a.rows()
	w.Hosts, w.Delegation = a.own.hosts(), a.own.standing(time.Now())
	a.led.View(func(b *ledger.Book) {
		w.GivenUWH, w.TakenUWH = b.Balance(a.own.id)
		if b.Owner(a.self) != a.own.id { // not yet the account's, as others see it
			given, taken := b.Alone(a.self)
			w.GivenUWH, w.TakenUWH = w.GivenUWH+given, w.TakenUWH+taken
		}
		w.Donations = donations(b, func(c *ledger.SignedCheque) bool { return c.Donor == a.own.id || b.Owner(c.To) == a.own.id })
	})
	void := a.led.Voids()
	for i := range w.Donations {
		for _, v := range void {
			if row := &w.Donations[i]; row.From == textOf(v.Donor) && row.To == textOf(v.To) {
				row.Void = v.UWH
			}
		}
	}
	if w.GivenUWH > w.TakenUWH {
		w.Priority = "earned"
	}
	w.Dropped, w.PublicGood = a.travel.Counts(), a.goods.Load().says
	return w
}

// donations gives the cheques that are wanted, the largest first.
func donations(b *ledger.Book, wanted func(*ledger.SignedCheque) bool) []ctl.DonationRow {
	rows := []ctl.DonationRow{}
	b.Cheques(func(c *ledger.SignedCheque) bool {
		if wanted(c) {
			rows = append(rows, ctl.DonationRow{
				From: textOf(c.Donor), To: textOf(c.To), UWH: c.Credit, Times: c.N, Purpose: c.Purpose, At: int64(min(c.T, 1<<62)),
			})
		}
		return true
	})
	slices.SortFunc(rows, func(x, y ctl.DonationRow) int {
		return cmp.Or(-cmp.Compare(x.UWH, y.UWH), strings.Compare(x.From, y.From), strings.Compare(x.To, y.To))
	})
	return rows
}

// standing says in a few words whether this host is the account's.
func (o *account) standing(now time.Time) string {
	d, ok := o.state(o.id).Hosts[o.a.self]
	o.mu.Lock()
	why := o.trouble
	o.mu.Unlock()
	switch {
	case o.banned():
		return "banned: its key log has two histories, and there is a proof of it; nobody takes anything of this account's any more"
	case !o.delegates():
		return "credited to the account by each receipt"
	case d.Revoked:
		return "revoked: others take nothing from this host any more"
	case ok && uint64(now.UnixMilli()) <= d.NotAfter:
		return "the account's until " + time.UnixMilli(int64(min(d.NotAfter, 1<<62))).UTC().Format(time.DateOnly)
	case why != nil:
		return "not yet the account's: " + why.Error()
	case o.elsewhere():
		return "not yet the account's: cellctl wallet delegate " + o.a.n.identity.Peer.String() + ", on the computer with its key"
	case o.atHome():
		return "not needed yet: it is the account's only host"
	}
	return "not yet the account's"
}

// banned says that the account, or this host alone, has signed two histories. It was a copy of the home cell that ran
// beside it, or an old one that was put back.
func (o *account) banned() (b bool) {
	o.a.led.View(func(l *ledger.Book) { b = l.Banned(o.id) || l.Banned(o.a.self) })
	return b
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
	rows = append(rows, a.unpaid(rows)...)
	slices.SortFunc(rows, func(x, y ctl.WalletRow) int {
		return cmp.Or(-cmp.Compare(x.UWH+x.Unsigned, y.UWH+y.Unsigned), cmp.Compare(x.Peer, y.Peer))
	})
	return rows
}

// unpaid gives those whose first bill already was not signed: there is no register with them.
func (a *accounts) unpaid(rows []ctl.WalletRow) (more []ctl.WalletRow) {
	took := map[string]bool{}
	for _, r := range rows {
		took[r.Peer] = took[r.Peer] || !r.Gave
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, l := range a.lenders {
		if p, err := peerOf(key); err == nil && l.refused != nil && !took[p.String()] {
			more = append(more, ctl.WalletRow{Peer: p.String(), Refused: l.refused.Error()})
		}
	}
	return more
}

// explain adds how the other side is served, or why bills are not signed.
func (a *accounts) explain(row *ctl.WalletRow, other ledger.Key) {
	if row.Gave {
		class, _ := a.rank(row.Peer, other)
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

// rank gives the queue that a caller waits in when this host is busy, and its weight there. Nothing is kept of who has
// used nothing: anybody can wait.
func (a *accounts) rank(who string, key ledger.Key) (ledger.Class, uint64) {
	a.mu.Lock()
	var used uint64
	refused := false
	if d := a.debtors[who]; d != nil {
		refused, used = d.refused != nil, a.unclaimed(who, d)
	}
	a.mu.Unlock()
	if refused {
		return ledger.ClassStranger, 1 // whatever is owed to it, until it signs
	}
	return a.led.Standing(time.Now(), key, used).Rank()
}

// rank says as what a caller waits while this host is busy.
func (n *nucleus) rank(who call.Who) call.Rank {
	r := call.Rank{Class: ledger.ClassStranger, Weight: 1, Group: "local"}
	if who.Peer == "" {
		return r // another user of this machine
	}
	for _, c := range n.host.Network().ConnsToPeer(who.Peer) {
		r.Group = addrGroup(c.RemoteMultiaddr())
	}
	key, err := gossip.KeyOf(who.Peer)
	if err != nil {
		return r // all of those share their turns
	}
	r.Key = key
	if a := n.accounts; a != nil && a.led != nil {
		r.Key = a.owner(key) // the hosts of an account share its turns, as they do what it is owed
		r.Class, r.Weight = a.rank(who.Peer.String(), key)
	}
	return r
}

// unclaimed gives what the meter has counted for a caller and no bill has yet. a.mu is held.
func (a *accounts) unclaimed(who string, d *debtor) uint64 {
	return a.unbilled(d, a.n.server.Meter().Divided(who))
}

// unbilled gives what of a use no bill has. In a register that is full, as a consumer can make it by signing for huge
// numbers, nothing can be billed: then it is more than can be owed to anybody.
func (a *accounts) unbilled(d *debtor, u call.Usage) uint64 {
	total, _, err := a.total(d, u, a.at)
	if err != nil {
		return math.MaxUint64
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

func (n *nucleus) ctlWalletExport(ctx context.Context, _ *http.Request, w *ctl.Writer) (any, error) {
	if n.accounts.led == nil {
		return nil, n.accounts.trouble()
	}
	n.accounts.own.gather(ctx)
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
	if a.own.lost.Load() {
		return wrong(name, "cellctl wallet recover", "entries of the account's key log are missing here: nothing is signed for the account until those who know it are connected, or ledger/ is restored")
	}
	if a.own.banned() {
		home := quote(a.n.mirrors.home)
		return wrong(name, "cellctl stop "+home+"; rm -r "+home+"/keys "+home+"/ledger; cellctl start "+home,
			"the account is banned: its key log has two histories, as when a copy of the home cell has signed beside it; calls go on, but nobody credits what is given here. A new account begins with nothing")
	}
	if d := a.own.state(a.own.id).Hosts[a.self]; d.Revoked {
		return wrong(name, "cellctl stop "+quote(n.cfg.Dir)+"; rm -r "+quote(n.cfg.Dir)+"/keys/host.key "+quote(n.cfg.Dir)+"/ledger; cellctl start "+quote(n.cfg.Dir),
			"this host was revoked: others take nothing from it any more")
	}
	if c, ok := a.checkFiles(name); ok {
		return c
	}
	peers, groups := a.groups()
	return good(name, "%d neighbours in %d networks; %d of %d wanted", peers, groups, min(peers, minNeighbours), minNeighbours)
}
