package call

import (
	"bufio"
	"context"
	"encoding/binary"
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
// (at most maxCID bytes); the answer is the sealed advert. See exchange.

const maxCID = 128 // bytes

// ServeAdvert answers one stream with what make gives for the cell.
func ServeAdvert(s network.Stream, advert func(cid.Cid) ([]byte, error)) error {
	if err := s.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	c, err := readAdvertRequest(bufio.NewReaderSize(s, 256))
	if err != nil {
		return err
	}
	body, err := advert(c)
	return sendAnswer(s, body, err)
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
	raw := c.Bytes()
	request := append(binary.AppendUvarint(nil, uint64(len(raw))), raw...)
	body, err := exchange(ctx, h, from, cellproto.ProtocolAdvert, request, cellproto.MaxAdvert)
	if err != nil {
		return nil, err
	}
	return signed.OpenAdvert(body, from, c, time.Now())
}
