package node

import (
	"context"
	"net"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

// grant hands a caller's connection to the program, where both want that and the caller may: its calls
// then do not pass through here any more. Nothing is read from the connection, only looked at, so that
// the program, or else the relay, begins with the caller's hello. It reports whether it has.
func (n *nucleus) grant(ctx context.Context, conn *net.UnixConn, who call.Who, hello *cellproto.Hello) bool {
	if n.program == nil || hello == nil || n.program.OnTrial() { // whoever comes back because of a swap need not wait for its end
		return false
	}
	subject, until, ok := n.server.MayHold(who, hello)
	if !ok {
		return false
	}
	fits := func(live []byte) bool { return n.fitting.whole(hello.MadeFor, live) }
	if n.program.GrantAsleep(conn, subject, until, fits) {
		n.learnBeside(ctx)
	} else if !n.learnFirst(ctx) || !n.program.Grant(ctx, conn, subject, until, fits) {
		return false
	}
	n.holds(who, hello)
	n.log.Debug("caller handed over", zap.Int("uid", who.UID), zap.String("agent", hello.Agent))
	return true
}

// learnFirst sees to it that what is served is what the program is, as a relayed call would: the schema of a program is learned
// at its start. It reports false when there is none.
func (n *nucleus) learnFirst(ctx context.Context) bool {
	up := n.program.Current()
	if up != nil && n.serving.learned(ctx, up) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, cellproto.DefaultTimeout)
	defer cancel()
	up, err := n.program.Conn(ctx)
	return err == nil && n.serving.learn(ctx, up) == nil
}

// learnBeside is learnFirst for a program of a file that has run before: its caller does not wait for it.
func (n *nucleus) learnBeside(ctx context.Context) {
	up := n.program.Current()
	if up == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cellproto.DefaultTimeout)
	defer cancel()
	if err := n.serving.learn(ctx, up); err != nil { // the next call learns it
		n.log.Debug("the program does not give its schema", zap.Error(err))
	}
}

// learned says whether learn has nothing to do, and so does not ask a program that may be frozen.
func (s *serving) learned(ctx context.Context, conn *cellproto.Conn) bool {
	s.mu.Lock()
	met := s.conn == conn
	s.mu.Unlock()
	hello, err := conn.PeerHello(ctx)
	return met && err == nil && s.knows(hello.Schema)
}

// invite has those come back who were relayed because the program was on trial, and could be handed over now.
func (n *nucleus) invite() { n.server.Invite() }

// maxPeek is how large a hello may be that is looked at, in bytes, with its frame header: one of a
// caller names no functions.
const maxPeek = 4 << 10

// peekHello gives the hello that waits on a connection, and leaves it there; nil when there is none in
// time, or it is none. One that is there already costs no timer, which can wake a thread to be waited for.
func peekHello(ctx context.Context, conn *net.UnixConn) *cellproto.Hello {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	buf := make([]byte, maxPeek)
	var hello *cellproto.Hello
	over := false
	_ = raw.Control(func(fd uintptr) { hello, over = lookForHello(fd, buf) }) // in vain: it is waited for
	if over || conn.SetReadDeadline(time.Now().Add(cellproto.FrameTimeout)) != nil {
		return hello
	}
	unhook := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		unhook()
		_ = conn.SetReadDeadline(time.Time{}) // a lost connection fails the first read
	}()
	_ = raw.Read(func(fd uintptr) bool { // in vain: nil
		hello, over = lookForHello(fd, buf)
		return over
	})
	return hello
}

// lookForHello looks once. It reports false when there is nothing yet, or the rest is on its way.
func lookForHello(fd uintptr, buf []byte) (hello *cellproto.Hello, over bool) {
	n, _, err := syscall.Recvfrom(int(fd), buf, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return nil, false
	}
	if err != nil || n == 0 {
		return nil, true
	}
	f, size, err := cellproto.ParseFrame(buf[:n])
	if err != nil {
		return nil, true
	}
	if size == 0 {
		return nil, n == len(buf)
	}
	if h, err := cellproto.ParseHello(f.Payload); err == nil && f.Type == cellproto.TypeHello {
		return &h, true
	}
	return nil, true
}

// load is the state of the server half, with the calls that do not pass through it.
func (n *nucleus) load() call.Load {
	if n.program == nil {
		return n.server.Load()
	}
	g := n.program.Granted()
	n.grantedMu.Lock()
	if g.Served != n.grantedSeen || g.InFlight > 0 {
		for _, touch := range n.holders {
			touch(time.Now())
		}
	}
	if g.Conns == 0 {
		n.holders = nil
	}
	n.server.Served(g.Served-n.grantedSeen, g.Times)
	n.grantedSeen = g.Served
	n.grantedMu.Unlock()
	l := n.server.Load()
	l.InFlight += g.InFlight
	return l
}
