package patch

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
)

// Suffix ends the name of a patch's file.
const Suffix = ".patch"

const (
	version = 1
	// skippable begins the frame with the header: one of the sixteen numbers that RFC 8878, 3.1.2,
	// leaves to applications.
	skippable = 0x184D2A5C
	// frameHead is the size of that number and the length of the header, both little-endian.
	frameHead = 8
	// maxInt is the largest integer, as in all signed objects.
	maxInt = 1<<53 - 1

	// What the signature is over, as that of a libp2p envelope (libp2p specification, RFC 0002).
	domain      = "cell/patch/1"
	payloadType = "/cell/patch"
)

// Hash is a BLAKE3-256. In CBOR it is 32 bytes, in JSON 64 hexadecimal digits.
type Hash [32]byte

// Sum is a function that gives the BLAKE3-256 of data. cellproto.BLAKE3 is one; for whole programs a
// nucleus has a faster one, which would slow the start of everybody else that links it.
type Sum func(data []byte) [32]byte

// String gives lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short gives the first digits, for people.
func (h Hash) Short() string { return hex.EncodeToString(h[:4]) }

// MarshalText is String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is the inverse of String; it takes lower-case digits only.
func (h *Hash) UnmarshalText(text []byte) error {
	parsed, err := cellproto.ParseSchemaHash(string(text))
	*h = Hash(parsed)
	return err
}

// Header is what a patch says of itself. All of it is under the signature.
type Header struct {
	Base       Hash      // of the program that it is for
	BaseSize   int64     // bytes, at least 1
	Result     Hash      // of the program that it makes; another one than Base
	ResultSize int64     // bytes, at least 1
	Delta      Hash      // of the bytes after the header
	DeltaSize  int64     // bytes, at least 1
	Created    time.Time // whole ms
	Signer     Key       // who signed; set by ReadHeader
}

type body struct {
	V          uint64 `cbor:"v"`
	Base       Hash   `cbor:"base"`
	Delta      Hash   `cbor:"delta"`
	Result     Hash   `cbor:"result"`
	Created    int64  `cbor:"created"`
	BaseSize   int64  `cbor:"base_size"`
	DeltaSize  int64  `cbor:"delta_size"`
	ResultSize int64  `cbor:"result_size"`
}

// envelope has the form of a manifest's block: the body, the libp2p public key protobuf, and the
// signature over the envelope preimage of the body's bytes.
type envelope struct {
	Body cbor.RawMessage `cbor:"body"`
	Key  []byte          `cbor:"key"`
	Sig  []byte          `cbor:"sig"`
}

func (h Header) body() body {
	return body{
		V: version, Base: h.Base, Delta: h.Delta, Result: h.Result, Created: h.Created.UnixMilli(),
		BaseSize: h.BaseSize, DeltaSize: h.DeltaSize, ResultSize: h.ResultSize,
	}
}

// Make gives the patch that turns the program base into result by delta (see cellproto/patch/delta),
// signed with key. Kinds: TooLarge past a limit of cellproto, BadInput for programs that are empty or
// the same.
func Make(base, result, delta []byte, created time.Time, key ed25519.PrivateKey) ([]byte, error) {
	h := Header{
		Base: cellproto.BLAKE3(base), BaseSize: int64(len(base)), Result: cellproto.BLAKE3(result), ResultSize: int64(len(result)),
		Delta: cellproto.BLAKE3(delta), DeltaSize: int64(len(delta)), Created: created,
	}
	head, err := h.Seal(key)
	if err != nil {
		return nil, err
	}
	return append(head, delta...), nil
}

// ReadProgram reads a program's file whole; TooLarge past cellproto.MaxPatchProgram.
func ReadProgram(path string) ([]byte, error) {
	op := "read " + path
	f, err := os.Open(path)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, cellproto.MaxPatchProgram+1))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if len(data) > cellproto.MaxPatchProgram {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "the program has more than %d bytes", cellproto.MaxPatchProgram)
	}
	return data, nil
}

// Seal gives the skippable frame with the signed header, which the delta follows. Kinds: BadInput and
// TooLarge for fields that are out of bounds.
func (h Header) Seal(key ed25519.PrivateKey) ([]byte, error) {
	const op = "seal patch"
	b := h.body()
	if err := b.check(op); err != nil {
		return nil, err
	}
	raw, err := encMode.Marshal(b)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	public := PublicKey(key)
	block, err := encMode.Marshal(envelope{Body: raw, Key: public.marshal(), Sig: ed25519.Sign(key, preimage(raw))})
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	out := binary.LittleEndian.AppendUint32(nil, skippable)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(block)))
	return append(out, block...), nil
}

// CheckDelta says whether delta, the bytes after the header, are those that were signed; Corrupt if not.
func (h *Header) CheckDelta(delta []byte) error {
	if int64(len(delta)) != h.DeltaSize || cellproto.BLAKE3(delta) != h.Delta {
		return cellproto.Errorf("read patch", cellproto.Corrupt, "its delta is not the one that was signed")
	}
	return nil
}

// ReadHeader reads the header of a patch of size bytes from its beginning, checks the signature, and
// leaves r at the delta. It believes nobody: that Signer is trusted is for the caller to check. Kinds:
// TooLarge past a limit of cellproto, BadInput for what is malformed or not all there, Unsupported for
// a later version, Corrupt for a false signature.
func ReadHeader(r io.Reader, size int64) (*Header, error) {
	const op = "read patch"
	bad := func(format string, args ...any) error {
		return cellproto.Errorf(op, cellproto.BadInput, format, args...)
	}
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, unread(op, err)
	}
	if got := binary.LittleEndian.Uint32(head[:4]); got != skippable {
		return nil, bad("this is no patch: it begins with %x", head[:4])
	}
	length := binary.LittleEndian.Uint32(head[4:])
	if length > cellproto.MaxPatchHeader {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "a header of %d bytes, the limit is %d", length, cellproto.MaxPatchHeader)
	}
	block := make([]byte, length)
	if _, err := io.ReadFull(r, block); err != nil {
		return nil, unread(op, err)
	}
	h, err := open(op, block)
	if err != nil {
		return nil, err
	}
	whole := frameHead + int64(length) + h.DeltaSize
	switch {
	case size < whole:
		return nil, bad("it is not all there: %d of %d bytes", size, whole)
	case size > whole:
		return nil, bad("%d bytes follow its end", size-whole)
	}
	return h, nil
}

func unread(op string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return cellproto.Errorf(op, cellproto.BadInput, "it is not all there: it ends within its header")
	}
	return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
}

// open checks the signature before anything that is signed.
func open(op string, block []byte) (*Header, error) {
	var e envelope
	if err := decodeCanonical(op, block, &e); err != nil {
		return nil, err
	}
	signer, err := unmarshalKey(e.Key)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the key: %w", err)
	}
	if len(e.Sig) != ed25519.SignatureSize || !ed25519.Verify(signer[:], preimage(e.Body), e.Sig) {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the signature is false")
	}
	var b body
	if err := decode(op, e.Body, &b); err != nil {
		return nil, err
	}
	if err := b.check(op); err != nil {
		return nil, err
	}
	return &Header{
		Base: b.Base, BaseSize: b.BaseSize, Result: b.Result, ResultSize: b.ResultSize, Delta: b.Delta, DeltaSize: b.DeltaSize,
		Created: time.UnixMilli(b.Created), Signer: signer,
	}, nil
}

func (b body) check(op string) error {
	for _, f := range []struct {
		name  string
		value int64
		limit int64
	}{
		{"base_size", b.BaseSize, cellproto.MaxPatchProgram},
		{"result_size", b.ResultSize, cellproto.MaxPatchProgram},
		{"delta_size", b.DeltaSize, cellproto.MaxPatchDelta},
		{"created", b.Created, maxInt},
	} {
		switch {
		case f.value < 1:
			return cellproto.Errorf(op, cellproto.BadInput, "%s is %d", f.name, f.value)
		case f.value > f.limit:
			return cellproto.Errorf(op, cellproto.TooLarge, "%s is %d, the limit is %d", f.name, f.value, f.limit)
		}
	}
	switch {
	case b.V != version:
		return cellproto.Errorf(op, cellproto.BadInput, "version %d is not %d", b.V, version)
	case b.Base == b.Result:
		return cellproto.Errorf(op, cellproto.BadInput, "it changes nothing: base and result are one program")
	}
	return nil
}

// preimage is what is signed: domain, payload type and body, each after its length as an unsigned varint.
func preimage(body []byte) []byte {
	out := append(binary.AppendUvarint(nil, uint64(len(domain))), domain...)
	out = append(binary.AppendUvarint(out, uint64(len(payloadType))), payloadType...)
	return append(binary.AppendUvarint(out, uint64(len(body))), body...)
}

var (
	encMode  = must(cbor.CoreDetEncOptions().EncMode())
	decMode  = must(decOptions(cbor.ExtraDecErrorUnknownField).DecMode())
	peekMode = must(decOptions(cbor.ExtraDecErrorNone).DecMode())
)

func decOptions(extra cbor.ExtraDecErrorCond) cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 4,
		MaxArrayElements: 16, MaxMapPairs: 16, ExtraReturnErrors: extra,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, UTF8: cbor.UTF8RejectInvalid,
	}
}

// must is for options that are constants: they work or no test passes.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// decode reads a body of which the signature has been checked.
func decode(op string, data []byte, into *body) error {
	var peek struct {
		V uint64 `cbor:"v"`
	}
	if peekMode.Unmarshal(data, &peek) == nil && peek.V > version {
		return cellproto.Errorf(op, cellproto.Unsupported, "version %d of a patch, this program knows %d", peek.V, version).
			WithHint("Upgrade celld.")
	}
	return decodeCanonical(op, data, into)
}

// decodeCanonical refuses what encodes to other bytes again: a field that is missing or null, a number
// in more bytes than needed, keys in another order, a hash of the wrong length.
func decodeCanonical(op string, data []byte, into any) error {
	err := decMode.Unmarshal(data, into)
	if err == nil {
		var again []byte
		if again, err = encMode.Marshal(into); err == nil && !bytes.Equal(again, data) {
			err = fmt.Errorf("not canonical CBOR with all fields")
		}
	}
	if err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "its header: %w", err)
	}
	return nil
}
