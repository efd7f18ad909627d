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

// listen opens the two Unix sockets, or goes on with those that another celld has handed over. When the
// nucleus stops, nobody new is let in by either before those who are in are waited for.
func (n *nucleus) listen(ctx context.Context, started *closers) error {
	var err error
	if n.cell, err = n.openSocket(ctl.CellSocket, started); err != nil {
		return err
	}
	if n.control, err = n.openSocket(ctl.ControlSocket, started); err != nil {
		return err
	}
	srv := &http.Server{
		Handler: n.routes(), ReadHeaderTimeout: cellproto.FrameTimeout,
		ConnContext: withPeer, ConnState: n.upgrades.watch, ErrorLog: zap.NewStdLog(n.log.Named("control")),
	}
	var serving sync.WaitGroup
	n.lobby = newLobby(context.WithoutCancel(ctx))
	serving.Go(func() { n.accept(context.WithoutCancel(ctx), n.cell) })
	serving.Go(func() { _ = srv.Serve(n.control) }) // ends with Shutdown or Close
	started.add(func() {
		n.cell.Close()
		n.olds.close()
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
func (n *nucleus) openSocket(which ctl.Socket, started *closers) (*door, error) {
	l, err := n.taken.listener(which)
	if err == nil && l == nil {
		if err = ctl.Remove(n.cfg.Dir, which); err == nil {
			l, err = ctl.Listen(n.cfg.Dir, which)
		}
	}
	if err != nil {
		return nil, cellproto.Errorf("open "+string(which), cellproto.KindOf(err), "%w", err)
	}
	started.add(func() {
		l.Close()
		_ = ctl.Remove(n.cfg.Dir, which) // the next start does so too
	})
	return &door{UnixListener: l}, nil
}

// accept serves the callers on the cell's socket until it is closed. The server half owns and waits
// for the connections that are relayed, the program for those that are handed to it.
func (n *nucleus) accept(ctx context.Context, l *door) {
	var callers sync.WaitGroup
	defer func() { n.lobby.end(); callers.Wait() }()
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
		callers.Go(func() { n.receive(ctx, conn) })
	}
}

// receive sees to a caller of whom nothing was read.
func (n *nucleus) receive(ctx context.Context, conn *net.UnixConn) {
	who, ok := whoIs(conn)
	if !ok {
		conn.Close()
		return
	}
	looking, ok := n.lobby.enter(conn)
	if !ok {
		return // it waits
	}
	var hello *cellproto.Hello
	if n.program != nil || n.olds.any.Load() {
		hello = peekHello(looking, conn)
	}
	granted := n.olds.lead(looking, conn, who, hello) || n.grant(looking, conn, who, hello)
	n.lobby.leave(conn, granted, func() {
		run, err := n.server.Admit(ctx, conn, who)
		if err == nil {
			go n.relay(run, who)
		}
	})
}

// relay serves a caller whose calls pass through here.
func (n *nucleus) relay(run func() error, who call.Who) {
	if err := run(); err != nil {
		n.log.Debug("caller left", zap.Int("uid", who.UID), zap.Error(err))
	}
}

const acceptPause = 50 * time.Millisecond

// whoIs asks the system who is at the other end. Where it does not say, nobody is let in: the
// sockets' mode would do, but a mode can be changed.
func whoIs(conn *net.UnixConn) (call.Who, bool) {
	uid, _, ok := ctl.PeerUID(conn)
	return call.Who{UID: uid, Owner: uid == os.Getuid() || uid == 0}, ok
}
