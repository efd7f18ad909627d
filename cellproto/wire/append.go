package wire

import (
	"encoding/binary"
	"math"
	"sync"
	"time"
)

// The major types of CBOR (RFC 8949, 3.1).
const (
	majorUint   = 0
	majorNegint = 1
	majorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorSimple = 7
)

// Simple values and floats, as the low five bits of their first byte.
const (
	simpleFalse     = 20
	simpleTrue      = 21
	simpleNull      = 22
	simpleUndefined = 23
	float16         = 25
	float32bits     = 26
	float64bits     = 27
)

func appendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// Writer takes the arguments of one call. The first error stays.
type Writer struct {
	B   []byte
	Err error
}

const (
	firstSize = 512      // bytes of a fresh writer
	maxPooled = 64 << 10 // bytes; a larger buffer is let go
)

var writers = sync.Pool{New: func() any { return &Writer{B: make([]byte, 0, firstSize)} }}

// GetWriter gives an empty writer.
func GetWriter() *Writer { return writers.Get().(*Writer) }

// Free says that nobody uses the writer or its bytes any more.
func (w *Writer) Free() {
	if cap(w.B) <= maxPooled {
		w.B, w.Err = w.B[:0], nil
		writers.Put(w)
	}
}

// Lit appends bytes that are CBOR already: keys, which do not change.
func (w *Writer) Lit(s string) { w.B = append(w.B, s...) }

// Map begins a map of n pairs: a key and a value each.
func (w *Writer) Map(n int) { w.B = appendHead(w.B, majorMap, uint64(n)) }

// Array begins a list of n values.
func (w *Writer) Array(n int) { w.B = appendHead(w.B, majorArray, uint64(n)) }

// Text appends a string, or a key. What is no UTF-8 is refused by whoever reads it.
func (w *Writer) Text(s string) { w.B = append(appendHead(w.B, majorText, uint64(len(s))), s...) }

// Bytes appends a byte string; nil is an empty one.
func (w *Writer) Bytes(v []byte) { w.B = append(appendHead(w.B, majorBytes, uint64(len(v))), v...) }

// Int appends an integer.
func (w *Writer) Int(v int64) {
	if v < 0 {
		w.B = appendHead(w.B, majorNegint, uint64(^v))
		return
	}
	w.B = appendHead(w.B, majorUint, uint64(v))
}

// Uint appends an integer that is not negative.
func (w *Writer) Uint(v uint64) { w.B = appendHead(w.B, majorUint, v) }

// Float appends a number, in 32 bits where nothing is lost by it.
func (w *Writer) Float(v float64) {
	if narrow := float32(v); float64(narrow) == v {
		w.B = binary.BigEndian.AppendUint32(append(w.B, majorSimple<<5|float32bits), math.Float32bits(narrow))
		return
	}
	w.B = binary.BigEndian.AppendUint64(append(w.B, majorSimple<<5|float64bits), math.Float64bits(v))
}

// Bool appends true or false.
func (w *Writer) Bool(v bool) {
	b := byte(majorSimple<<5 | simpleFalse)
	if v {
		b = majorSimple<<5 | simpleTrue
	}
	w.B = append(w.B, b)
}

// Null appends null.
func (w *Writer) Null() { w.B = append(w.B, majorSimple<<5|simpleNull) }

// Time appends a time as text (RFC 3339, with nanoseconds).
func (w *Writer) Time(t time.Time) {
	var room [64]byte
	text := t.AppendFormat(room[:0], time.RFC3339Nano)
	w.B = append(appendHead(w.B, majorText, uint64(len(text))), text...)
}

// AppendKey gives the bytes of a key, for Lit.
func AppendKey(b []byte, key string) []byte {
	return append(appendHead(b, majorText, uint64(len(key))), key...)
}
