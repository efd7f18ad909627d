package offer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// The half of the donor.

const (
	offerTimeout = 10 * time.Second // from the stream's begin to the answer
	holdTimeout  = 15 * time.Second // from a yes to the take
	writeTimeout = 10 * time.Second // of one message
	// TakeTimeout bounds the taking up of one cell.
	TakeTimeout = 10 * time.Minute

	maxPings       = 8 // on one stream
	maxStreams     = 32
	maxPeerStreams = 8 // of these; whoever says nothing holds a place for offerTimeout
	// streamMemory is what an offer costs while it is looked at.
	streamMemory = 2 * maxOffer
	// stepEvery is how often who waits for a cell is told that it goes on.
	stepEvery = stepTimeout / 3
)

// Donor is what the machine of a donor can do.
type Donor interface {
	// Consider says whether a cell is taken up now. nil: yes; a *cellproto.Error with RetryAfter: then.
	// The manifest's hash and signature have been checked.
	Consider(ctx context.Context, from Asker, o Offer, m *signed.Manifest) error
	// Take takes the cell up, and gives where its mirror is. It is asked only after a yes.
	Take(ctx context.Context, from Asker, o Offer, m *signed.Manifest, step func(string)) (peer.AddrInfo, error)
}

// Server answers offers.
type Server struct {
	donor Donor
	log   *zap.Logger
	quota *quota
	now   func() time.Time

	mu      sync.Mutex
	streams counts
	takes   map[cid.Cid]*taking
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
}

// NewServer makes the donor's half. Its owner calls Close.
func NewServer(donor Donor, log *zap.Logger) *Server {
	s := &Server{donor: donor, log: log, quota: newQuota(), now: time.Now, streams: newCounts(), takes: map[cid.Cid]*taking{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close ends what is being taken up, and returns when it has. Every later offer is refused.
func (s *Server) Close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.work.Wait()
}

// Serve answers one stream. What it returns is what the peer did wrong, or what went wrong with it.
func (s *Server) Serve(st network.Stream) error {
	from := Asker{Peer: st.Conn().RemotePeer(), Group: GroupOf(st.Conn().RemoteMultiaddr())}
	if !s.enter(from) {
		return cellproto.Errorf("serve an offer", cellproto.Overloaded, "too many are being answered, here or of this peer or network")
	}
	defer s.leave(from)
	if err := st.Scope().ReserveMemory(streamMemory, network.ReservationPriorityLow); err != nil {
		return cellproto.Errorf("serve an offer", cellproto.Overloaded, "%w", err)
	}
	err := s.converse(st, from)
	var said *cellproto.Error
	if err != nil && !errors.As(err, &said) {
		return cellproto.Errorf("serve an offer", cellproto.Unavailable, "%w", err) // it has left, or is too slow
	}
	return err
}

func (s *Server) enter(from Asker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &s.streams
	if n.peers[from.Peer] >= maxPeerStreams || !fairShare(float64(n.groups[from.Group]), float64(maxStreams-n.all)) || s.ctx.Err() != nil {
		return false
	}
	n.add(from, 1)
	s.work.Add(1)
	return true
}

func (s *Server) leave(from Asker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams.add(from, -1)
	s.work.Done()
}

// Asker is who offers: a peer, and the group of its address.
type Asker struct {
	Peer  peer.ID
	Group string
}

// stream is what a conversation needs of a network.Stream.
type stream interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// converse is one conversation, from the first message to the last.
func (s *Server) converse(st stream, from Asker) error {
	stop := context.AfterFunc(s.ctx, func() { _ = st.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = st.SetReadDeadline(time.Now().Add(offerTimeout)) // fails on a stream that has ended; so below
	body, err := s.awaitOffer(st)
	if err != nil {
		return err
	}
	if err := s.quota.take(s.now(), from); err != nil {
		return reply(st, typeAnswer, verdictOf(err))
	}
	o, err := decodeOffer(body)
	if err != nil {
		return err
	}
	m, err := signed.OpenManifest(o.Cell, o.Block)
	if err != nil {
		// Whoever passes on what is not what it says it is breaks the protocol.
		return cellproto.Errorf("read an offer", cellproto.BadInput, "%w", err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, offerTimeout)
	refusal := s.consider(ctx, from, o, m)
	cancel()
	s.log.Debug("a cell was offered", zap.Stringer("cell", o.Cell), zap.Stringer("by", from.Peer), zap.Error(refusal))
	if err := reply(st, typeAnswer, verdictOf(refusal)); err != nil || refusal != nil {
		return err
	}
	_ = st.SetReadDeadline(time.Now().Add(holdTimeout))
	if _, _, err := read(st, typeTake); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // it has chosen another one
		}
		return err
	}
	return s.take(st, from, o, m)
}

// awaitOffer answers pings until the offer comes.
func (s *Server) awaitOffer(st stream) ([]byte, error) {
	for range maxPings + 1 {
		kind, body, err := read(st, typePing, typeOffer)
		if err != nil || kind == typeOffer {
			return body, err
		}
		_ = st.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := write(st, typePing, body); err != nil {
			return nil, err
		}
	}
	return nil, cellproto.Errorf("read an offer", cellproto.BadInput, "more than %d pings", maxPings)
}

func reply(st stream, kind byte, body any) error {
	_ = st.SetWriteDeadline(time.Now().Add(writeTimeout))
	return write(st, kind, marshal(body))
}

// consider asks the machine, and says no for it while it takes up as many as it can at once.
func (s *Server) consider(ctx context.Context, from Asker, o Offer, m *signed.Manifest) error {
	if err := s.room(from, o.Cell); err != nil {
		return err
	}
	return s.donor.Consider(ctx, from, o, m)
}

// take takes a cell up and tells the peer how that goes, until it is done or the peer has left.
func (s *Server) take(st stream, from Asker, o Offer, m *signed.Manifest) error {
	t, err := s.join(from, o, m)
	if err != nil {
		return reply(st, typeFailed, verdictOf(err))
	}
	defer t.leave()
	_ = st.SetReadDeadline(time.Time{})
	left := make(chan struct{})
	defer func() { <-left }()
	go func() { // ends with the stream, or with the deadline below
		defer close(left)
		_, _ = st.Read(make([]byte, 1)) // nothing more is due: it has left, or breaks the protocol
	}()
	defer func() { _ = st.SetReadDeadline(time.Unix(1, 0)) }()
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		step, news := t.latest()
		if step != "" {
			if err := reply(st, typeStep, wireStep{step}); err != nil {
				return err
			}
		}
		select {
		case <-news:
		case <-tick.C:
			t.hurry(s.now())
		case <-left:
			return cellproto.Errorf("take a cell up", cellproto.Canceled, "who asked for it has left")
		case <-t.done:
			if t.err != nil {
				return reply(st, typeFailed, verdictOf(t.err))
			}
			return reply(st, typeTaken, encodePeer(t.info))
		}
	}
}

// isNoDonor says that the other side does not speak the protocol.
func isNoDonor(err error) bool {
	var unsupported multistream.ErrNotSupported[protocol.ID]
	return errors.As(err, &unsupported)
}
