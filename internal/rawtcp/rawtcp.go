// Package rawtcp is libp2p's transport over TCP with sockets that are read and written by raw system calls, of which the
// runtime is not told; see cellproto.ReaderOf for why that matters where one call follows another.
package rawtcp

import (
	"context"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/celldnet/celld/cellproto"
)

// New is tcp.NewTCPTransport, as a constructor for libp2p.Transport.
func New(u transport.Upgrader, limits network.ResourceManager, shared *tcpreuse.ConnMgr) (*tcp.TcpTransport, error) {
	return tcp.NewTCPTransport(upgrader{u}, limits, shared)
}

// upgrader sees each connection before anything is sent on it.
type upgrader struct{ transport.Upgrader }

func (u upgrader) Upgrade(ctx context.Context, t transport.Transport, c manet.Conn, dir network.Direction, p peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	return u.Upgrader.Upgrade(ctx, t, raw(c), dir, p, scope)
}

func (u upgrader) UpgradeGatedMaListener(t transport.Transport, l transport.GatedMaListener) transport.Listener {
	return u.Upgrader.UpgradeGatedMaListener(t, listener{l})
}

type listener struct{ transport.GatedMaListener }

func (l listener) Accept() (manet.Conn, network.ConnManagementScope, error) {
	c, scope, err := l.GatedMaListener.Accept()
	if err != nil {
		return nil, nil, err
	}
	return raw(c), scope, nil
}

// conn is read by one goroutine at a time, and written by one: what secures it sees to that.
type conn struct {
	manet.Conn
	in  io.Reader
	out io.Writer
}

func raw(c manet.Conn) manet.Conn {
	return &conn{Conn: c, in: cellproto.ReaderOf(c), out: cellproto.WriterOf(c)}
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.Write(b) }
