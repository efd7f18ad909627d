package call

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// The advert protocol, /cell/advert/1: the asker sends a uvarint length and the cell's binary CID
// (at most maxCID bytes); the answer is one byte, the kind of error or 0, a big-endian u16 length,
// and as many bytes: the sealed advert, or the error's message. Then the stream ends.

const (
	maxCID        = 128             // bytes
	advertTimeout = 5 * time.Second // for the whole exchange, on either side
)

// ServeAdvert answers one stream with what make gives for the cell.
func ServeAdvert(s network.Stream, advert func(cid.Cid) ([]byte, error)) error {
	if err := s.SetDeadline(time.Now().Add(advertTimeout)); err != nil {
		return err
	}
	c, err := readAdvertRequest(bufio.NewReaderSize(s, 256))
	if err != nil {
		return err
	}
	body, aerr := advert(c)
	reply := []byte{byte(cellproto.KindOf(aerr))}
	if aerr != nil {
		text := aerr.Error()
		body = []byte(text[:min(len(text), cellproto.MaxAdvert)])
	}
	reply = binary.BigEndian.AppendUint16(reply, uint16(len(body)))
	_, err = s.Write(append(reply, body...))
	return err
}

// readAdvertRequest reads the CID that an asker sends.
func readAdvertRequest(r *bufio.Reader) (cid.Cid, error) {
	const op = "read advert request"
	n := 0
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil { // it did not arrive, which is no breach
			return cid.Undef, cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
		}
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			break
		}
		if shift > 0 { // no length within the limit has a third byte
			return cid.Undef, cellproto.Errorf(op, cellproto.TooLarge, "a longer CID than %d bytes", maxCID)
		}
	}
	if n > maxCID {
		return cid.Undef, cellproto.Errorf(op, cellproto.TooLarge, "CID of %d bytes, the limit is %d", n, maxCID)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		return cid.Undef, cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	c, err := cid.Cast(buf)
	if err != nil {
		return cid.Undef, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return c, nil
}

// askAdvert asks a peer for its advert of a cell and checks it.
func askAdvert(ctx context.Context, h host.Host, from peer.ID, c cid.Cid) (*signed.Advert, error) {
	op := "ask " + from.String() + " for its advert"
	ctx, cancel := context.WithTimeout(ctx, advertTimeout)
	defer cancel()
	s, err := h.NewStream(network.WithAllowLimitedConn(ctx, "cell advert"), from, cellproto.ProtocolAdvert)
	if err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	raw := c.Bytes()
	if _, err := s.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...)); err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	body, err := readAdvertReply(s)
	if err != nil {
		s.Reset()
		var e *cellproto.Error
		if errors.As(err, &e) {
			return nil, err
		}
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	return signed.OpenAdvert(body, from, c, time.Now())
}

func readAdvertReply(r io.Reader) ([]byte, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[1:]))
	if n > cellproto.MaxAdvert {
		return nil, cellproto.Errorf("read advert", cellproto.TooLarge, "%d bytes, the limit is %d", n, cellproto.MaxAdvert)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if kind := cellproto.Kind(head[0]); kind != 0 {
		return nil, cellproto.Errorf("ask for advert", kind, "%q", body)
	}
	return body, nil
}
