package wire

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"time"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
)

// Reader reads one item. The first error stays: from then on everything is zero, and maps and lists are
// empty, so that it is enough to look at Done in the end.
type Reader struct {
	data   []byte
	pos    int
	depth  int
	err    error
	base64 bool // byte strings are texts: it was JSON
}

// NewReader reads data, which it keeps. Texts and byte strings are copies.
func NewReader(data []byte) Reader { return Reader{data: data} }

// Done says whether all of the item was read, and nothing follows it: an error is BadReply.
func (r *Reader) Done() error {
	if r.err == nil && r.pos < len(r.data) {
		r.fail("%d bytes follow the value", len(r.data)-r.pos)
	}
	return r.err
}

// Ok reports that there was no error so far.
func (r *Reader) Ok() bool { return r.err == nil }

func (r *Reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = cellproto.Errorf("decode reply", cellproto.BadReply, "byte %d: %w", r.pos, fmt.Errorf(format, args...))
	}
}

func (r *Reader) left() int { return len(r.data) - r.pos }

// head reads the first bytes of an item. A length is not checked yet.
func (r *Reader) head() (major byte, info byte, n uint64) {
	if r.err != nil {
		return 0, 0, 0
	}
	if r.left() == 0 {
		r.fail("it ends too early")
		return 0, 0, 0
	}
	first := r.data[r.pos]
	major, info = first>>5, first&31
	size := 0
	switch {
	case info < 24:
		r.pos++
		return major, info, uint64(info)
	case info <= 27:
		size = 1 << (info - 24)
	default:
		r.fail("an item of no definite length")
		return 0, 0, 0
	}
	if r.left() < 1+size {
		r.fail("it ends too early")
		return 0, 0, 0
	}
	rest := r.data[r.pos+1:]
	switch size {
	case 1:
		n = uint64(rest[0])
	case 2:
		n = uint64(binary.BigEndian.Uint16(rest))
	case 4:
		n = uint64(binary.BigEndian.Uint32(rest))
	case 8:
		n = binary.BigEndian.Uint64(rest)
	}
	r.pos += 1 + size
	return major, info, n
}

var majorNames = [8]string{"an integer", "an integer", "bytes", "text", "a list", "a map", "a tag", "a simple value"}

// want reads a head that has to be of one major type.
func (r *Reader) want(major byte) uint64 {
	at := r.pos
	got, _, n := r.head()
	if r.err != nil {
		return 0
	}
	if got != major {
		r.pos = at
		r.fail("%s instead of %s", majorNames[got], majorNames[major])
		return 0
	}
	return n
}

// most bounds a count by what the bytes that are left can hold: each element takes each bytes at least.
func (r *Reader) most(n uint64, each int) int {
	if n > uint64(r.left()/each) {
		r.fail("%d elements are said to be in %d bytes", n, r.left())
		return 0
	}
	return int(n)
}

// Map begins a map and gives the number of its pairs. Leave ends it.
func (r *Reader) Map() int { return r.enter(majorMap, 2) }

// Array begins a list and gives the number of its elements. Leave ends it.
func (r *Reader) Array() int { return r.enter(majorArray, 1) }

func (r *Reader) enter(major byte, each int) int {
	n := r.most(r.want(major), each)
	if r.depth++; r.depth > cellproto.MaxArgsDepth {
		r.fail("nested more than %d deep", cellproto.MaxArgsDepth)
		return 0
	}
	return n
}

// Leave ends a map or list.
func (r *Reader) Leave() { r.depth-- }

// Key reads the key of a map. It holds until the next read.
func (r *Reader) Key() []byte { return r.span(majorText) }

func (r *Reader) span(major byte) []byte {
	n := r.most(r.want(major), 1)
	if r.err != nil {
		return nil
	}
	b := r.data[r.pos : r.pos+n]
	r.pos += n
	return b
}

// Text reads a string.
func (r *Reader) Text() string {
	b := r.span(majorText)
	if !utf8.Valid(b) {
		r.fail("text that is no UTF-8")
		return ""
	}
	return string(b)
}

// Bytes reads a byte string: never nil.
func (r *Reader) Bytes() []byte {
	if r.base64 {
		return r.decoded(r.span(majorText))
	}
	return append(make([]byte, 0), r.span(majorBytes)...)
}

func (r *Reader) decoded(text []byte) []byte {
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil {
		r.fail("bytes that are not in base64")
	}
	return b[:n]
}

// Int reads an integer of so many bits: 8, 16, 32 or 64.
func (r *Reader) Int(width int) int64 {
	major, _, n := r.head()
	limit := uint64(1)<<(width-1) - 1
	switch {
	case r.err != nil:
	case major != majorUint && major != majorNegint:
		r.fail("%s instead of an integer", majorNames[major])
	case n > limit:
		r.fail("an integer that does not fit %d bits", width)
	case major == majorNegint:
		return ^int64(n)
	default:
		return int64(n)
	}
	return 0
}

// Uint reads an integer of so many bits that is not negative.
func (r *Reader) Uint(width int) uint64 {
	n := r.want(majorUint)
	if width < 64 && n>>width != 0 {
		r.fail("an integer that does not fit %d bits", width)
		return 0
	}
	return n
}

// Float reads a number, which may be an integer.
func (r *Reader) Float() float64 {
	major, info, n := r.head()
	switch {
	case r.err != nil:
	case major == majorUint:
		return float64(n)
	case major == majorNegint:
		return -1 - float64(n)
	case major == majorSimple && info == float64bits:
		return math.Float64frombits(n)
	case major == majorSimple && info == float32bits:
		return float64(math.Float32frombits(uint32(n)))
	case major == majorSimple && info == float16:
		return half(uint16(n))
	default:
		r.fail("%s instead of a number", majorNames[major])
	}
	return 0
}

// half decodes a float of 16 bits (RFC 8949, appendix D).
func half(h uint16) float64 {
	exp, mant := int(h>>10&31), float64(h&1023)
	var v float64
	switch exp {
	case 0:
		v = math.Ldexp(mant, -24)
	case 31:
		if v = math.Inf(1); mant != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(mant+1024, exp-25)
	}
	if h>>15 != 0 {
		v = -v
	}
	return v
}

// Bool reads true or false.
func (r *Reader) Bool() bool {
	major, info, _ := r.head()
	if r.err == nil && (major != majorSimple || info != simpleFalse && info != simpleTrue) {
		r.fail("%s instead of true or false", majorNames[major])
	}
	return info == simpleTrue
}

// Time reads a time that is text (RFC 3339).
func (r *Reader) Time() time.Time {
	text := r.span(majorText)
	if r.err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		r.fail("%.64q is no time", text)
	}
	return t
}

// Null reads a null, if there is one, and reports whether there was.
func (r *Reader) Null() bool {
	if r.err != nil || r.left() == 0 {
		return false
	}
	if c := r.data[r.pos]; c != majorSimple<<5|simpleNull && c != majorSimple<<5|simpleUndefined {
		return false
	}
	r.pos++
	return true
}

// Raw passes over one item, of any type, and gives its bytes, which are not copied.
func (r *Reader) Raw() []byte {
	at := r.pos
	r.Skip()
	if r.err != nil {
		return nil
	}
	return r.data[at:r.pos]
}

// Skip passes over one item.
func (r *Reader) Skip() {
	major, _, n := r.head()
	switch {
	case r.err != nil:
	case major == majorBytes || major == majorText:
		r.pos += r.most(n, 1)
	case major == majorArray || major == majorMap:
		each := 1 + int(major-majorArray)
		items := r.most(n, each) * each
		if r.depth++; r.depth > cellproto.MaxArgsDepth {
			r.fail("nested more than %d deep", cellproto.MaxArgsDepth)
		}
		for ; items > 0 && r.err == nil; items-- {
			r.Skip()
		}
		r.depth--
	case major == majorTag:
		if r.depth++; r.depth > cellproto.MaxArgsDepth {
			r.fail("nested more than %d deep", cellproto.MaxArgsDepth)
			return
		}
		r.Skip()
		r.depth--
	}
}

// Once notes that the i-th field of a struct is there, of up to 64, which may be only once.
func (r *Reader) Once(seen *uint64, i int) {
	if *seen>>i&1 != 0 {
		r.fail("a key stands there twice")
	}
	*seen |= 1 << i
}

// Need fails unless all fields of need were seen; names are those of the fields by their bit.
func (r *Reader) Need(seen, need uint64, names []string) {
	missing := need &^ seen
	if missing == 0 || r.err != nil {
		return
	}
	if i := bits.TrailingZeros64(missing); i < len(names) {
		r.fail("%q is missing", names[i])
		return
	}
	r.fail("a field is missing")
}

// OneOf reads a string that has to be one of those that an enumeration has.
func (r *Reader) OneOf(known []string) string {
	value := r.Text()
	for _, k := range known {
		if k == value {
			return value
		}
	}
	if r.err == nil {
		const shown = 16 // they are a stranger's words, and may be many
		more := ""
		if n := len(known) - shown; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		r.fail("%.64q is not one of %.64q%s", value, known[:min(len(known), shown)], more)
	}
	return value
}

// Length fails unless a list has as many elements as it must.
func (r *Reader) Length(n, must int) bool {
	if n != must {
		r.fail("a list of %d elements, not %d", n, must)
	}
	return r.err == nil
}

// Fail has the reader fail with err, if it has not already.
func (r *Reader) Fail(err error) { r.fail("%w", err) }

// Size bounds the capacity that is made for n elements before they are there.
func Size(n int) int { return min(n, 1024) }
