package cellproto_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
)

// argsVector is one line of testdata/args/vectors.json: the text is json, or hex, or head, count
// times unit, and tail. Without a kind it has to be accepted.
type argsVector struct {
	Name, JSON, Hex, Head, Unit, Tail, Kind string
	Count                                   int
}

func (v argsVector) text(t testing.TB) []byte {
	if v.Hex != "" {
		b, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return []byte(v.JSON + v.Head + strings.Repeat(v.Unit, v.Count) + v.Tail)
}

func argsVectors(t testing.TB) []argsVector {
	data, err := os.ReadFile("testdata/args/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []argsVector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

func TestCheckJSONVectors(t *testing.T) {
	for _, v := range argsVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			err := cellproto.CheckJSON(v.text(t))
			want := cellproto.Kind(0)
			if v.Kind != "" {
				want = cellproto.ParseKind(v.Kind)
			}
			if got := cellproto.KindOf(err); got != want {
				t.Fatalf("got %v (%v), want %q", got, err, v.Kind)
			}
		})
	}
}

func TestCheckJSONErrorsNameTheByte(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"a":2}`: `JSON byte 7: the key "a" occurs twice in one object`,
		`{"a":1 "b":2}`: `JSON byte 7: '"' where ',' or '}' should be`,
		`[1,2`:          `JSON byte 4: the text ends where ',' or ']' should be`,
	} {
		if err := cellproto.CheckJSON([]byte(text)); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// plainCheck says the same as CheckJSON by means of encoding/json.
func plainCheck(data []byte) bool {
	if len(data) > cellproto.MaxArgs || !json.Valid(data) || !utf8.Valid(data) || loneSurrogate(data) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	keys := 0
	return plainValue(dec, 0, &keys) && keys <= cellproto.MaxArgsKeys
}

func plainValue(dec *json.Decoder, depth int, keys *int) bool {
	token, err := dec.Token()
	if err != nil {
		return false
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return true
	}
	if depth++; depth > cellproto.MaxArgsDepth {
		return false
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			key, err := dec.Token()
			if err != nil || seen[key.(string)] {
				return false
			}
			seen[key.(string)] = true
			*keys++
		}
		if !plainValue(dec, depth, keys) {
			return false
		}
	}
	_, err = dec.Token()
	return err == nil
}

var escapedReplacement = regexp.MustCompile(`\\u[fF]{3}[dD]`)

// loneSurrogate looks for one in valid JSON: encoding/json turns it into U+FFFD, and taking out each
// U+FFFD that is really there first tells the two apart.
func loneSurrogate(data []byte) bool {
	s := strings.ReplaceAll(string(data), `\\`, "__")
	s = escapedReplacement.ReplaceAllString(strings.ReplaceAll(s, "\uFFFD", "_"), "_")
	var v any
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	return dec.Decode(&v) == nil && containsReplacement(v)
}

func containsReplacement(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.ContainsRune(v, utf8.RuneError)
	case []any:
		for _, e := range v {
			if containsReplacement(e) {
				return true
			}
		}
	case map[string]any:
		for k, e := range v {
			if containsReplacement(k) || containsReplacement(e) {
				return true
			}
		}
	}
	return false
}

func FuzzCheckJSON(f *testing.F) {
	for _, v := range argsVectors(f) {
		if text := v.text(f); len(text) < 4096 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := cellproto.CheckJSON(data)
		if want := plainCheck(data); (err == nil) != want {
			t.Fatalf("%q: %v, encoding/json says %v", data, err, want)
		}
		if k := cellproto.KindOf(err); err != nil && k != cellproto.BadInput && k != cellproto.TooLarge {
			t.Fatalf("kind %v", k)
		}
	})
}

func TestCheckJSONAllocatesNothing(t *testing.T) {
	data := benchArgs()
	if n := testing.AllocsPerRun(100, func() { _ = cellproto.CheckJSON(data) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// benchArgs is a typical request of about 200 bytes.
func benchArgs() []byte {
	return []byte(`{"name":"Ann Example","count":12345,"ratio":0.75,"tags":["alpha","beta","gamma"],` +
		`"address":{"street":"1 Long Road","city":"Springfield","zip":"12345"},"active":true,` +
		`"note":"a short text with \"quotes\""}`)
}

func BenchmarkCheckJSON(b *testing.B) {
	data := benchArgs()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := cellproto.CheckJSON(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckJSONKeys is the dearest input that passes: as many keys as are allowed, in one object.
func BenchmarkCheckJSONKeys(b *testing.B) {
	var s strings.Builder
	for i := range cellproto.MaxArgsKeys {
		s.WriteString(`,"` + strings.Repeat("k", 200) + string(rune('a'+i%26)) + string(rune(0x100+i)) + `":0`)
	}
	data := []byte("{" + s.String()[1:] + "}")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := cellproto.CheckJSON(data); err != nil {
			b.Fatal(err)
		}
	}
}
