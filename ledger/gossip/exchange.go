package gossip

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

const (
	timeout   = 20 * time.Second // for a whole exchange, on either side
	lingering = 2 * time.Second  // for a peer to read why its bill is not signed
)

// KeyOf gives the key of a host as the ledger has it. Kind: Unsupported for a host without an Ed25519 key.
func KeyOf(p peer.ID) (k ledger.Key, err error) {
	pub, err := p.ExtractPublicKey()
	if err == nil {
		var raw []byte
		if raw, err = pub.Raw(); err == nil && len(raw) == len(k) {
			return ledger.Key(raw), nil
		}
	}
	return k, cellproto.Errorf("read key of "+p.String(), cellproto.Unsupported, "the ledger knows hosts by Ed25519 keys")
}

// Bill has a consumer sign what it has used: bill is signed by this host, before is the newest receipt of
// the register with the consumer's signature that this host has, or nil. It gives the receipt that the
// consumer answers with, of which nothing is checked. An error that the consumer has sent is *Refusal.
func Bill(ctx context.Context, h host.Host, to peer.ID, bill, before []byte) (receipt []byte, err error) {
	err = exchange(ctx, h, to, packBill(bill, before), func(r io.Reader) error {
		m, err := readMessage(r, msgReceipt, msgRefusal)
		if err != nil {
			return err
		}
		if m.kind == msgRefusal {
			return refusalOf(m.body)
		}
		receipt = m.body
		return nil
	})
	return receipt, err
}

// Refusal is why a consumer does not sign.
type Refusal struct {
	Kind cellproto.Kind
	Text string
}

// Error gives the consumer's own words, without what could drive a terminal.
func (r *Refusal) Error() string { return r.Text }

func harmless(r rune) rune {
	if cellproto.Unprintable(r) {
		return '?'
	}
	return r
}

func refusal(err error) []byte {
	text := err.Error()
	return appendMessage(nil, msgRefusal, append([]byte{byte(cellproto.KindOf(err))}, text[:min(len(text), maxRefusal)]...))
}

func refusalOf(body []byte) error {
	if len(body) == 0 || body[0] == 0 {
		return cellproto.Errorf("read refusal", cellproto.BadInput, "it has no kind of error")
	}
	return &Refusal{cellproto.Kind(body[0]), strings.ToValidUTF8(strings.Map(harmless, string(body[1:])), "?")}
}

// Pull gives what a peer has published from a number on, and the number to pull from next time. The entries are
// as they came.
func Pull(ctx context.Context, h host.Host, from peer.ID, at uint64) (list [][]byte, next uint64, err error) {
	err = exchange(ctx, h, from, numbered(msgPull, at), func(r io.Reader) (err error) {
		list, next, err = entries(r)
		return err
	})
	return list, next, err
}

// tell sends a head, to which there is no answer.
func tell(ctx context.Context, h host.Host, to peer.ID, head []byte) error {
	return exchange(ctx, h, to, appendMessage(nil, msgHead, head), func(io.Reader) error { return nil })
}

// entries reads the answer to a pull or a log, and the number at its end.
func entries(r io.Reader) (list [][]byte, end uint64, err error) {
	for size := 0; ; {
		m, err := readMessage(r, msgEntry, msgEnd)
		if err != nil {
			return list, 0, err
		}
		if m.kind == msgEnd {
			end, err = m.number()
			return list, end, err
		}
		if size += len(m.body); size > maxPull {
			return list, 0, cellproto.Errorf("read entries", cellproto.TooLarge, "more than %d bytes", maxPull)
		}
		list = append(list, m.body)
	}
}

// exchange sends a request on a stream of its own and has read read the answer.
func exchange(ctx context.Context, h host.Host, to peer.ID, request []byte, read func(io.Reader) error) error {
	op := "ask " + to.String() + " about the ledger"
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := h.NewStream(network.WithAllowLimitedConn(network.WithNoDial(ctx, "ledger"), "ledger"), to, cellproto.ProtocolLedger)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	if _, err := s.Write(request); err != nil {
		s.Reset()
		return cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	if err := read(s); err != nil {
		s.Reset()
		return err
	}
	return s.Close()
}

// Signer signs for what this host has used.
type Signer interface {
	// Sign takes a bill of a peer, with what that has of this host's signatures, and gives the receipt to
	// answer with. The error is told to the peer.
	Sign(from ledger.Key, bill, before []byte) (receipt []byte, err error)
}

// Books is what a stream of the protocol is answered from.
type Books interface {
	Signer
	// Since gives entries that were published from a number on, at most maxPull bytes of them, and the number
	// that comes next.
	Since(from uint64) (entries [][]byte, next uint64)
	// Head takes a peer's word on how far it has numbered what it publishes.
	Head(from ledger.Key, head []byte) error
	KeyLogs
	// Consents gives which hosts of this machine agree to belong to an account. The error is told to the peer.
	Consents(account ledger.Key) ([]*ledger.Delegate, error)
}

// Serve answers one stream. The error says what was wrong with it; what the peer is to blame for has the
// kind TooLarge or BadInput.
func Serve(s network.Stream, books Books) error {
	if err := s.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	m, err := readMessage(s, msgBill, msgPull, msgLog, msgHead, msgJoin)
	if err != nil {
		return err
	}
	switch m.kind {
	case msgPull:
		return servePull(s, m, books)
	case msgLog:
		return serveLog(s, m, books)
	case msgJoin:
		err := serveJoin(s, m, books.Consents)
		if err != nil {
			awaitEnd(s)
		}
		return err
	}
	from, err := KeyOf(s.Conn().RemotePeer())
	if err != nil {
		return err
	}
	if m.kind == msgHead {
		return books.Head(from, m.body)
	}
	bill, before, err := unpackBill(m.body)
	if err != nil {
		return err
	}
	receipt, serr := books.Sign(from, bill, before)
	answer := appendMessage(nil, msgReceipt, receipt)
	if serr != nil {
		answer = refusal(serr)
	}
	if _, err := s.Write(answer); err != nil {
		return err
	}
	if serr != nil {
		awaitEnd(s)
	}
	return serr
}

// awaitEnd returns when the peer has ended the stream, which it does once it has read the answer, or after lingering.
// Whoever gets an error from Serve resets the stream, and a reset takes with it what was not read yet.
func awaitEnd(s network.Stream) {
	_ = s.SetReadDeadline(time.Now().Add(lingering)) // fails on a stream that has ended
	_ = s.CloseWrite()
	_, _ = s.Read(make([]byte, 1))
}

func servePull(w io.Writer, m message, books Books) error {
	from, err := m.number()
	if err != nil {
		return err
	}
	list, next := books.Since(from)
	return writeEntries(w, list, next)
}

func writeEntries(w io.Writer, list [][]byte, end uint64) error {
	var answer []byte
	for _, e := range list {
		answer = appendMessage(answer, msgEntry, e)
	}
	_, err := w.Write(append(answer, numbered(msgEnd, end)...))
	return err
}
