package cell

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const (
	// barrierTimeout bounds the wait for the peer to have read what was sent.
	barrierTimeout = time.Second
	// graceTimeout bounds the wait for functions whose context has ended.
	graceTimeout = 5 * time.Second
)

// serve runs the connection until it ends, and waits for what it began.
func (s *server) serve(ctx context.Context, conn *cellproto.Conn, l *link) error {
	base := context.WithValue(context.WithoutCancel(ctx), clientKey{}, NewClient(conn))
	s.base, s.stop = context.WithCancel(base)
	defer s.stop()
	ran := make(chan error, 1)
	if s.handoff != nil {
		s.handoff.start()
		defer s.handoff.close()
		conn.Flush() // the hello: meanwhile the nucleus goes on
	}
	go func() { ran <- conn.Run() }()

	background := s.startBackground(ctx)
	err, told := s.untilStop(ctx, conn, l, background)
	if told {
		err = errors.Join(err, s.drain(conn, l))
	}
	conn.Close()
	over := s.flights.close() // callers with connections of their own may still be there
	s.stop()
	runErr, ended := s.wait(ran, over)
	switch {
	case err != nil:
		return err
	case !ended:
		return cellproto.Errorf("stop", cellproto.Timeout, "%d calls do not end", s.flights.count())
	case told, l.cleanEnd.Load(), runErr == nil:
		return nil
	}
	return cellproto.Errorf("serve", cellproto.KindOf(runErr), "the nucleus is gone: %w", runErr)
}

// startBackground runs Config.Background under a context that ends with ctx or the connection.
func (s *server) startBackground(ctx context.Context) <-chan error {
	result := make(chan error, 1)
	if s.cfg.Background == nil {
		return result
	}
	own, cancel := context.WithCancel(s.base)
	unhook := context.AfterFunc(ctx, cancel)
	s.cancelBackground = func() { unhook(); cancel() }
	s.tasks.Go(func() {
		if err := s.cfg.Background(own); err != nil && own.Err() == nil {
			result <- err
		}
	})
	return result
}

// untilStop waits for a reason to stop: told is false when the connection has ended.
func (s *server) untilStop(ctx context.Context, conn *cellproto.Conn, l *link, background <-chan error) (err error, told bool) {
	select {
	case <-ctx.Done():
	case <-l.leaving:
	case err = <-background:
	case <-conn.Done():
		return nil, false
	}
	return err, true
}

// drain lets the calls in flight end. The peer is told to begin no more; those that it began before
// it heard so are served too.
func (s *server) drain(conn *cellproto.Conn, l *link) error {
	if s.cancelBackground != nil {
		s.cancelBackground()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Drain)
	defer cancel()
	_ = conn.Goaway("the program stops") // a lost connection is seen below
	barrier(ctx, conn)
	s.handoff.leaveForGood(ctx)
	select {
	case <-s.flights.close():
	case <-conn.Done():
		return nil
	case <-ctx.Done():
		return cellproto.Errorf("stop", cellproto.Timeout, "%d calls had not ended after %v and were cut", s.flights.count(), s.cfg.Drain)
	}
	s.stop()           // calls that were begun here and that nobody waits for
	barrier(ctx, conn) // what came meanwhile has been refused, which a lost connection would not tell
	last, release := context.WithTimeout(context.Background(), barrierTimeout)
	defer release()
	_ = conn.Drain(last, "the program stops") // writes out the replies
	return nil
}

// barrier waits until all has come that the peer sent before it read what was sent here.
func barrier(ctx context.Context, conn *cellproto.Conn) {
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	_, _ = conn.Ping(ctx) // a peer that does not answer loses what it sent
}

// wait waits for the connection, for all calls, and for their goroutines.
func (s *server) wait(ran <-chan error, over <-chan struct{}) (err error, ended bool) {
	all := make(chan error, 1)
	go func() { err := <-ran; <-over; s.tasks.Wait(); all <- err }()
	timer := time.NewTimer(graceTimeout)
	defer timer.Stop()
	select {
	case err = <-all:
		return err, true
	case <-timer.C: // the process is about to end, and these goroutines with it
		return nil, false
	}
}

// link is the transport, watched: a goaway of the peer and the end of its stream are noticed before
// the connection reads on.
type link struct {
	cellproto.Transport
	in      io.Reader // of it
	conn    atomic.Pointer[cellproto.Conn]
	once    sync.Once
	leaving chan struct{} // closed when the peer has said goaway

	flights  *flights
	cleanEnd atomic.Bool // the peer closed the connection while no call was served
}

func (l *link) Read(p []byte) (int, error) {
	if conn := l.conn.Load(); conn != nil && conn.Leaving() {
		l.once.Do(func() { close(l.leaving) })
	}
	n, err := l.in.Read(p)
	if err == io.EOF && l.flights.count() == 0 {
		l.cleanEnd.Store(true)
	}
	return n, err
}

// SyscallConn lets the connection write to a descriptor without blocking.
func (l *link) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := l.Transport.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// flights counts the calls that are served, until it is closed.
type flights struct {
	mu     sync.Mutex
	n      int // those that wait included
	limit  int // of those that have a place; 0: the nucleus sees to it
	closed bool
	waits  []chan struct{} // for a place; see wait.go
	owners int             // of them, the owner's, which are the first
	over   int             // that have given up, and not ended yet
	idle   chan struct{}
}

// bound sets the limit.
func (f *flights) bound(limit int) {
	f.mu.Lock()
	f.limit = limit
	f.mu.Unlock()
}

func (f *flights) init() { f.idle = make(chan struct{}) }

// begin counts a call, or says why it cannot begin.
func (f *flights) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return errStopping
	case f.limit > 0 && f.running() >= f.limit:
		return errBusy
	}
	f.n++
	return nil
}

var (
	errStopping = cellproto.Errorf("call", cellproto.Unavailable, "the program is stopping")
	errBusy     = &cellproto.Error{
		Op: "call", Kind: cellproto.Overloaded, Err: errors.New("as many calls are in flight as it takes"),
		RetryAfter: 50 * time.Millisecond, // a few times the duration of a usual call
	}
)

func (f *flights) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	f.admit()
	if f.closed && f.n == 0 {
		close(f.idle)
	}
}

// close refuses further calls and gives what is closed when none is left.
func (f *flights) close() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		if f.n == 0 {
			close(f.idle)
		}
	}
	return f.idle
}

func (f *flights) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
