//go:build celld_omit_transports

package node

import (
	"github.com/libp2p/go-libp2p/config"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/fx"

	"github.com/celldnet/celld/internal/rawtcp"
)

// open makes the host, as the other one does. The root of go-libp2p has the transports that celld does not
// use in its defaults (WebRTC, WebTransport, WebSocket), whatever options it is given, and links them: a ninth
// of the program.
func (s *hostSetup) open() (host.Host, error) {
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	cfg := config.Config{
		PeerKey: s.key, UserAgent: s.agent, ConnectionGater: s.dials, ConnManager: s.manager, ResourceManager: s.limiter,
		Peerstore: peers, PSK: s.psk, DisableMetrics: true, Relay: true, RelayCustom: true,
		Transports: []fx.Option{transportOf(rawtcp.New)},
		SwarmOpts:  []swarm.Option{swarm.WithDialRanker(s.dials.rank)},
		Muxers:     []tptu.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}},
		SecurityTransports: []config.Security{
			{ID: tls.ID, Constructor: tls.New}, {ID: noise.ID, Constructor: noise.New},
		},
		UDPBlackHoleSuccessCounter:  &swarm.BlackHoleSuccessCounter{N: 100, MinSuccesses: 5, Name: "UDP"}, // as libp2p has them
		IPv6BlackHoleSuccessCounter: &swarm.BlackHoleSuccessCounter{N: 100, MinSuccesses: 5, Name: "IPv6"},
	}
	if s.psk == nil { // QUIC has no place for it
		cfg.Transports = append(cfg.Transports, transportOf(quic.NewTransport))
	}
	for _, text := range s.listen {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			return nil, err
		}
		cfg.ListenAddrs = append(cfg.ListenAddrs, addr)
	}
	if s.behindNAT {
		cfg.EnableService, cfg.EnableAutoNATv2, cfg.EnableHolePunching, cfg.EnableAutoRelay, cfg.EnableRelayService = true, true, true, true, true
		cfg.AutoRelayOpts = []autorelay.Option{
			autorelay.WithPeerSource(s.relays), autorelay.WithMinCandidates(relayChoice), autorelay.WithBootDelay(relayPatience),
		}
		if s.portMap {
			cfg.NATManager = natManager
		}
	}
	return cfg.NewNode()
}

// transportOf has a transport made by its constructor.
func transportOf(constructor any) fx.Option {
	return fx.Provide(fx.Annotate(constructor, fx.As(new(transport.Transport)), fx.ResultTags(`group:"transport"`)))
}

// serviceLimits leaves libp2p's own protocols what every protocol has.
func serviceLimits(*rcmgr.ScalingLimitConfig) {}
