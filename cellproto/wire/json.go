package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/celldnet/celld/cellproto"
)

// NewJSONReader reads a value from JSON, as if it had come in CBOR: by the same checks, names spelled exactly, and
// no key of a struct twice. Only byte strings are texts there (base64). A whole number is an integer, however it is
// written. The error is BadReply: it is no JSON, or nested too deep.
func NewJSONReader(text []byte) (Reader, error) {
	j := jsonText{data: text, out: make([]byte, 0, len(text)+len(text)/4)}
	if !json.Valid(text) {
		j.fail("it is not JSON")
	} else {
		j.value(0)
	}
	if j.err != nil {
		return Reader{}, cellproto.Errorf("decode reply", cellproto.BadReply, "byte %d: %w", j.pos, j.err)
	}
	r := NewReader(j.out)
	r.base64 = true
	return r, nil
}

// jsonText writes a valid JSON text as CBOR, in one pass.
type jsonText struct {
	data []byte
	pos  int
	out  []byte
	err  error
}

func (j *jsonText) fail(format string, args ...any) {
	if j.err == nil {
		j.err = fmt.Errorf(format, args...)
	}
}

// next passes over what only separates, and gives the byte behind it.
func (j *jsonText) next() byte {
	for j.pos < len(j.data) {
		switch c := j.data[j.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			j.pos++
		default:
			return c
		}
	}
	return 0
}

func (j *jsonText) value(depth int) {
	switch j.next() {
	case '{':
		j.list(majorMap, '}', depth+1)
	case '[':
		j.list(majorArray, ']', depth+1)
	case '"':
		j.text()
	case 't':
		j.literal(majorSimple<<5|simpleTrue, len("true"))
	case 'f':
		j.literal(majorSimple<<5|simpleFalse, len("false"))
	case 'n':
		j.literal(majorSimple<<5|simpleNull, len("null"))
	default:
		j.number()
	}
}

func (j *jsonText) literal(b byte, size int) {
	j.out = append(j.out, b)
	j.pos += size
}

// list writes an array, or a map with its keys. How many elements there are is filled in behind the last one.
func (j *jsonText) list(major, end byte, depth int) {
	if depth > cellproto.MaxArgsDepth {
		j.fail("nested more than %d deep", cellproto.MaxArgsDepth)
		return
	}
	j.pos++
	const in32bits = 26
	j.out = append(j.out, major<<5|in32bits, 0, 0, 0, 0)
	at, n := len(j.out), uint32(0)
	for j.next() != end && j.err == nil {
		if major == majorMap {
			j.text()
			j.next()
		}
		j.value(depth)
		n++
	}
	j.pos++
	binary.BigEndian.PutUint32(j.out[at-4:], n)
}

func (j *jsonText) text() {
	start := j.pos + 1
	size := bytes.IndexByte(j.data[start:], '"')
	if size < 0 {
		j.fail("a text does not end")
		return
	}
	text := j.data[start : start+size]
	if bytes.IndexByte(text, '\\') < 0 {
		j.pos = start + size + 1
		j.out = append(appendHead(j.out, majorText, uint64(len(text))), text...)
		return
	}
	end := start
	for end < len(j.data) && j.data[end] != '"' {
		if j.data[end] == '\\' {
			end++
		}
		end++
	}
	end = min(end+1, len(j.data))
	var s string
	if err := json.Unmarshal(j.data[j.pos:end], &s); err != nil {
		j.fail("%w", err)
	}
	j.pos, j.out = end, AppendKey(j.out, s)
}

func (j *jsonText) number() {
	end := j.pos
	for end < len(j.data) && bytes.IndexByte([]byte("+-.0123456789eE"), j.data[end]) >= 0 {
		end++
	}
	text := string(j.data[j.pos:end])
	w := Writer{B: j.out}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		w.Int(i)
	} else if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		w.Uint(u)
	} else if x, err := strconv.ParseFloat(text, 64); err != nil {
		j.fail("%.64q is no number that fits 64 bits", text)
	} else if x == math.Trunc(x) && math.Abs(x) <= 1<<53 && !(x == 0 && math.Signbit(x)) {
		w.Int(int64(x))
	} else {
		w.Float(x)
	}
	j.pos, j.out = max(end, j.pos+1), w.B
}
