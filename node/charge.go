package node

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

// handle serves a protocol of ours to peers.
func (n *nucleus) handle(id protocol.ID, serve func(network.Stream) error) {
	n.host.SetStreamHandler(id, call.HandleStream(n.log, func(s network.Stream) error {
		err := serve(s)
		n.charge(s.Conn().RemotePeer(), err)
		return err
	}))
}

// charge is where whatever a peer's stream ended with arrives, of every protocol: call and advert by
// handle, fetch and bitswap by content.Deps. It notes who broke the protocol, by input that is
// malformed or larger than allowed, and cuts off who does so again and again. What did not arrive, or
// not in time, is no breach: the line may have been lost.
func (n *nucleus) charge(p peer.ID, err error) {
	if kind := cellproto.KindOf(err); kind != cellproto.TooLarge && kind != cellproto.BadInput {
		return
	}
	if n.gater.offend(p, time.Now()) {
		n.log.Warn("a peer broke the protocol again and again, and is cut off for a while", zap.Stringer("peer", p), zap.Error(err))
		_ = n.host.Network().ClosePeer(p) // it may have left
	}
}
