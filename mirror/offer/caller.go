package offer

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// The half of who offers a cell.

// pings are how often the round trip to a donor is measured; the shortest one counts, since the first
// also opens the stream.
const pings = 3

// stepTimeout is how long a donor that takes a cell up may say nothing.
const stepTimeout = 30 * time.Second

// maxSteps is how many steps a donor may tell of. One of ours tells of some dozens, and of one each 10 s.
const maxSteps = 1000

// Talk is a conversation with a donor that was offered a cell. Its owner calls Close.
type Talk struct {
	Donor   peer.ID
	RTT     time.Duration    // to it
	Refusal *cellproto.Error // nil: it takes the cell; with RetryAfter it may be asked again then

	stream network.Stream
}

// Ask offers a cell to a donor and gives its answer. The errors are those of a peer that is no donor
// (Unsupported), cannot be reached (Unavailable, Timeout, Canceled), or breaks the protocol.
func Ask(ctx context.Context, h host.Host, donor peer.AddrInfo, o Offer) (*Talk, error) {
	op := "offer a cell to " + donor.ID.String()
	body, err := o.encode()
	if err != nil {
		return nil, err
	}
	if err := h.Connect(ctx, donor); err != nil {
		return nil, cellproto.Errorf(op, netKind(ctx, err), "%w", err)
	}
	// Not over a relay: such a donor is not near.
	s, err := h.NewStream(ctx, donor.ID, cellproto.ProtocolHost)
	if err != nil {
		return nil, cellproto.Errorf(op, netKind(ctx, err), "%w", err)
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	t := &Talk{Donor: donor.ID, stream: s}
	err = t.ask(ctx, body)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		t.Close()
		return nil, cellproto.Errorf(op, netKind(ctx, err), "%w", err)
	}
	return t, nil
}

func (t *Talk) ask(ctx context.Context, offer []byte) (err error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := t.stream.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if t.RTT, err = measure(t.stream); err != nil {
		return err
	}
	if err := write(t.stream, typeOffer, offer); err != nil {
		return err
	}
	_, answer, err := read(t.stream, typeAnswer)
	if err != nil {
		return err
	}
	t.Refusal, err = decodeVerdict(answer)
	return err
}

// measure gives the shortest of a few round trips.
func measure(s io.ReadWriter) (best time.Duration, err error) {
	for range pings {
		var sent [8]byte
		rand.Read(sent[:]) // never fails
		begin := time.Now()
		if err := write(s, typePing, sent[:]); err != nil {
			return 0, err
		}
		_, back, err := read(s, typePing)
		if err != nil {
			return 0, err
		}
		if string(back) != string(sent[:]) {
			return 0, cellproto.Errorf("measure a donor", cellproto.BadInput, "another ping came back than was sent")
		}
		if took := time.Since(begin); best == 0 || took < best {
			best = took
		}
	}
	return best, nil
}

// Take has the donor take the cell up, and gives where its mirror is. step is told what goes on. When ctx
// ends the donor is told that nobody waits any more. It is called once.
func (t *Talk) Take(ctx context.Context, step func(string)) (info peer.AddrInfo, err error) {
	op := "have " + t.Donor.String() + " take a cell up"
	stop := context.AfterFunc(ctx, func() { t.stream.Reset() })
	defer stop()
	defer func() {
		var said *cellproto.Error
		if err != nil && !errors.As(err, &said) {
			err = cellproto.Errorf(op, netKind(ctx, err), "%w", err)
		}
	}()
	_ = t.stream.SetDeadline(time.Now().Add(stepTimeout))
	if err := write(t.stream, typeTake, nil); err != nil {
		return info, err
	}
	for steps := 0; ; steps++ {
		if steps > maxSteps {
			return info, cellproto.Errorf(op, cellproto.BadInput, "more than %d steps", maxSteps)
		}
		_ = t.stream.SetReadDeadline(time.Now().Add(stepTimeout))
		kind, body, err := read(t.stream, typeStep, typeTaken, typeFailed)
		if err != nil {
			return info, err
		}
		switch kind {
		case typeStep:
			var w wireStep
			if err := decode("a donor's step", body, &w); err != nil {
				return info, err
			}
			step(plain(w.Text))
		case typeFailed:
			refusal, err := decodeVerdict(body)
			if err == nil && refusal == nil {
				return info, cellproto.Errorf(op, cellproto.BadInput, "it failed for no reason")
			}
			if err != nil {
				return info, err
			}
			return info, refusal
		case typeTaken:
			var w wirePeer
			if err := decode("a donor's mirror", body, &w); err != nil {
				return info, err
			}
			if info, err = w.decode(op); err == nil && len(info.Addrs) == 0 {
				err = cellproto.Errorf(op, cellproto.BadInput, "the mirror has no address")
			}
			return info, err
		}
	}
}

// Close ends the conversation.
func (t *Talk) Close() { t.stream.Reset() }

// netKind is the kind of what went wrong between two peers.
func netKind(ctx context.Context, err error) cellproto.Kind {
	var e *cellproto.Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case ctx.Err() != nil:
		return cellproto.KindOf(ctx.Err())
	case isNoDonor(err):
		return cellproto.Unsupported
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return cellproto.Timeout
	}
	return cellproto.Unavailable
}
