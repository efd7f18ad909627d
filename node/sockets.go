package node

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// listen opens the two Unix sockets. When the nucleus stops, nobody new is let in by either before
// those who are in are waited for.
func (n *nucleus) listen(ctx context.Context, started *closers) error {
	cell, err := n.openSocket(ctl.CellSocket, started)
	if err != nil {
		return err
	}
	control, err := n.openSocket(ctl.ControlSocket, started)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: n.routes(), ReadHeaderTimeout: cellproto.FrameTimeout,
		ConnContext: withPeer, ErrorLog: zap.NewStdLog(n.log.Named("control")),
	}
	var serving sync.WaitGroup
	serving.Go(func() { n.accept(context.WithoutCancel(ctx), cell) })
	serving.Go(func() { _ = srv.Serve(control) }) // ends with Shutdown or Close
	started.add(func() {
		cell.Close()
		ctx, cancel := n.grace(0)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		serving.Wait()
	})
	return nil
}

// openSocket opens one of the cell's Unix sockets. A left-over of a killed nucleus is removed: the
// lock says that nobody listens on it.
func (n *nucleus) openSocket(which ctl.Socket, started *closers) (*net.UnixListener, error) {
	if err := ctl.Remove(n.cfg.Dir, which); err != nil {
		return nil, cellproto.Errorf("open "+string(which), cellproto.KindOf(err), "%w", err)
	}
	l, err := ctl.Listen(n.cfg.Dir, which)
	if err != nil {
		return nil, cellproto.Errorf("open "+string(which), cellproto.KindOf(err), "%w", err)
	}
	started.add(func() {
		l.Close()
		_ = ctl.Remove(n.cfg.Dir, which) // the next start does so too
	})
	return l, nil
}

// accept serves the callers on the cell's socket until it is closed. The server half owns and waits
// for the connections that are relayed, the program for those that are handed to it.
func (n *nucleus) accept(ctx context.Context, l *net.UnixListener) {
	looking, cancel := context.WithCancel(ctx)
	var callers sync.WaitGroup
	defer func() { cancel(); callers.Wait() }()
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, most likely: others end meanwhile
			n.log.Warn("cannot accept a caller", zap.Error(err))
			time.Sleep(acceptPause)
			continue
		}
		who, ok := whoIs(conn)
		if !ok {
			conn.Close()
			continue
		}
		callers.Go(func() {
			if n.grant(looking, conn, who) {
				return
			}
			go func() {
				if err := n.server.Serve(ctx, conn, who); err != nil {
					n.log.Debug("caller left", zap.Int("uid", who.UID), zap.Error(err))
				}
			}()
		})
	}
}

const acceptPause = 50 * time.Millisecond

// whoIs asks the system who is at the other end. Where it does not say, nobody is let in: the
// sockets' mode would do, but a mode can be changed.
func whoIs(conn *net.UnixConn) (call.Who, bool) {
	uid, _, ok := ctl.PeerUID(conn)
	return call.Who{UID: uid, Owner: uid == os.Getuid() || uid == 0}, ok
}
