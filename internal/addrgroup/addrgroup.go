// Package addrgroup names the networks that addresses are in: who has one address there is likely to have more
// of them, or gets them for little. Identities cost nothing, so that limits for each peer are worth little
// without limits for each group. What counts as a group's is the business of who limits.
package addrgroup

import (
	"net/netip"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Prefixes within which all addresses are one group, in bits. /24 and /48 are what one person rents or is given:
// a /48 is the most that one site is usually assigned (RFC 6177), and a /64 would give its holder 65,536 groups.
// /16 and /32 are about one provider's customers in one region.
const (
	near4, near6 = 24, 48
	wide4, wide6 = 16, 32
)

// Relayed is the group of all who are reached through relays, whichever: a relay is anybody's who asks it, so that who is
// behind one could be in as many networks as there are relays.
const Relayed = "relayed"

// IsRelayed says that an address leads through a relay.
func IsRelayed(a ma.Multiaddr) bool {
	if a == nil {
		return false
	}
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// IP gives the IP address of a: of one through a relay the relay's. False: it has none.
func IP(a ma.Multiaddr) (netip.Addr, bool) {
	if a == nil {
		return netip.Addr{}, false
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// Of names the /24 of IPv4, or the /48 of IPv6, that an address is in; Relayed if it leads through a relay, "" if it has
// no IP address.
func Of(a ma.Multiaddr) string { return group(a, near4, near6) }

// Wide names the /16, or the /32 of IPv6.
func Wide(a ma.Multiaddr) string { return group(a, wide4, wide6) }

func group(a ma.Multiaddr, bits4, bits6 int) string {
	if IsRelayed(a) {
		return Relayed
	}
	ip, ok := IP(a)
	if !ok {
		return ""
	}
	bits := bits6
	if ip.Is4() {
		bits = bits4
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}
