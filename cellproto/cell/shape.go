package cell

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// shape is what the decoders do not check: that an object has the fields of its struct, spelled so,
// and all that are required, that nothing is null that cannot be, and the values of enums. The types
// of values are left to the decoders. The zero shape lets everything pass.
type shape struct {
	fields   map[string]field // of an object; nil: it may have any
	required []string
	elem     *shape   // of a list's elements or a map's values
	length   int      // of a list; 0: any
	enum     []string // of a string
	null     bool     // may be null
}

type field struct {
	*shape
	required int // 1 + its place in the list of the required ones
}

// anything is the shape of a value that says nothing.
var anything = &shape{null: true}

// fault is an error in one argument.
type fault struct {
	path string // e.g. "items[2].name"; "" for the arguments as a whole
	what string
}

func (f fault) Error() string {
	if f.path == "" {
		return "the arguments " + f.what
	}
	return fmt.Sprintf("the argument %q %s", f.path, f.what)
}

// under puts the place of err in front of its path.
func under(place string, err error) error {
	f, ok := err.(fault)
	if !ok {
		return err
	}
	if f.path != "" && f.path[0] != '[' {
		place += "."
	}
	f.path = place + f.path
	return f
}

func underIndex(i int, err error) error { return under(fmt.Sprintf("[%d]", i), err) }

// tally notes which required fields of one object are there.
type tally struct {
	small [64]bool
	seen  []bool
	found int
}

func (t *tally) mark(s *shape, f field) {
	if f.required == 0 {
		return
	}
	if t.seen == nil {
		if t.seen = t.small[:]; len(s.required) > len(t.small) {
			t.seen = make([]bool, len(s.required))
		}
	}
	if !t.seen[f.required-1] {
		t.seen[f.required-1] = true
		t.found++
	}
}

func (t *tally) missing(s *shape) error {
	if t.found == len(s.required) {
		return nil
	}
	for i, name := range s.required {
		if t.seen == nil || !t.seen[i] {
			return fault{name, "is missing"}
		}
	}
	return nil
}

// member finds the shape of an object's member.
func (s *shape) member(name []byte, t *tally) (*shape, error) {
	if s.fields == nil {
		if s.elem != nil {
			return s.elem, nil
		}
		return anything, nil
	}
	f, ok := s.fields[string(name)]
	if !ok {
		const most = 80 // bytes of a stranger's text that are repeated to it
		return nil, fault{strings.ToValidUTF8(string(name[:min(len(name), most)]), "?"), "is unknown"}
	}
	t.mark(s, f)
	return f.shape, nil
}

func (s *shape) checkLength(n int) error {
	if s.length != 0 && n != s.length {
		return fault{"", fmt.Sprintf("must have %d elements, not %d", s.length, n)}
	}
	return nil
}

func (s *shape) checkText(text []byte) error {
	if s.enum != nil && !slices.Contains(s.enum, string(text)) {
		return fault{"", "must be one of " + shownValues(s.enum)}
	}
	return nil
}

// shownValues lists values as they are, unless one could drive a terminal: then as they are written in Go.
func shownValues(values []string) string {
	line := strings.Join(values, ", ")
	if strings.ContainsFunc(line, cellproto.Unprintable) {
		line = fmt.Sprintf("%q", values)
	}
	return line
}

func (s *shape) checkNull() error {
	if !s.null {
		return fault{"", "must not be null"}
	}
	return nil
}

func (s *shape) element() *shape {
	if s.elem == nil {
		return anything
	}
	return s.elem
}

// jsonWalk walks a JSON text that cellproto.CheckJSON has passed.
type jsonWalk struct {
	data []byte
	pos  int
}

func checkJSON(s *shape, data []byte) error {
	w := jsonWalk{data: data}
	return w.value(s)
}

// next skips white space, and what is of no interest between values, and gives the next byte.
func (w *jsonWalk) next() byte {
	for w.pos < len(w.data) {
		switch c := w.data[w.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			w.pos++
		default:
			return c
		}
	}
	return 0
}

func (w *jsonWalk) value(s *shape) error {
	switch w.next() {
	case '{':
		w.pos++
		return w.object(s)
	case '[':
		w.pos++
		return w.list(s)
	case '"':
		return s.checkText(w.text())
	case 'n':
		w.scalar()
		return s.checkNull()
	default:
		w.scalar()
		return nil
	}
}

func (w *jsonWalk) object(s *shape) error {
	var t tally
	for w.next() == '"' {
		name := w.text()
		m, err := s.member(name, &t)
		if err != nil {
			return err
		}
		if err := w.value(m); err != nil {
			return under(string(name), err)
		}
	}
	w.pos++
	return t.missing(s)
}

func (w *jsonWalk) list(s *shape) error {
	n := 0
	for c := w.next(); c != ']' && c != 0; c = w.next() {
		if err := w.value(s.element()); err != nil {
			return underIndex(n, err)
		}
		n++
	}
	w.pos++
	return s.checkLength(n)
}

// text reads a string, which it unescapes.
func (w *jsonWalk) text() []byte {
	start, escaped := w.pos, false
	for w.pos++; w.pos < len(w.data) && w.data[w.pos] != '"'; w.pos++ {
		if w.data[w.pos] == '\\' {
			escaped = true
			w.pos++
		}
	}
	w.pos = min(w.pos+1, len(w.data))
	if escaped {
		var s string
		if json.Unmarshal(w.data[start:w.pos], &s) == nil {
			return []byte(s)
		}
	}
	return bytes.Trim(w.data[start:w.pos], `"`)
}

// scalar skips a number or a literal.
func (w *jsonWalk) scalar() {
	for w.pos++; w.pos < len(w.data); w.pos++ {
		switch w.data[w.pos] {
		case ' ', '\t', '\r', '\n', ',', '}', ']':
			return
		}
	}
}

// cborWalk walks one CBOR item that is well-formed and of definite length. It is the decoder that
// has checked that; the bounds here only keep a mistake from being a panic.
type cborWalk struct {
	data []byte
}

func checkCBOR(s *shape, data []byte) error {
	w := cborWalk{data: data}
	return w.value(s)
}

// The major types of CBOR (RFC 8949, 3.1).
const (
	cborBytes  = 2
	cborText   = 3
	cborList   = 4
	cborMap    = 5
	cborTag    = 6
	cborSimple = 7

	cborNull      = 22
	cborUndefined = 23
)

func (w *cborWalk) head() (major byte, v uint64) {
	if len(w.data) == 0 {
		return cborSimple, 0
	}
	major, info := w.data[0]>>5, w.data[0]&31
	w.data = w.data[1:]
	if info < 24 {
		return major, uint64(info)
	}
	size := 1 << (info & 3)
	if len(w.data) < size {
		w.data = nil
		return cborSimple, 0
	}
	var wide [8]byte
	copy(wide[8-size:], w.data)
	w.data = w.data[size:]
	v = binary.BigEndian.Uint64(wide[:])
	if major == cborSimple {
		v = 0 // a float, whose bits look like another simple value
	}
	return major, v
}

func (w *cborWalk) take(n uint64) []byte {
	b := w.data[:min(n, uint64(len(w.data)))]
	w.data = w.data[len(b):]
	return b
}

func (w *cborWalk) value(s *shape) error {
	switch major, v := w.head(); major {
	case cborBytes:
		w.take(v)
	case cborText:
		return s.checkText(w.take(v))
	case cborList:
		for i := 0; uint64(i) < v && len(w.data) > 0; i++ {
			if err := w.value(s.element()); err != nil {
				return underIndex(i, err)
			}
		}
		return s.checkLength(int(v))
	case cborMap:
		return w.object(s, v)
	case cborTag:
		return w.value(s)
	case cborSimple:
		if v == cborNull || v == cborUndefined {
			return s.checkNull()
		}
	}
	return nil
}

func (w *cborWalk) object(s *shape, pairs uint64) error {
	var t tally
	for range pairs {
		if len(w.data) == 0 {
			break
		}
		major, n := w.head()
		if major != cborText && major != cborBytes {
			return fault{"", "cannot have a key that is not text"}
		}
		name := w.take(n)
		if s.fields != nil && major == cborBytes {
			return fault{"", "cannot have a key that is not text"}
		}
		m, err := s.member(name, &t)
		if err != nil {
			return err
		}
		if err := w.value(m); err != nil {
			return under(string(name), err)
		}
	}
	return t.missing(s)
}
