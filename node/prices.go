package node

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// shunTime is for how long calls go elsewhere, if they can, after a bill that was too dear.
const shunTime = 10 * time.Minute

// compareOver is over how much of a provider's bills together they are compared, in µWh: small ones say little.
const compareOver = 10_000

// compare holds a bill, with those before it, against what others took, and gives what they are for. a.mu is held.
func (a *accounts) compare(p peer.ID, l *lender, r *ledger.Receipt) ([]gossip.Use, error) {
	var used []gossip.Use
	for _, c := range a.n.caller.Asked(p) {
		used = append(used, gossip.Use{Fn: c.Cell + " " + c.Func, Calls: c.Calls, Wall: c.Wall})
	}
	asks := l.asks(r)
	if usual, dear := a.market.Dear(r.Provider, since(used, l.asked), asks); dear {
		a.n.caller.Shun(p, time.Now().Add(shunTime))
		return nil, cellproto.Errorf("check bill", cellproto.Denied, "it is too dear: %d µWh for what cost about %d at three others", asks, usual)
	}
	return used, nil
}

// pay notes what was paid for what. a.mu is held.
func (a *accounts) pay(l *lender, used []gossip.Use, r *ledger.Receipt) {
	paid := l.asks(r)
	l.sign(r)
	a.market.Paid(r.Provider, since(used, l.asked), paid)
	if paid >= compareOver {
		l.asked, l.paid = used, l.total
	}
}

// since gives what was asked after before.
func since(now, before []gossip.Use) (out []gossip.Use) {
	old := map[string]gossip.Use{}
	for _, u := range before {
		old[u.Fn] = u
	}
	for _, u := range now {
		if o := old[u.Fn]; o.Calls <= u.Calls && o.Wall <= u.Wall { // else counting began anew
			u.Calls, u.Wall = u.Calls-o.Calls, u.Wall-o.Wall
		}
		if u.Calls > 0 {
			out = append(out, u)
		}
	}
	return out
}
