//go:build !celld_omit_mdns

package dht

import (
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

// newMDNS makes the service that tells l of peers on the LAN.
func newMDNS(h host.Host, service string, l *lanPeers) mdns.Service {
	return mdns.NewMdnsService(h, service, l)
}
