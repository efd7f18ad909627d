package content

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// quota says what the inbound streams of one protocol may cost.
type quota struct {
	service string // its name in the resource manager
	perPeer int    // streams open at once from one peer
	total   int    // streams open at once; from the peers of one group a part of them, see shares
	memory  int    // bytes charged for each stream; a handler that needs more reserves it
}

// inbound is the adapter between the streams that strangers open and a handler that returns an
// error: it counts them, charges the resource manager, recovers, answers or resets, and hands every
// error on to charge.
type inbound struct {
	quota
	handle func(context.Context, network.Stream) error
	refuse func(network.Stream, error) bool // tells the peer about an error; false: reset. May be nil
	charge func(peer.ID, error)             // may be nil
	log    *zap.Logger

	ctx    context.Context
	cancel context.CancelFunc
	open   streams
	places *shares
}

func newInbound(q quota, handle func(context.Context, network.Stream) error,
	refuse func(network.Stream, error) bool, charge func(peer.ID, error), log *zap.Logger) *inbound {
	in := &inbound{quota: q, handle: handle, refuse: refuse, charge: charge, log: log, places: newShares(q.total, q.perPeer)}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	return in
}

// serve is the network.StreamHandler.
func (in *inbound) serve(st network.Stream) {
	if !in.open.add(st) {
		_ = st.ResetWithError(network.StreamShutdown)
		return
	}
	defer in.open.done(st)
	from := takerOf(st.Conn())
	if !in.places.take(from) {
		_ = st.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	defer in.places.free(from)
	if err := st.Scope().SetService(in.service); err != nil {
		_ = st.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	if err := st.Scope().ReserveMemory(in.memory, network.ReservationPriorityAlways); err != nil {
		_ = st.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	defer st.Scope().ReleaseMemory(in.memory)

	err := in.guard(st)
	if err != nil {
		in.log.Debug("a peer's stream failed", zap.String("service", in.service), zap.Stringer("peer", from.peer), zap.Error(err))
		if in.charge != nil {
			in.charge(from.peer, err)
		}
		if in.refuse == nil || !in.refuse(st, err) {
			_ = st.ResetWithError(network.StreamProtocolViolation)
			return
		}
	}
	_ = st.Close()
}

// guard runs the handler; a panic in it is an error of this one stream.
func (in *inbound) guard(st network.Stream) (err error) {
	defer func() {
		if r := recover(); r != nil {
			in.log.Error("a stream handler panicked", zap.String("service", in.service),
				zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = cellproto.Errorf("serve "+in.service, cellproto.Failed, "%s", fmt.Sprint("panic: ", r))
		}
	}()
	return in.handle(in.ctx, st)
}

// stop resets what is open and returns when every handler has.
func (in *inbound) stop() {
	in.cancel()
	in.open.stop()
}

// streams is a set of open streams, and of the goroutines that belong to it, that can be ended.
type streams struct {
	mu     sync.Mutex
	open   map[network.Stream]struct{}
	closed bool
	wg     sync.WaitGroup
}

// add reports false when the set has been stopped. Each add needs a done.
func (s *streams) add(st network.Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = make(map[network.Stream]struct{})
	}
	s.open[st] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *streams) done(st network.Stream) {
	s.mu.Lock()
	delete(s.open, st)
	s.mu.Unlock()
	s.wg.Done()
}

// run starts f in a goroutine that stop waits for; after stop it does nothing and reports false.
func (s *streams) run(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(f)
	}
	return !s.closed
}

func (s *streams) stop() {
	s.mu.Lock()
	s.closed = true
	for st := range s.open {
		_ = st.ResetWithError(network.StreamShutdown)
	}
	s.mu.Unlock()
	s.wg.Wait()
}
