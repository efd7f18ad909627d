package cellproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// maxSchemaDepth bounds the nesting of schema.json: two levels of a schema describe one of data
// (MaxArgsDepth), and there must be room for combinations of them.
const maxSchemaDepth = 128

// CanonicalJSON gives the one form of a JSON text that hashes are taken of. It follows RFC 8785,
// except that numbers keep their spelling and that keys are sorted by bytes:
//
//   - UTF-8, no white space outside of strings;
//   - the members of an object sorted by key, comparing the bytes of the unescaped UTF-8 (which is
//     the order of code points), and no key twice; arrays keep their order;
//   - in strings only '"', '\' and what is below U+0020 is escaped: \" \\ \b \t \n \f \r, and \u00
//     with two lower-case hexadecimal digits for the other control characters; the rest stands for itself;
//   - numbers as they are written: 1.0, 1e3 and 1 are three texts with three hashes. A float64 would
//     lose digits that a schema may mean, and two programs would print it differently.
//
// Texts over MaxSchema bytes are TooLarge; texts that are not JSON, or that CheckJSON would refuse
// for a repeated key or for their UTF-8, are BadInput.
func CanonicalJSON(data []byte) ([]byte, error) {
	return canonicalJSON("write canonical JSON", data, MaxSchema)
}

func canonicalJSON(op string, data []byte, limit int) ([]byte, error) {
	if err := checkSchemaJSON(op, data, limit); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, Errorf(op, BadInput, "%w", err)
	}
	return appendCanonical(make([]byte, 0, len(data)), v), nil
}

// checkSchemaJSON is CheckJSON with the limits of a schema. The number of keys is bounded by the
// size alone.
func checkSchemaJSON(op string, data []byte, limit int) error {
	if len(data) > limit {
		return Errorf(op, TooLarge, "%d bytes of JSON, the limit is %d", len(data), limit)
	}
	return scanJSON(op, data, maxSchemaDepth, len(data))
}

func appendCanonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case json.Number:
		return append(b, v...)
	case string:
		return appendJSONString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, key := range sortedKeys(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendJSONString(b, key), ':')
			b = appendCanonical(b, v[key])
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

// appendJSONString quotes s, which is valid UTF-8, with as few escapes as JSON allows.
func appendJSONString(b []byte, s string) []byte {
	const short = "\b\t\n\f\r\"\\"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 0x20 && c != '"' && c != '\\':
			b = append(b, c)
		case bytes.IndexByte([]byte(short), c) >= 0:
			b = append(b, '\\', `btnfr"\`[bytes.IndexByte([]byte(short), c)])
		default:
			b = append(b, `\u00`...)
			b = hex.AppendEncode(b, []byte{c})
		}
	}
	return append(b, '"')
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
