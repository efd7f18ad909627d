package node

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// gater keeps a nucleus on the public network from being used to reach the machines of the LAN that
// it stands in: private addresses are dialed only for peers that mDNS or the owner named, and in
// ranges in which the owner named somebody. On a private network the owner has named them all.
type gater struct {
	open bool // a private network

	mu      sync.RWMutex
	named   map[peer.ID]bool
	vouched map[peer.ID]netip.Addr // the one private address at which somebody connected says that a peer is
	ranges  []netip.Prefix
	blocked map[peer.ID]time.Time   // until when
	broken  map[peer.ID][]time.Time // when a peer broke the protocol, in the last minute
}

// newGater allows the peers and ranges of the addresses that the owner named.
func newGater(open bool, named []string) *gater {
	g := &gater{
		open: open, named: map[peer.ID]bool{}, vouched: map[peer.ID]netip.Addr{},
		blocked: map[peer.ID]time.Time{}, broken: map[peer.ID][]time.Time{},
	}
	for _, text := range named {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			continue // dht.Config.Validate has said so
		}
		if info, err := peer.AddrInfoFromP2pAddr(addr); err == nil {
			g.named[info.ID] = true
		}
		if ip, ok := addrIP(addr); ok && !isPublic(ip) {
			g.ranges = append(g.ranges, rangeOf(ip))
		}
	}
	return g
}

// maxNamed bounds the peers that mDNS may name.
const maxNamed = 1024

// allow lets a peer be dialed at private addresses: mDNS has seen it.
func (g *gater) allow(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.named) < maxNamed {
		g.named[p] = true
	}
}

// vouch lets a peer be dialed at a private address at which another one is connected, and at no other: who says
// so may be hostile, and gains nothing that way but connections to its own machine.
func (g *gater) vouch(p peer.ID, ip netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.vouched) >= maxNamed {
		clear(g.vouched) // those who are needed are vouched for again
	}
	g.vouched[p] = ip
}

// listed lets a peer be dialed that an advert of the owner's static list names: of a file of this machine wherever it is,
// of a URL at the private address that is named there and no other, since others may write what is fetched.
func (g *gater) listed(info peer.AddrInfo, file bool) {
	if file {
		g.allow(info.ID)
		return
	}
	for _, a := range info.Addrs {
		if ip, ok := addrIP(a); ok && !isPublic(ip) {
			g.vouch(info.ID, ip)
			return
		}
	}
}

// addrIP gives the IP address that dialing a begins with: of a relayed one, the relay's.
func addrIP(a ma.Multiaddr) (ip netip.Addr, ok bool) {
	ma.ForEach(a, func(c ma.Component) bool {
		switch c.Code() {
		case ma.P_IP4, ma.P_IP6:
			ip, ok = netip.AddrFromSlice(c.RawValue())
			return false
		case ma.P_IP6ZONE:
			return true // stands before the address
		}
		return false
	})
	return ip.Unmap(), ok
}

func isPublic(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// notPublic is what the IANA registries of special-purpose addresses (RFC 6890) name besides what
// net/netip knows: none of it belongs to one machine on the internet, and some of it leads into a LAN.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // behind a carrier's NAT
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),        // IPv4-compatible
	netip.MustParsePrefix("64:ff9b::/96"), // an IPv4 address through a NAT64, and so that of a LAN too
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"), // 6to4, likewise
	netip.MustParsePrefix("fec0::/10"), // site-local
}

// rangeOf is what naming one private address opens: its /16, or /48 of IPv6; of loopback, all.
func rangeOf(ip netip.Addr) netip.Prefix {
	bits := 16
	if ip.Is6() {
		bits = 48
	}
	if ip.IsLoopback() {
		bits = map[bool]int{true: 8, false: 128}[ip.Is4()]
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func isName(a ma.Multiaddr) bool {
	ps := a.Protocols()
	if len(ps) == 0 {
		return false
	}
	switch ps[0].Code {
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR, ma.P_P2P: // P_P2P: of a relay whose address is known
		return true
	}
	return false
}

// InterceptAddrDial refuses private addresses that nobody named. Relayed addresses name the relay's.
func (g *gater) InterceptAddrDial(p peer.ID, a ma.Multiaddr) bool {
	if g.open {
		return true
	}
	ip, ok := addrIP(a)
	if !ok { // a name: the resolved address is asked about again
		return isName(a)
	}
	if isPublic(ip) {
		return true
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if at, ok := g.vouched[p]; g.named[p] || ok && at == ip {
		return true
	}
	for _, r := range g.ranges {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}

// Whoever breaks the protocol three times in a minute is cut off for ten minutes.
const (
	offences      = 3
	offenceWindow = time.Minute
	blockTime     = 10 * time.Minute
	maxOffenders  = 1024 // remembered; past it all start anew
)

// offend counts that a peer broke the protocol, and reports whether it is to be cut off now.
func (g *gater) offend(p peer.ID, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.broken) >= maxOffenders {
		clear(g.broken)
	}
	recent := slices.DeleteFunc(append(g.broken[p], now), func(t time.Time) bool { return now.Sub(t) > offenceWindow })
	g.broken[p] = recent
	if len(recent) < offences {
		return false
	}
	delete(g.broken, p)
	if len(g.blocked) >= maxOffenders {
		maps.DeleteFunc(g.blocked, func(_ peer.ID, until time.Time) bool { return !now.Before(until) })
	}
	if len(g.blocked) >= maxOffenders {
		clear(g.blocked)
	}
	g.blocked[p] = now.Add(blockTime)
	return true
}

func (g *gater) isBlocked(p peer.ID) bool {
	g.mu.RLock()
	until, ok := g.blocked[p]
	g.mu.RUnlock()
	return ok && time.Now().Before(until)
}

// InterceptPeerDial refuses those who are cut off; else it is the address that matters.
func (g *gater) InterceptPeerDial(p peer.ID) bool { return !g.isBlocked(p) }

// InterceptAccept allows all: whoever reaches us has done so.
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured refuses those who are cut off, once it is known who they are.
func (g *gater) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !g.isBlocked(p)
}

// InterceptUpgraded allows all.
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
