package node

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// door is one of the cell's sockets, which can be shut for a while: who comes then waits in the system's
// queue, and is let in when it is opened again, by this celld or by another one.
type door struct {
	*net.UnixListener

	mu     sync.Mutex
	shut   chan struct{} // closed when the door is opened again; nil: it is open
	inside bool          // somebody accepts, or has accepted and not come back yet
	idle   chan struct{} // closed when nobody is inside any more; nil: nobody waits for that
}

// Accept is for http.Server.
func (d *door) Accept() (net.Conn, error) { return d.AcceptUnix() }

// AcceptUnix waits for a caller, and for the door to be open.
func (d *door) AcceptUnix() (*net.UnixConn, error) {
	for {
		d.enter()
		conn, err := d.UnixListener.AcceptUnix()
		switch {
		case err == nil:
			return conn, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			d.mu.Lock()
			d.leave() // perhaps for good
			d.mu.Unlock()
			return nil, err
		}
	}
}

// enter waits until the door is open.
func (d *door) enter() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leave()
	for d.shut != nil {
		shut := d.shut
		d.mu.Unlock()
		<-shut
		d.mu.Lock()
	}
	d.inside = true
}

// leave says that nobody is inside. d.mu is held.
func (d *door) leave() {
	d.inside = false
	if d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
}

// close shuts the door, and returns when what was accepted before has been seen to.
func (d *door) close() {
	d.mu.Lock()
	if d.shut == nil {
		d.shut = make(chan struct{})
	}
	var idle chan struct{}
	if d.inside {
		if d.idle == nil {
			d.idle = make(chan struct{})
		}
		idle = d.idle
	}
	d.mu.Unlock()
	_ = d.SetDeadline(time.Unix(1, 0)) // a closed listener accepts nobody either
	if idle != nil {
		<-idle
	}
}

// open opens it again.
func (d *door) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.SetDeadline(time.Time{})
	if d.shut != nil {
		close(d.shut)
		d.shut = nil
	}
}

// Close ends the listening for good.
func (d *door) Close() error {
	err := d.UnixListener.Close()
	d.open()
	return err
}

// lobby has the callers of the cell's socket that have not said what they want yet: nothing was read
// from their connections.
type lobby struct {
	mu      sync.Mutex
	cancel  context.CancelFunc // ends the looking at what they say
	looking context.Context
	held    bool
	waiting []*net.UnixConn // while it is held
	inside  int             // who is being looked at, or handed over
	empty   chan struct{}   // closed when nobody is inside; nil: nobody waits for that
}

func newLobby(ctx context.Context) *lobby {
	l := &lobby{}
	l.looking, l.cancel = context.WithCancel(ctx)
	return l
}

// enter counts a caller in; leave is due. It reports false while the lobby is held: the caller waits.
func (l *lobby) enter(conn *net.UnixConn) (context.Context, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		l.waiting = append(l.waiting, conn)
		return nil, false
	}
	l.inside++
	return l.looking, true
}

// leave counts a caller out, after next was called for one that is not gone. While the lobby is held
// that waits instead: nothing was read from its connection.
func (l *lobby) leave(conn *net.UnixConn, gone bool, next func()) {
	l.mu.Lock()
	held := l.held
	if held && !gone {
		l.waiting = append(l.waiting, conn)
	}
	l.mu.Unlock()
	if !held && !gone {
		next()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inside--; l.inside == 0 && l.empty != nil {
		close(l.empty)
		l.empty = nil
	}
}

// hold has those who have said nothing wait, and returns when nobody is being looked at or ctx ends.
func (l *lobby) hold(ctx context.Context) error {
	l.mu.Lock()
	l.held = true
	l.cancel()
	if l.inside > 0 && l.empty == nil {
		l.empty = make(chan struct{})
	}
	empty := l.empty
	l.mu.Unlock()
	if empty == nil {
		return nil
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release ends that, and gives those who have waited.
func (l *lobby) release(ctx context.Context) []*net.UnixConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	l.looking, l.cancel = context.WithCancel(ctx)
	waiting := l.waiting
	l.waiting = nil
	return waiting
}

// end ends the looking, for good.
func (l *lobby) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel()
}
