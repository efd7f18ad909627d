package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// version is the first field of every entry.
const version = 1

// The kinds of entry: the second field.
const (
	kindReceipt = 1
	kindCheque  = 2
	kindKey     = 3
)

// Limits on the numbers in an entry. Sums of many stay far from where an unsigned integer turns over.
const (
	maxCredit = 1 << 53   // µWh: nine terawatt hours
	maxMeter  = 1<<63 - 1 // of any unit
)

var (
	encMode = must(encOptions().UserBufferEncMode())
	decMode = must(decOptions().DecMode())
)

func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.BinaryMarshaler = cbor.BinaryMarshalerNone
	return o
}

func decOptions() cbor.DecOptions {
	return cbor.DecOptions{
		IndefLength:       cbor.IndefLengthForbidden,
		MaxNestedLevels:   6, // the deepest is proof, chain, entry, body, payload, list
		MaxArrayElements:  64,
		MaxMapPairs:       16, // there are none; 16 is the least that the library takes
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		BinaryUnmarshaler: cbor.BinaryUnmarshalerNone,
	}
}

// must is for options that are constants: they work or no test passes.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encode gives the one canonical form of v.
func encode(v any) ([]byte, error) {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if err := encMode.MarshalToBuffer(v, buf); err != nil {
		return nil, err
	}
	return bytes.Clone(buf.Bytes()), nil
}

// decode reads an entry into v and refuses it when v in canonical form has other bytes. That closes
// what a decoder lets pass: numbers and lengths in more bytes than needed, byte strings of the wrong
// length, null for a number, other floats and simple values.
func decode(op string, data []byte, v any) error {
	if err := unmarshal(op, data, v); err != nil {
		return err
	}
	return canonical(op, data, v)
}

// unmarshal is decode without asking for the one form.
func unmarshal(op string, data []byte, v any) error {
	if len(data) > cellproto.MaxLedgerEntry {
		return cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), cellproto.MaxLedgerEntry)
	}
	return unlimited(op, data, v)
}

func unlimited(op string, data []byte, v any) error {
	if err := decMode.Unmarshal(data, v); err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return nil
}

var errNotCanonical = errors.New("not canonical CBOR")

func notCanonical(op string) error {
	return cellproto.Errorf(op, cellproto.BadInput, "%w", errNotCanonical)
}

// canonical says whether v, encoded, is data.
func canonical(op string, data []byte, v any) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if err := encMode.MarshalToBuffer(v, buf); err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if !bytes.Equal(buf.Bytes(), data) {
		return notCanonical(op)
	}
	return nil
}

// checkHead says whether this program can read an entry, once it is decoded. Unsupported means that a
// later version wrote it, which is no fault of who sent it.
func checkHead(op string, v, kind, want uint8) error {
	if v > version {
		return cellproto.Errorf(op, cellproto.Unsupported, "version %d of an entry, this program knows %d", v, version).
			WithHint("Upgrade celld.")
	}
	if v != version || kind != want {
		return cellproto.Errorf(op, cellproto.BadInput, "version %d and kind %d, not %d and %d", v, kind, version, want)
	}
	return nil
}

// peek reads version and kind from the first bytes of an entry: an array that begins with an array
// that begins with two small numbers. Later versions may have more fields, so that is all it asks.
func peek(data []byte) (v, kind uint8, ok bool) {
	const array, long = 0x80, 0x98
	if len(data) < 5 || data[0] < array+1 || data[0] >= long {
		return 0, 0, false
	}
	rest := data[1:]
	switch {
	case rest[0] == long:
		rest = rest[2:]
	case rest[0] >= array+2 && rest[0] < long:
		rest = rest[1:]
	default:
		return 0, 0, false
	}
	if len(rest) < 2 || rest[0] > 0x17 || rest[1] > 0x17 {
		return 0, 0, false
	}
	return rest[0], rest[1], true
}

// refuseLater gives the error for an entry of a version that this program does not know, of which
// nothing else may be known.
func refuseLater(op string, data []byte) error {
	if v, kind, ok := peek(data); ok && v > version {
		return checkHead(op, v, kind, kind)
	}
	return nil
}

// bodyID gives the identity of a body: a signature is not part of it, so that a body signed twice is one.
func bodyID(body []byte) Hash { return sha256.Sum256(body) }

// optional is a signature that may be absent: a byte string of 64 bytes, or null.
type optional []byte

// size is that of its CBOR.
func (o optional) size() int {
	if o == nil {
		return 1
	}
	return 2 + len(o)
}

func (o optional) valid() bool { return o == nil || len(o) == len(Signature{}) }

// appendUint and appendBytes write canonical CBOR, for the entry of which there are most: the library
// takes as long for a receipt as a tenth of its signature. A test holds the two against each other.
func appendUint(b []byte, n uint64) []byte { return appendHead(b, 0, n) }

func appendBytes(b, data []byte) []byte {
	const byteString = 2 << 5
	return append(appendHead(b, byteString, uint64(len(data))), data...)
}

func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}
