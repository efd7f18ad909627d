package call

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// streamMemory is what a stream of frames is counted with by the host's resource manager: a read
// buffer, a write buffer and its spare, in bytes. A frame of 1 MiB is the exception, and a short one.
const streamMemory = 256 << 10

// stream is a libp2p stream as a transport of frames.
type stream struct{ network.Stream }

// Close ends the stream. A write that waits for a peer that does not read is let go: QUIC's Close
// alone would leave it waiting for as long as the peer likes. What was handed over before is sent.
func (s stream) Close() error {
	_ = s.SetWriteDeadline(time.Unix(1, 0)) // fails on a stream that has ended
	return s.Stream.Close()
}

// Reserve makes a stream a cellproto.Memory: what waits for a peer counts against what all of its streams may take,
// and against what those of all peers may.
func (s stream) Reserve(n int) error {
	return s.Scope().ReserveMemory(n, network.ReservationPriorityAlways)
}

// Release gives back; what is left goes with the stream's scope.
func (s stream) Release(n int) { s.Scope().ReleaseMemory(n) }

// reserve counts a stream's memory, or says that there is no room for it.
func reserve(s network.Stream) error {
	if err := s.Scope().ReserveMemory(streamMemory, network.ReservationPriorityAlways); err != nil {
		return cellproto.Errorf("serve", cellproto.Overloaded, "%w", err)
	}
	return nil // given back with the stream's scope
}

// HandleStream makes a libp2p stream handler of one that returns an error: the stream is reset when
// it fails or panics, and closed when it does not. node uses it for every protocol of ours.
func HandleStream(log *zap.Logger, handle func(network.Stream) error) network.StreamHandler {
	return func(s network.Stream) {
		defer func() {
			if p := recover(); p != nil {
				s.Reset()
				log.Error("panic in stream handler", zap.String("protocol", string(s.Protocol())), zap.Any("panic", p), zap.Stack("stack"))
			}
		}()
		if err := handle(s); err != nil {
			s.Reset()
			log.Debug("stream ended", zap.String("protocol", string(s.Protocol())), zap.String("peer", s.Conn().RemotePeer().String()), zap.Error(err))
			return
		}
		s.Close()
	}
}
