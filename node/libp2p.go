//go:build !celld_omit_transports

package node

import (
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"

	"github.com/celldnet/celld/internal/rawtcp"
)

// open makes the host.
func (s *hostSetup) open() (host.Host, error) {
	opts := []libp2p.Option{
		libp2p.Identity(s.key), libp2p.UserAgent(s.agent), libp2p.ListenAddrStrings(s.listen...),
		libp2p.ConnectionGater(s.dials), libp2p.ConnectionManager(s.manager), libp2p.ResourceManager(s.limiter),
		libp2p.Transport(rawtcp.New), libp2p.DisableMetrics(),
		libp2p.SwarmOpts(swarm.WithDialRanker(s.dials.rank)),
	}
	if s.psk != nil {
		opts = append(opts, libp2p.PrivateNetwork(s.psk)) // of TCP only: QUIC has no place for it
	} else {
		opts = append(opts, libp2p.Transport(quic.NewTransport))
	}
	if s.behindNAT {
		opts = append(opts, libp2p.EnableNATService(), libp2p.EnableAutoNATv2(), libp2p.EnableHolePunching(),
			libp2p.EnableAutoRelayWithPeerSource(s.relays, autorelay.WithMinCandidates(relayChoice), autorelay.WithBootDelay(relayPatience)),
			libp2p.EnableRelayService()) // begins when AutoNAT finds that strangers can reach this host
		if s.portMap && natManager != nil {
			opts = append(opts, libp2p.NATManager(natManager))
		}
	}
	if len(s.listen) == 0 {
		opts = append(opts, libp2p.NoListenAddrs, libp2p.EnableRelay())
	}
	return libp2p.New(opts...)
}

// serviceLimits adds those of libp2p's own protocols.
func serviceLimits(limits *rcmgr.ScalingLimitConfig) { libp2p.SetDefaultServiceLimits(limits) }
