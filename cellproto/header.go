package cellproto

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// Codec says how a payload is encoded.
type Codec uint8

// The payload codecs.
const (
	Raw  Codec = 0
	JSON Codec = 1
	CBOR Codec = 2
)

// Header is the optional map of a frame. On the wire it is a canonical CBOR map (RFC 8949, 4.2.1)
// with the keys below; fields that are zero are left out. It has a codec of its own, since it is
// read and written twice for each relayed call: a test compares it with fxamacker/cbor.
type Header struct {
	Func       string            // 1: function's name (<= 128 bytes)
	FuncNum    uint32            // 1: or its number, 1 + its index in the receiver's hello
	To         string            // 2: target of a call through the nucleus (<= 512 bytes)
	Budget     time.Duration     // 3: µs left until the caller's deadline; 0: none
	Token      []byte            // 4: <= 1 KiB
	Trace      []byte            // 5: W3C traceparent (<= 64 bytes)
	Key        []byte            // 6: idempotency key (<= 64 bytes)
	Meta       map[string]string // 7: <= 16 entries, keys <= 64 and values <= 512 bytes; not to be written to in a frame that was read
	Kind       Kind              // 8: of an error reply
	RetryAfter time.Duration     // 9: ms, with kind Overloaded
	Codec      Codec             // 10: of the payload
	Hint       string            // 11: what to try, with an error (<= 512 bytes)
}

const (
	maxTo        = 512
	maxTrace     = 64
	maxKey       = 64
	maxMeta      = 16
	maxMetaKey   = 64
	maxMetaValue = 512
	maxHint      = 512
)

func (h *Header) fields() int {
	n := 0
	for _, set := range [...]bool{
		h.Func != "" || h.FuncNum != 0, h.To != "", h.Budget != 0, len(h.Token) > 0, len(h.Trace) > 0,
		len(h.Key) > 0, len(h.Meta) > 0, h.Kind != 0, h.RetryAfter != 0, h.Codec != 0, h.Hint != "",
	} {
		if set {
			n++
		}
	}
	return n
}

// check says whether the peer will take h. The limits are those of the fields' comments.
func (h *Header) check() error {
	bad := func(format string, args ...any) error { return Errorf("write frame header", BadInput, format, args...) }
	for _, text := range [...]struct {
		name  string
		value string
		limit int
	}{{"function", h.Func, MaxFuncName}, {"to", h.To, maxTo}, {"hint", h.Hint, maxHint}} {
		if len(text.value) > text.limit {
			return bad("%s of %d bytes, the limit is %d", text.name, len(text.value), text.limit)
		}
		if !utf8.ValidString(text.value) {
			return bad("%s is not UTF-8", text.name)
		}
	}
	switch {
	case len(h.Token) > MaxToken, len(h.Trace) > maxTrace, len(h.Key) > maxKey:
		return bad("token of %d bytes, trace of %d or idempotency key of %d, the limits are %d, %d and %d",
			len(h.Token), len(h.Trace), len(h.Key), MaxToken, maxTrace, maxKey)
	case h.FuncNum > MaxFunctions || h.Codec > CBOR:
		return bad("function number %d or codec %d", h.FuncNum, h.Codec)
	case len(h.Meta) > maxMeta:
		return bad("meta of %d entries, the limit is %d", len(h.Meta), maxMeta)
	}
	for k, v := range h.Meta {
		if k == "" || len(k) > maxMetaKey || len(v) > maxMetaValue || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return bad("meta %.80q: keys have 1 to %d bytes, values at most %d, of UTF-8", k, maxMetaKey, maxMetaValue)
		}
	}
	return nil
}

const (
	cborUint  = 0 << 5
	cborBytes = 2 << 5
	cborText  = 3 << 5
	cborMap   = 5 << 5
)

// appendTo appends h as a canonical map of n entries.
func (h *Header) appendTo(b []byte, n int) []byte {
	b = append(b, cborMap|byte(n))
	switch {
	case h.FuncNum != 0:
		b = appendHead(append(b, 1), cborUint, uint64(h.FuncNum))
	case h.Func != "":
		b = appendText(append(b, 1), h.Func)
	}
	if h.To != "" {
		b = appendText(append(b, 2), h.To)
	}
	if h.Budget != 0 {
		b = appendHead(append(b, 3), cborUint, uint64(max(h.Budget.Microseconds(), 1)))
	}
	b = appendBytesField(b, 4, h.Token)
	b = appendBytesField(b, 5, h.Trace)
	b = appendBytesField(b, 6, h.Key)
	if len(h.Meta) > 0 {
		b = appendMeta(append(b, 7), h.Meta)
	}
	if h.Kind != 0 {
		b = appendHead(append(b, 8), cborUint, uint64(h.Kind))
	}
	if h.RetryAfter != 0 {
		b = appendHead(append(b, 9), cborUint, uint64(max(h.RetryAfter.Milliseconds(), 1)))
	}
	if h.Codec != 0 {
		b = appendHead(append(b, 10), cborUint, uint64(h.Codec))
	}
	if h.Hint != "" {
		b = appendText(append(b, 11), h.Hint)
	}
	return b
}

func appendHead(b []byte, major byte, v uint64) []byte {
	switch {
	case v < 24:
		return append(b, major|byte(v))
	case v <= math.MaxUint8:
		return append(b, major|24, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), v)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, cborText, uint64(len(s))), s...)
}

func appendBytesField(b []byte, key byte, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return append(appendHead(append(b, key), cborBytes, uint64(len(v))), v...)
}

// appendMeta writes the entries in canonical order: shorter keys first, then bytewise.
func appendMeta(b []byte, meta map[string]string) []byte {
	if len(meta) == 1 {
		for k, v := range meta {
			return appendText(appendText(append(b, cborMap|1), k), v)
		}
	}
	keys := make([]string, 0, len(meta))
	for k := range meta {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareKeys)
	b = appendHead(b, cborMap, uint64(len(keys)))
	for _, k := range keys {
		b = appendText(appendText(b, k), meta[k])
	}
	return b
}

func compareKeys(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// headerReader reads canonical CBOR; the first error sticks.
type headerReader struct {
	data []byte
	err  error
	last *lastMeta // nil: each meta is read
}

// lastMeta is what meta was read last on a connection. Most calls of one caller have the same: it is read once,
// and shared.
type lastMeta struct {
	wire []byte // as it came; empty: none did
	meta map[string]string
}

func (r *headerReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = Errorf("read frame header", BadInput, format, args...)
	}
}

// head reads the initial byte and the argument of an item and insists on the shortest form.
func (r *headerReader) head() (major byte, v uint64) {
	if r.err != nil {
		return 0, 0
	}
	if len(r.data) == 0 {
		r.fail("cut short")
		return 0, 0
	}
	major, info := r.data[0]&0xe0, r.data[0]&0x1f
	r.data = r.data[1:]
	if info < 24 {
		return major, uint64(info)
	}
	if info > 27 {
		r.fail("indefinite or reserved length")
		return 0, 0
	}
	size := 1 << (info - 24)
	if len(r.data) < size {
		r.fail("cut short")
		return 0, 0
	}
	for _, c := range r.data[:size] {
		v = v<<8 | uint64(c)
	}
	r.data = r.data[size:]
	least := [...]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]
	if v < least {
		r.fail("number not in its shortest form")
	}
	return major, v
}

func (r *headerReader) uint(name string, limit uint64) uint64 {
	major, v := r.head()
	if r.err == nil && major != cborUint {
		r.fail("%s is not an unsigned number", name)
	}
	if r.err == nil && (v == 0 || v > limit) {
		r.fail("%s is %d, allowed are 1 to %d", name, v, limit)
	}
	return v
}

// bytes reads a byte or text string of least to limit bytes; it aliases the input.
func (r *headerReader) bytes(name string, major byte, least, limit int) []byte {
	got, n := r.head()
	if r.err == nil && got != major {
		r.fail("%s has the wrong type", name)
	}
	if r.err == nil && (n < uint64(least) || n > uint64(limit)) {
		r.fail("%s has %d bytes, allowed are %d to %d", name, n, least, limit)
	}
	if r.err == nil && uint64(len(r.data)) < n {
		r.fail("cut short")
	}
	if r.err != nil {
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	if major == cborText && !utf8.Valid(b) {
		r.fail("%s is not UTF-8", name)
	}
	return b
}

func (r *headerReader) meta() map[string]string {
	last := r.last
	if last == nil {
		return r.readMeta()
	}
	// No item begins with another one: what has it as its beginning is it.
	if len(last.wire) > 0 && bytes.HasPrefix(r.data, last.wire) {
		r.data = r.data[len(last.wire):]
		return last.meta
	}
	from := r.data
	meta := r.readMeta()
	if r.err == nil {
		last.wire, last.meta = append(last.wire[:0], from[:len(from)-len(r.data)]...), meta
	}
	return meta
}

func (r *headerReader) readMeta() map[string]string {
	major, n := r.head()
	if r.err == nil && (major != cborMap || n == 0 || n > maxMeta) {
		r.fail("meta is not a map of 1 to %d entries", maxMeta)
	}
	if r.err != nil {
		return nil
	}
	meta := make(map[string]string, n)
	last := ""
	for range n {
		k := string(r.bytes("a key of meta", cborText, 1, maxMetaKey))
		if r.err == nil && last != "" && compareKeys(last, k) >= 0 {
			r.fail("keys of meta are not in order")
		}
		meta[k], last = string(r.bytes("a value of meta", cborText, 0, maxMetaValue)), k
		if r.err != nil {
			return nil
		}
	}
	return meta
}

// parse reads a header map into h, which is zero. Its byte fields alias data. meta is the connection's, or nil.
func (h *Header) parse(data []byte, meta *lastMeta) error {
	r := headerReader{data: data, last: meta}
	major, n := r.head()
	if r.err == nil && (major != cborMap || n == 0 || n > 11) {
		r.fail("not a map of 1 to 11 entries")
	}
	last := uint64(0)
	for i := uint64(0); i < n && r.err == nil; i++ {
		key := r.uint("a key", 11)
		if r.err == nil && key <= last {
			r.fail("keys are not in order")
		}
		last = key
		if r.err == nil {
			h.parseField(&r, key)
		}
	}
	if r.err == nil && len(r.data) > 0 {
		r.fail("%d bytes after the map", len(r.data))
	}
	return r.err
}

func (h *Header) parseField(r *headerReader, key uint64) {
	switch key {
	case 1:
		if len(r.data) > 0 && r.data[0]&0xe0 == cborUint {
			h.FuncNum = uint32(r.uint("function", MaxFunctions))
		} else {
			h.Func = string(r.bytes("function", cborText, 1, MaxFuncName))
		}
	case 2:
		h.To = string(r.bytes("to", cborText, 1, maxTo))
	case 3:
		h.Budget = time.Duration(r.uint("budget", uint64(math.MaxInt64/time.Microsecond))) * time.Microsecond
	case 4:
		h.Token = r.bytes("token", cborBytes, 1, MaxToken)
	case 5:
		h.Trace = r.bytes("trace", cborBytes, 1, maxTrace)
	case 6:
		h.Key = r.bytes("idempotency key", cborBytes, 1, maxKey)
	case 7:
		h.Meta = r.meta()
	case 8:
		h.Kind = Kind(r.uint("error kind", math.MaxUint8))
	case 9:
		h.RetryAfter = time.Duration(r.uint("retry-after", uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
	case 10:
		h.Codec = Codec(r.uint("codec", uint64(CBOR)))
	case 11:
		h.Hint = string(r.bytes("hint", cborText, 1, maxHint))
	}
}
