package call

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/celldnet/celld/cellproto"
)

// The protocols for adverts and for callers are one request and one answer on a stream, which ends then. The answer is one
// byte, the kind of error or 0, a big-endian u16 length, and as many bytes: what was asked for, or the error's message.

// exchangeTimeout is for the whole exchange, on either side.
const exchangeTimeout = 5 * time.Second

// exchange sends a request and gives the answer, of at most limit bytes. Errors have the kind that the peer says, TooLarge,
// and Timeout or Unavailable where it does not answer, or does not know the protocol.
func exchange(ctx context.Context, h host.Host, to peer.ID, proto protocol.ID, request []byte, limit int) ([]byte, error) {
	op := "ask " + to.String() + " by " + string(proto)
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	s, err := h.NewStream(network.WithAllowLimitedConn(ctx, string(proto)), to, proto)
	if err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	if _, err := s.Write(request); err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	body, err := readAnswer(s, limit)
	if err != nil {
		s.Reset()
		var e *cellproto.Error
		if errors.As(err, &e) {
			return nil, err
		}
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	return body, nil
}

func readAnswer(r io.Reader, limit int) ([]byte, error) {
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return nil, err
	}
	body, err := readSized(r, limit)
	if err != nil {
		return nil, err
	}
	if kind := cellproto.Kind(kind[0]); kind != 0 {
		return nil, cellproto.Errorf("the peer's answer", kind, "%.200q", body)
	}
	return body, nil
}

// readSized reads a u16 length and as many bytes, at most limit (TooLarge).
func readSized(r io.Reader, limit int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > limit {
		return nil, cellproto.Errorf("read message", cellproto.TooLarge, "%d bytes, the limit is %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return body, nil
}

// appendSized is what readSized reads.
func appendSized(to, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(body))), body...)
}

// sendAnswer sends body, or err in its place.
func sendAnswer(w io.Writer, body []byte, err error) error {
	if err != nil {
		text := err.Error()
		body = []byte(text[:min(len(text), cellproto.MaxErrorText)])
	}
	_, err = w.Write(appendSized([]byte{byte(cellproto.KindOf(err))}, body))
	return err
}
