package dht

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/celldnet/celld/internal/addrgroup"
)

// maxPerGroup is how many peers of one address group take part in one lookup. 25 identities in one
// /24, 0.3 s of grinding, are the 20 closest to any key; three of them are a minority there.
const maxPerGroup = 3

// maxClaims is how many addresses of one peer are looked at when its groups are determined.
const maxClaims = 32

// dnsGroup is the group of all addresses whose IP is behind a name: names cost nothing.
const dnsGroup = "dns"

// groupOf gives the address group of a: that of addrgroup.Of where it is public, one for all DNS names, and "" for
// what is not limited (loopback, private, link-local). The address of a relay counts for those behind it: peers claim those
// besides their own, and all that do as one group would shut each other out of lookups.
func groupOf(a ma.Multiaddr) string {
	if a == nil || !manet.IsPublicAddr(a) {
		return ""
	}
	at, _ := ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_CIRCUIT })
	if g := addrgroup.Of(at); g != "" {
		return g
	}
	return dnsGroup
}

// grouper gives the address group of an address, "" when it is not limited. It is groupOf but in
// tests, which give loopback addresses the part of public ones.
type grouper func(ma.Multiaddr) string

// lookup is what is remembered during one lookup in order to keep one owner of addresses from
// filling it: at most maxPerGroup peers of an address group are heard of, and at most as many are
// asked.
//
// Hearing goes by the addresses that a responder claims for a peer, asking by the address of the
// connection. Claims alone can be turned around: a responder could invent peers at honest peers'
// addresses, so that the honest ones find their group full. Therefore all responders of one group
// together introduce at most perResponder peers to a group. Addresses of connections cannot be
// invented, but come too late alone: peers that were only heard of already count among the closest.
type lookup struct {
	group        grouper
	own          map[string]bool // groups that are never limited: where this peer itself is, on a private network
	perResponder int

	stored atomic.Int64  // records that a peer acknowledged
	asked  *atomic.Int64 // peers that answered; may be shared by several lookups

	mu    sync.Mutex
	heard map[string]map[peer.ID]string // group -> peer -> who introduced it
	spoke map[string]map[peer.ID]bool   // group -> peers asked
	known map[peer.ID]bool              // peers that were let in
}

// newLookup makes the memory of one lookup.
func newLookup(group grouper, own map[string]bool, perResponder int) *lookup {
	return &lookup{
		group: group, own: own, perResponder: perResponder,
		asked: new(atomic.Int64),
		heard: make(map[string]map[peer.ID]string),
		spoke: make(map[string]map[peer.ID]bool),
		known: make(map[peer.ID]bool),
	}
}

// groups gives the limited groups among addrs, without repetition.
func (l *lookup) groups(addrs []ma.Multiaddr) []string {
	var groups []string
	for i, a := range addrs {
		if i == maxClaims {
			break
		}
		g := l.group(a)
		if g == "" || l.own[g] {
			continue
		}
		found := false
		for _, have := range groups {
			found = found || have == g
		}
		if !found {
			groups = append(groups, g)
		}
	}
	return groups
}

// seed lets p in, whatever its addresses: it is in this peer's own routing table, which has a
// diversity filter of its own.
func (l *lookup) seed(p peer.ID, addrs []ma.Multiaddr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.let(p, l.groups(addrs), "")
}

// hear reports whether p, of which the peer from with the remote address fromAddr says that it has
// the addresses addrs, may take part in the lookup.
func (l *lookup) hear(p peer.ID, addrs []ma.Multiaddr, from peer.ID, fromAddr ma.Multiaddr) bool {
	by := l.group(fromAddr)
	if by == "" {
		by = string(from) // not limited by address: each speaks for itself
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[p] {
		return true
	}
	groups := l.groups(addrs)
	for _, g := range groups {
		if len(l.heard[g]) >= maxPerGroup {
			return false
		}
		introduced := 0
		for _, who := range l.heard[g] {
			if who == by {
				introduced++
			}
		}
		if introduced >= l.perResponder {
			return false
		}
	}
	l.let(p, groups, by)
	return true
}

// let notes p under its groups; the caller holds the lock.
func (l *lookup) let(p peer.ID, groups []string, by string) {
	l.known[p] = true
	for _, g := range groups {
		if l.heard[g] == nil {
			l.heard[g] = make(map[peer.ID]string)
		}
		l.heard[g][p] = by
	}
}

// ask reports whether p, reached at remote, may be asked or told something.
func (l *lookup) ask(p peer.ID, remote ma.Multiaddr) bool {
	g := l.group(remote)
	if g == "" || l.own[g] {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spoke[g] == nil {
		l.spoke[g] = make(map[peer.ID]bool)
	}
	if !l.spoke[g][p] && len(l.spoke[g]) >= maxPerGroup {
		return false
	}
	l.spoke[g][p] = true
	return true
}

type lookupKey struct{}

// withLookup attaches l to everything that is done under the returned context; kad-dht hands the
// context of a lookup down to its messages.
func withLookup(ctx context.Context, l *lookup) context.Context {
	return context.WithValue(ctx, lookupKey{}, l)
}

// lookupOf gives the lookup that ctx belongs to, or nil.
func lookupOf(ctx context.Context) *lookup {
	l, _ := ctx.Value(lookupKey{}).(*lookup)
	return l
}
