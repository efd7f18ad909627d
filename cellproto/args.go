package cellproto

import (
	"bytes"
	"cmp"
	"encoding/json"
	"hash/maphash"
	"slices"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// CheckJSON says whether data may be given to a program as JSON arguments: at most MaxArgs bytes,
// exactly one value with nothing but white space around it, at most MaxArgsDepth arrays and objects
// deep, at most MaxArgsKeys keys in all objects together, no key twice in one object, and text that
// is valid UTF-8 in which every escaped surrogate is half of a pair. The error's kind is TooLarge
// past one of the limits, else BadInput, and it names the byte.
//
// It is stricter than encoding/json where two parsers could read two things out of one text: that
// package accepts repeated keys, and turns bad UTF-8 and lone surrogates into U+FFFD. It allocates
// for keys alone, at most 32 bytes each, and nothing for what programs usually send.
func CheckJSON(data []byte) error {
	const op = "check arguments"
	if len(data) > MaxArgs {
		return Errorf(op, TooLarge, "%d bytes of JSON, the limit is %d", len(data), MaxArgs)
	}
	return scanJSON(op, data, MaxArgsDepth, MaxArgsKeys)
}

// jsonScanners keeps scanners for their room for keys: this is on the path of every call.
var jsonScanners = sync.Pool{New: func() any { return &jsonScanner{keys: make([]jsonKey, 0, 32)} }}

// scanJSON checks data, whose length is within an int32, against the given limits.
func scanJSON(op string, data []byte, maxDepth, maxKeys int) error {
	s := jsonScanners.Get().(*jsonScanner)
	*s = jsonScanner{data: data, maxDepth: maxDepth, maxKeys: maxKeys, keys: s.keys[:0]}
	err := s.document()
	if s.data = nil; cap(s.keys) <= 2*MaxArgsKeys {
		jsonScanners.Put(s)
	}
	if err == nil {
		return nil
	}
	err.Op = op
	return err
}

// jsonScanner walks one JSON text (RFC 8259) without building anything from it. It recurses, at
// most maxDepth deep.
type jsonScanner struct {
	data     []byte
	pos      int
	maxDepth int
	maxKeys  int
	seen     int       // keys so far, in all objects
	keys     []jsonKey // of the objects that are open now, the outermost first
}

// jsonKey is a key with its quotes cut off, still escaped: data[start:end]. The hash is that of the
// unescaped text, seeded for this process, so that nobody can prepare keys that collide.
type jsonKey struct {
	hash       uint64
	start, end int32
}

var jsonSeed = maphash.MakeSeed()

// jsonPlain marks the bytes of a string that need no thought: printable ASCII but '"' and '\'.
var jsonPlain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

func (s *jsonScanner) bad(pos int, format string, args ...any) *Error {
	return Errorf("", BadInput, "JSON byte %d: "+format, append([]any{pos}, args...)...)
}

// unexpected describes what stands at pos where something else should be.
func (s *jsonScanner) unexpected(pos int, want string) *Error {
	if pos >= len(s.data) {
		return s.bad(pos, "the text ends where %s should be", want)
	}
	return s.bad(pos, "%q where %s should be", s.data[pos], want)
}

func (s *jsonScanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// peek gives the next byte, or 0 at the end: a zero byte is nowhere valid outside of strings.
func (s *jsonScanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *jsonScanner) document() *Error {
	s.space()
	if err := s.value(0); err != nil {
		return err
	}
	s.space()
	if s.pos < len(s.data) {
		return s.unexpected(s.pos, "the end")
	}
	return nil
}

// value reads one value that is inside of depth arrays and objects.
func (s *jsonScanner) value(depth int) *Error {
	switch c := s.peek(); c {
	case '"':
		_, err := s.text()
		return err
	case '{', '[':
		if depth == s.maxDepth {
			return Errorf("", TooLarge, "JSON byte %d: nested deeper than %d", s.pos, s.maxDepth)
		}
		if c == '{' {
			return s.object(depth + 1)
		}
		return s.array(depth + 1)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number()
	}
	return s.unexpected(s.pos, "a value")
}

func (s *jsonScanner) literal(want string) *Error {
	for i := range len(want) {
		if s.peek() != want[i] {
			return s.unexpected(s.pos, "the rest of "+want)
		}
		s.pos++
	}
	return nil
}

func (s *jsonScanner) array(depth int) *Error {
	s.pos++
	s.space()
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		s.space()
		if err := s.value(depth); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.unexpected(s.pos, "',' or ']'")
		}
	}
}

func (s *jsonScanner) object(depth int) *Error {
	first := len(s.keys) // where the keys of this object begin
	s.pos++
	s.space()
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		s.space()
		if err := s.key(); err != nil {
			return err
		}
		s.space()
		if s.peek() != ':' {
			return s.unexpected(s.pos, "':'")
		}
		s.pos++
		s.space()
		if err := s.value(depth); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			err := s.distinct(s.keys[first:])
			s.keys = s.keys[:first]
			return err
		default:
			return s.unexpected(s.pos, "',' or '}'")
		}
	}
}

// key reads the name of an object's member and remembers it.
func (s *jsonScanner) key() *Error {
	if s.peek() != '"' {
		return s.unexpected(s.pos, "a key in quotes")
	}
	if s.seen++; s.seen > s.maxKeys {
		return Errorf("", TooLarge, "JSON byte %d: more than %d keys", s.pos, s.maxKeys)
	}
	start := s.pos + 1
	escaped, err := s.text()
	if err != nil {
		return err
	}
	k := jsonKey{start: int32(start), end: int32(s.pos - 1)}
	text := s.data[start : s.pos-1]
	if escaped {
		text = s.unescaped(k)
	}
	k.hash = maphash.Bytes(jsonSeed, text)
	s.keys = append(s.keys, k)
	return nil
}

// distinct refuses a key that occurs twice among the keys of one object. It may reorder them.
func (s *jsonScanner) distinct(keys []jsonKey) *Error {
	// Sorting keeps an object of many keys from costing the square of their number; for the usual
	// handful, comparing each with each is faster.
	if len(keys) > 16 {
		slices.SortFunc(keys, func(a, b jsonKey) int { return cmp.Compare(a.hash, b.hash) })
		for i := 1; i < len(keys); i++ {
			if keys[i-1].hash == keys[i].hash && s.same(keys[i-1], keys[i]) {
				return s.twice(keys[i-1], keys[i])
			}
		}
		return nil
	}
	for i := range keys {
		for _, other := range keys[:i] {
			if other.hash == keys[i].hash && s.same(other, keys[i]) {
				return s.twice(other, keys[i])
			}
		}
	}
	return nil
}

func (s *jsonScanner) same(a, b jsonKey) bool { return bytes.Equal(s.unescaped(a), s.unescaped(b)) }

func (s *jsonScanner) twice(a, b jsonKey) *Error {
	if b.start < a.start {
		b = a
	}
	name := string(s.unescaped(b))
	if len(name) > MaxFuncName {
		name = name[:MaxFuncName]
	}
	return s.bad(int(b.start)-1, "the key %q occurs twice in one object", name)
}

// unescaped gives the text that a key stands for; the scanner has checked its form before.
func (s *jsonScanner) unescaped(k jsonKey) []byte {
	raw := s.data[k.start:k.end]
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	var text string
	if err := json.Unmarshal(s.data[k.start-1:k.end+1], &text); err != nil {
		return raw // cannot be: text has accepted it
	}
	return []byte(text)
}

// text reads a string and reports whether it has escapes.
func (s *jsonScanner) text() (escaped bool, err *Error) {
	i := s.pos + 1
	for i < len(s.data) {
		c := s.data[i]
		if jsonPlain[c] {
			i++
			continue
		}
		switch {
		case c == '"':
			s.pos = i + 1
			return escaped, nil
		case c == '\\':
			escaped = true
			n, err := s.escape(i)
			if err != nil {
				return true, err
			}
			i += n
		case c < 0x20:
			return escaped, s.bad(i, "a control character in a string has to be escaped")
		default:
			r, n := utf8.DecodeRune(s.data[i:])
			if r == utf8.RuneError && n == 1 {
				return escaped, s.bad(i, "not valid UTF-8")
			}
			i += n
		}
	}
	return escaped, s.unexpected(i, "the end of a string")
}

// escape checks the escape that begins at i and gives its length, of both halves of a pair.
func (s *jsonScanner) escape(i int) (int, *Error) {
	if i+1 >= len(s.data) {
		return 0, s.unexpected(i+1, "an escape")
	}
	switch s.data[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
	default:
		return 0, s.bad(i, "an escape that JSON does not have")
	}
	r, ok := s.hex4(i)
	if !ok {
		return 0, s.bad(i, "\\u needs four hexadecimal digits")
	}
	if !utf16.IsSurrogate(r) {
		return 6, nil
	}
	if low, ok := s.hex4(i + 6); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
		return 12, nil
	}
	return 0, s.bad(i, "half of a surrogate pair")
}

// hex4 reads \uXXXX at i.
func (s *jsonScanner) hex4(i int) (rune, bool) {
	if len(s.data)-i < 6 || s.data[i] != '\\' || s.data[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s.data[i+2 : i+6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func (s *jsonScanner) digits() bool {
	start := s.pos
	for '0' <= s.peek() && s.peek() <= '9' {
		s.pos++
	}
	return s.pos > start
}

func (s *jsonScanner) number() *Error {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++ // no digit may follow: what comes next is then not a number's and is refused there
	} else if !s.digits() {
		return s.unexpected(s.pos, "a digit")
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return s.unexpected(s.pos, "a digit")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return s.unexpected(s.pos, "a digit")
		}
	}
	return nil
}
