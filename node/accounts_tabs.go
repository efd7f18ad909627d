package node

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// What this host remembers of its calls to others, from one life of the nucleus to the next: ledger.Tab.

// When what was seen of a provider is written down again: it goes on a router's flash. Within keepEvery less is used than
// the bound on processor time forgives; bytes have no such bound.
const (
	keepEvery = 10 * time.Second
	keepBytes = 4 << 20
)

// recallTabs goes on from what earlier lives have seen.
func (a *accounts) recallTabs() {
	for _, t := range a.led.Tabs() {
		seen := gossip.Seen{Wall: t.WallNS, Sent: t.Sent, Got: t.Got}
		a.lenders[t.Provider] = &lender{earlier: seen, kept: seen, before: t.Before}
	}
	for provider, l := range a.lenders {
		acked := a.acked(provider)
		l.acked, l.began = byRegister(acked), true
		l.paidBefore = gossip.Less(sum(acked), l.before)
	}
}

// acked gives what this host has signed for to a provider.
func (a *accounts) acked(provider ledger.Key) (list []*ledger.Signed) {
	a.led.View(func(b *ledger.Book) { list = b.SignedTo(provider) })
	return list
}

func byRegister(acked []*ledger.Signed) map[ledger.RegKey]*ledger.Signed {
	out := make(map[ledger.RegKey]*ledger.Signed, len(acked))
	for _, s := range acked {
		out[s.RegKey()] = s
	}
	return out
}

func sum(acked []*ledger.Signed) (m ledger.Meter) {
	for _, s := range acked {
		m = gossip.Plus(m, s.Meter)
	}
	return m
}

// keepTabs writes down what was seen of providers in this life, where that is due, or with all where it has changed.
func (a *accounts) keepTabs(now time.Time, spent map[string]call.Usage, all bool) {
	a.signing.Lock() // what is signed and not noted yet would look like a receipt that has come back
	defer a.signing.Unlock()
	if err := a.led.KeepTabs(now, a.dueTabs(now, spent, all)); err != nil {
		a.log.Debug("what was seen of providers is not written down", zap.Error(err)) // the disk's trouble is said by note
	}
}

// dueTabs gives what is to be written down, and notes that it is. a.signing is held.
func (a *accounts) dueTabs(now time.Time, spent map[string]call.Usage, all bool) (tabs []ledger.Tab) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for who, u := range spent {
		p, err := peer.Decode(who)
		if err != nil {
			continue
		}
		key, err := gossip.KeyOf(p)
		if err != nil || key == a.self {
			continue // no bill can come from it
		}
		l := a.lender(key)
		seen := l.seen(seenOf(u))
		due := l.due(now, seen, all)
		switch {
		case l.began:
			due = l.regain(a.acked(key)) || due
		case due:
			l.begin(a.acked(key))
		}
		if due {
			l.kept, l.keptAt = seen, now
			tabs = append(tabs, ledger.Tab{Provider: key, WallNS: seen.Wall, Sent: seen.Sent, Got: seen.Got, Before: l.before})
		}
	}
	return tabs
}

// spent gives what this host has asked of others in this life.
func (a *accounts) spent(now time.Time) (all map[string]call.Usage, busy bool) {
	meter := a.n.caller.Meter()
	busy = meter.Tick(now, call.Spent{}) > 0
	all = map[string]call.Usage{}
	meter.Each(func(who string, u call.Usage) { all[who] = u })
	return all, busy
}

func seenOf(u call.Usage) gossip.Seen { return gossip.Seen{Wall: u.Wall, Sent: u.Out, Got: u.In} }
