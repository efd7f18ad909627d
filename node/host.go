package node

import (
	"context"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"time"

	coreconn "github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// Connections that a nucleus keeps. A cell is not a DHT server farm: at rest a few dozen are enough,
// and each costs some 30 KiB.
const (
	connsLow   = 64
	connsHigh  = 128
	connsGrace = 30 * time.Second
)

// A host behind a NAT takes relays when it knows of relayChoice candidates, or after relayPatience.
const (
	relayChoice   = 4
	relayPatience = 10 * time.Second
)

// hostSetup is what a host is made of; see setup.open, of which there is one for each way of building.
type hostSetup struct {
	key       crypto.PrivKey
	agent     string
	listen    []string // none: the host cannot be reached
	dials     *dials
	manager   coreconn.ConnManager
	limiter   network.ResourceManager
	psk       []byte // nil: the network is not private
	behindNAT bool   // perhaps: it finds a way through, and is a relay for others if there is none before it
	portMap   bool   // by asking the router to let others in, too
	relays    autorelay.PeerSource
}

// newHost makes the cell's libp2p host. Unless it listens on loopback only, it also finds a way
// through the NAT, and is a relay for others if there is none before it.
func newHost(cfg *celltoml.Config, profile Profile, key crypto.PrivKey, d *dials, agent string) (host.Host, error) {
	const op = "start the libp2p host"
	low, high := profile.conns()
	manager, err := connmgr.NewConnManager(low, high, connmgr.WithGracePeriod(connsGrace))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	limiter, err := resources()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	setup := hostSetup{
		key: key, agent: agent, listen: cfg.Network.Listen, dials: d, manager: manager, limiter: limiter,
		behindNAT: !loopbackOnly(cfg.Network.Listen), portMap: profile != Router, // a router is what ports are mapped on
	}
	if cfg.Network.PSK != "" {
		if setup.psk, err = readPSK(cfg.Path(cfg.Network.PSK)); err != nil {
			return nil, err
		}
	}
	made := make(chan host.Host, 1)
	setup.relays = func(ctx context.Context, n int) <-chan peer.AddrInfo { return relays(ctx, made, n) }
	h, err := setup.open()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Unavailable, "%w", err).
			WithHint("Look at [network] listen in cell.toml: is the port taken?")
	}
	made <- h
	return h, nil
}

// relays gives the connected peers that relay for others, as candidates for AutoRelay. made holds
// the host once it has been made; AutoRelay begins before that.
func relays(ctx context.Context, made chan host.Host, n int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	go func() { // ends with ctx, which AutoRelay owns
		defer close(out)
		var h host.Host
		select {
		case h = <-made:
			made <- h
		case <-ctx.Done():
			return
		}
		for _, p := range h.Network().Peers() {
			if n == 0 {
				return
			}
			if ok, err := h.Peerstore().SupportsProtocols(p, proto.ProtoIDv2Hop); err != nil || len(ok) == 0 {
				continue
			}
			select {
			case out <- peer.AddrInfo{ID: p, Addrs: h.Peerstore().Addrs(p)}:
				n--
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// What a peer may have a nucleus hold, in bytes, by one protocol: the buffers of all its streams together, and those of
// one, which are more than the 16 MiB of small replies that its 64 calls can end with.
const (
	peerMemory   = 64 << 20
	streamMemory = 32 << 20
)

// resources bounds what strangers can make the host hold; see cellproto's limits.
func resources() (network.ResourceManager, error) {
	limits := rcmgr.DefaultLimits
	serviceLimits(&limits)
	limits.StreamBaseLimit.Memory = streamMemory
	for _, id := range []string{cellproto.ProtocolCall, cellproto.ProtocolAdvert, cellproto.ProtocolFetch, cellproto.ProtocolHost, cellproto.ProtocolLedger, cellproto.ProtocolCallers} {
		all := rcmgr.BaseLimit{
			Streams: cellproto.MaxStreams, StreamsInbound: cellproto.MaxStreams, StreamsOutbound: cellproto.MaxStreams,
			Memory: 256 << 20,
		}
		each := rcmgr.BaseLimit{
			Streams: 2 * cellproto.MaxStreamsPeer, StreamsInbound: cellproto.MaxStreamsPeer, StreamsOutbound: cellproto.MaxStreamsPeer,
			Memory: peerMemory,
		}
		limits.AddProtocolLimit(protocol.ID(id), all, rcmgr.BaseLimitIncrease{})
		limits.AddProtocolPeerLimit(protocol.ID(id), each, rcmgr.BaseLimitIncrease{})
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()))
}

// rankDials prefers TCP in private ranges, where its throughput is a multiple of QUIC's and there is
// no NAT between; elsewhere libp2p's own order holds.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	var lan, rest []ma.Multiaddr
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err != nil && (manet.IsPrivateAddr(a) || manet.IsIPLoopback(a)) {
			lan = append(lan, a)
		} else {
			rest = append(rest, a)
		}
	}
	ranked := swarm.DefaultDialRanker(rest)
	for _, a := range lan {
		d := network.AddrDelay{Addr: a}
		if _, err := a.ValueForProtocol(ma.P_TCP); err != nil {
			d.Delay = lanQUICDelay
		}
		ranked = append(ranked, d)
	}
	return ranked
}

const lanQUICDelay = 30 * time.Millisecond // as libp2p gives TCP behind QUIC on a LAN

func loopbackOnly(listen []string) bool {
	for _, text := range listen {
		a, err := ma.NewMultiaddr(text)
		if err != nil || !manet.IsIPLoopback(a) {
			return false
		}
	}
	return true
}

// readPSK reads the pre-shared key of a private network: 64 hex digits.
func readPSK(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).
			WithHint("Make one for all members of the network: head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > %s", path)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
	}
	psk, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(psk) != 32 {
		return nil, cellproto.Errorf("read "+path, cellproto.BadInput, "a pre-shared key is 64 hex digits")
	}
	return psk, nil
}
