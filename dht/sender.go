package dht

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/encoding/protodelim"
)

const (
	// replyTimeout is how long a peer may take to answer one DHT message; kad-dht's own sender
	// waits as long.
	replyTimeout = 10 * time.Second
	// ackTimeout is how long to wait for the sign that a provider record was taken.
	ackTimeout = 5 * time.Second
)

// errCrowded says that enough peers of this address group took part in the lookup already.
var errCrowded = errors.New("enough peers of this address group were asked already")

// sender carries kad-dht's messages. It takes the place of kad-dht's own sender because a query
// filter there sees one peer at a time and not the lookup that it belongs to, while the context that
// comes with a message does. It uses one stream per message: opening one costs no round trip, and
// its orderly end is the only acknowledgement that ADD_PROVIDER has.
type sender struct {
	host   host.Host
	protos []protocol.ID
	limit  func(key string) *lookup // makes the memory for a message outside any lookup; nil: nothing is limited
}

// OnDisconnect has nothing to release: no stream outlives its message.
func (s *sender) OnDisconnect(context.Context, peer.ID) {}

// SendRequest sends m to p and gives the answer, without those closer peers that the lookup has
// enough of.
func (s *sender) SendRequest(ctx context.Context, p peer.ID, m *pb.Message) (*pb.Message, error) {
	start := time.Now()
	l, stream, err := s.open(ctx, p, m)
	if err != nil {
		return nil, err
	}
	defer stream.Reset() //nolint:errcheck // after Close it does nothing
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer stop()

	answer := new(pb.Message)
	err = exchange(stream, m, func() error {
		opts := protodelim.UnmarshalOptions{MaxSize: network.MessageSizeMax}
		return opts.UnmarshalFrom(bufio.NewReader(stream), answer)
	})
	if err != nil {
		return nil, orCtx(ctx, fmt.Errorf("no answer from %s: %w", p, err))
	}
	_ = stream.Close()
	s.host.Peerstore().RecordLatency(p, time.Since(start))
	if l == nil {
		return answer, nil
	}
	l.asked.Add(1)
	if m.GetType() == pb.Message_PUT_VALUE && string(answer.GetRecord().GetValue()) == string(m.GetRecord().GetValue()) {
		l.stored.Add(1)
	}
	if s.limit != nil {
		answer.CloserPeers = s.thin(l, p, stream.Conn().RemoteMultiaddr(), m, answer.GetCloserPeers())
	}
	return answer, nil
}

// SendMessage sends m, which has no answer. A peer that takes it ends the stream in order, one that
// refuses it resets the stream; a peer that does neither in time has not been seen to take it, which
// is no error.
func (s *sender) SendMessage(ctx context.Context, p peer.ID, m *pb.Message) error {
	l, stream, err := s.open(ctx, p, m)
	if err != nil {
		return err
	}
	defer stream.Reset() //nolint:errcheck // after Close it does nothing
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer stop()

	err = exchange(stream, m, func() error {
		_ = stream.SetReadDeadline(time.Now().Add(ackTimeout))
		n, err := io.Copy(io.Discard, io.LimitReader(stream, 1))
		if err == nil && n > 0 {
			return errors.New("it answered a message that has no answer")
		}
		return err
	})
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		if l != nil {
			l.stored.Add(1)
		}
	case ctx.Err() == nil && errors.As(err, &timeout) && timeout.Timeout():
	default:
		return orCtx(ctx, fmt.Errorf("not taken by %s: %w", p, err))
	}
	_ = stream.Close()
	return nil
}

// open opens a stream to p for the message m, if the lookup that ctx belongs to has room for p. The
// lookup is nil when nothing is limited and nobody counts.
func (s *sender) open(ctx context.Context, p peer.ID, m *pb.Message) (*lookup, network.Stream, error) {
	l := lookupOf(ctx)
	if l == nil && s.limit != nil {
		l = s.limit(string(m.GetKey()))
	}
	stream, err := s.host.NewStream(ctx, p, s.protos...)
	if err != nil {
		return nil, nil, err
	}
	target := m.GetType() == pb.Message_FIND_NODE && string(p) == string(m.GetKey())
	if s.limit != nil && !target && !l.ask(p, stream.Conn().RemoteMultiaddr()) {
		_ = stream.Reset()
		return nil, nil, errCrowded
	}
	return l, stream, nil
}

// exchange writes m, ends the writing side, and reads.
func exchange(stream network.Stream, m *pb.Message, read func() error) error {
	if err := stream.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	w := bufio.NewWriter(stream)
	if _, err := protodelim.MarshalTo(w, m); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := stream.CloseWrite(); err != nil {
		return err
	}
	return read()
}

// thin leaves out the peers that l has enough of. A peer that is connected is judged by the address
// of its connection, whatever the responder claims. The target of a search for a peer stays.
func (s *sender) thin(l *lookup, from peer.ID, fromAddr ma.Multiaddr, m *pb.Message, peers []*pb.Message_Peer) []*pb.Message_Peer {
	kept := peers[:0]
	for _, pbp := range peers {
		id := peer.ID(pbp.GetId())
		if id.Validate() != nil {
			continue
		}
		if m.GetType() == pb.Message_FIND_NODE && string(id) == string(m.GetKey()) {
			kept = append(kept, pbp)
			continue
		}
		addrs := remoteAddrs(s.host, id)
		if len(addrs) == 0 {
			addrs = pbp.Addresses()
		}
		if l.hear(id, addrs, from, fromAddr) {
			kept = append(kept, pbp)
		}
	}
	return kept
}

// remoteAddrs gives the addresses at which p is connected.
func remoteAddrs(h host.Host, p peer.ID) []ma.Multiaddr {
	conns := h.Network().ConnsToPeer(p)
	addrs := make([]ma.Multiaddr, 0, len(conns))
	for _, c := range conns {
		addrs = append(addrs, c.RemoteMultiaddr())
	}
	return addrs
}

// orCtx gives the context's error if it ended, for then err is only its consequence.
func orCtx(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
