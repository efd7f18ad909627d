package gossip

import (
	"encoding/binary"
	"io"

	"github.com/celldnet/celld/cellproto"
)

// The protocol /cell/ledger/1. A message is one byte of type, a big-endian u16 length, and as many bytes.
// One side opens a stream, sends one bill, pull or head, and reads the answer; then the stream ends.
//
//	1 bill     a receipt that its provider has signed; then, or not, the newest receipt of the same register
//	           that the consumer has signed. Each is preceded by its big-endian u16 length.
//	2 receipt  the answer to a bill: a receipt with the consumer's signature. Of the bill, or a newer one.
//	3 refusal  the answer to a bill that is not signed: a kind of error in one byte, then text.
//	4 pull     u64: what the other side has published from this number on is wanted
//	5 entry    the answer to a pull: one entry, or a fork proof. Any number of them, 256 KiB in all.
//	6 end      u64: the number to pull from next time; after a log, how long it is
//	7 log      the key of an identity and u64: the entries of its key log from this one on are wanted, then its
//	           cheques. Answered by any number of 5, 256 KiB in all, and 6.
//	8 head     how far the sender has numbered its publications, signed; to those who have pulled from it. No answer
//	9 join     the key of an account: which hosts of the other side agree to belong to it is wanted. Answered by any
//	           number of 10, at most 64, and 6, or by 3.
//	10 consent the key of a host, u64 (ms since 1970, when it ends), the host's signature, the name of its cell
const (
	msgBill    = 1
	msgReceipt = 2
	msgRefusal = 3
	msgPull    = 4
	msgEntry   = 5
	msgEnd     = 6
	msgLog     = 7
	msgHead    = 8
	msgJoin    = 9
	msgConsent = 10
)

// Limits, in bytes. MaxProof of ledger is the largest entry.
const (
	maxBill    = 2 * (2 + cellproto.MaxLedgerEntry)
	maxRefusal = 256
	maxPull    = 256 << 10 // of an answer
	maxProof   = 4 << 10
	maxHead    = 256
)

// limits are the bytes that a message of each type may have.
var limits = [...]int{
	msgBill: maxBill, msgReceipt: cellproto.MaxLedgerEntry, msgRefusal: 1 + maxRefusal, msgPull: 8, msgEntry: maxProof, msgEnd: 8,
	msgLog: 32 + 8, msgHead: maxHead, msgJoin: 32, msgConsent: consentHead + maxName,
}

// message is one message.
type message struct {
	kind byte
	body []byte
}

// readMessage reads a message of one of the types. Kinds: Unavailable when it does not arrive, BadInput,
// TooLarge.
func readMessage(r io.Reader, types ...byte) (message, error) {
	const op = "read ledger message"
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	kind, n := head[0], int(binary.BigEndian.Uint16(head[1:]))
	wanted := false
	for _, t := range types {
		wanted = wanted || t == kind
	}
	if !wanted {
		return message{}, cellproto.Errorf(op, cellproto.BadInput, "a message of type %d is not what was expected", kind)
	}
	if n > limits[kind] {
		return message{}, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit for type %d is %d", n, kind, limits[kind])
	}
	m := message{kind, make([]byte, n)}
	if _, err := io.ReadFull(r, m.body); err != nil {
		return message{}, cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	return m, nil
}

func appendMessage(b []byte, kind byte, body []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body))) // callers keep to limits
	return append(b, body...)
}

// number reads the one number of a pull or an end.
func (m message) number() (uint64, error) {
	if len(m.body) != 8 {
		return 0, cellproto.Errorf("read ledger message", cellproto.BadInput, "a number has 8 bytes, not %d", len(m.body))
	}
	return binary.BigEndian.Uint64(m.body), nil
}

func numbered(kind byte, n uint64) []byte {
	return appendMessage(nil, kind, binary.BigEndian.AppendUint64(nil, n))
}

// packBill writes a bill and the receipt before it, which may be nil.
func packBill(bill, before []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(bill)))
	body = append(body, bill...)
	if before != nil {
		body = binary.BigEndian.AppendUint16(body, uint16(len(before)))
		body = append(body, before...)
	}
	return appendMessage(nil, msgBill, body)
}

// unpackBill reads the body of a bill.
func unpackBill(body []byte) (bill, before []byte, err error) {
	next := func() ([]byte, bool) {
		if len(body) < 2 {
			return nil, false
		}
		n := int(binary.BigEndian.Uint16(body))
		if n == 0 || n > cellproto.MaxLedgerEntry || n > len(body)-2 {
			return nil, false
		}
		var e []byte
		e, body = body[2:2+n:2+n], body[2+n:]
		return e, true
	}
	bill, ok := next()
	if ok && len(body) > 0 {
		before, ok = next()
	}
	if !ok || len(body) > 0 {
		return nil, nil, cellproto.Errorf("read bill", cellproto.BadInput, "it is not one or two receipts")
	}
	return bill, before, nil
}
