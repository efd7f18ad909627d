package wire

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// What is written is what the library reads, and the other way around.
func TestAgainstTheLibrary(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	for _, v := range []any{
		int64(0), int64(23), int64(24), int64(-1), int64(-25), int64(math.MaxInt64), int64(math.MinInt64), uint64(math.MaxUint64),
		1.5, 0.1, math.Inf(-1), true, false, "", "grüße", strings.Repeat("x", 300), []byte{}, bytes.Repeat([]byte{7}, 70000), when,
	} {
		var w Writer
		switch v := v.(type) {
		case int64:
			w.Int(v)
		case uint64:
			w.Uint(v)
		case float64:
			w.Float(v)
		case bool:
			w.Bool(v)
		case string:
			w.Text(v)
		case []byte:
			w.Bytes(v)
		case time.Time:
			w.Time(v)
		}
		mode, err := cbor.EncOptions{Time: cbor.TimeRFC3339Nano}.EncMode()
		if err != nil {
			t.Fatal(err)
		}
		library, err := mode.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, float := v.(float64); !float && !bytes.Equal(w.B, library) {
			t.Errorf("%v is %x, the library says %x", v, w.B, library)
		}
		for _, data := range [][]byte{w.B, library} {
			r := NewReader(data)
			var got, want any = nil, v
			switch v := v.(type) {
			case int64:
				got = r.Int(64)
			case uint64:
				got = r.Uint(64)
			case float64:
				got = r.Float()
			case bool:
				got = r.Bool()
			case string:
				got = r.Text()
			case []byte:
				got, want = string(r.Bytes()), string(v)
			case time.Time:
				got = r.Time()
			}
			if err := r.Done(); err != nil || got != want {
				t.Errorf("%x: %v, not %v: %v", data[:min(len(data), 20)], got, want, err)
			}
		}
	}
	for _, half := range []float64{0, 1, -2, 65504, 5.960464477539063e-8, math.Inf(1)} {
		mode, err := cbor.EncOptions{ShortestFloat: cbor.ShortestFloat16}.EncMode()
		if err != nil {
			t.Fatal(err)
		}
		data, err := mode.Marshal(half)
		if err != nil {
			t.Fatal(err)
		}
		r := NewReader(data)
		if got := r.Float(); got != half || r.Done() != nil {
			t.Errorf("%x is %v, not %v", data, got, half)
		}
	}
}

// Bytes that must be refused, each with its kind.
func TestRefused(t *testing.T) {
	deep := strings.Repeat("\x81", cellproto.MaxArgsDepth+1) + "\x00"
	for name, c := range map[string]struct {
		data string
		read func(r *Reader)
	}{
		"nothing":                    {"", func(r *Reader) { r.Int(64) }},
		"half a head":                {"\x19\x01", func(r *Reader) { r.Int(64) }},
		"no definite length":         {"\x9f\x01\xff", func(r *Reader) { r.Array() }},
		"a reserved length":          {"\x1c", func(r *Reader) { r.Int(64) }},
		"another type":               {"\x61a", func(r *Reader) { r.Int(64) }},
		"too large for int8":         {"\x18\x80", func(r *Reader) { r.Int(8) }},
		"too small for int8":         {"\x38\x80", func(r *Reader) { r.Int(8) }},
		"past int64":                 {"\x1b\x80\x00\x00\x00\x00\x00\x00\x00", func(r *Reader) { r.Int(64) }},
		"negative for uint":          {"\x20", func(r *Reader) { r.Uint(64) }},
		"too large for uint16":       {"\x1a\x00\x01\x00\x00", func(r *Reader) { r.Uint(16) }},
		"a text that ends too early": {"\x65abc", func(r *Reader) { r.Text() }},
		"a text of 2^63":             {"\x7b\x80\x00\x00\x00\x00\x00\x00\x00a", func(r *Reader) { r.Text() }},
		"no UTF-8":                   {"\x61\xff", func(r *Reader) { r.Text() }},
		"no time":                    {"\x61a", func(r *Reader) { r.Time() }},
		"a list of 2^32":             {"\x9b\x00\x00\x00\x01\x00\x00\x00\x00\x00", func(r *Reader) { r.Array() }},
		"a map of more than bytes":   {"\xa3\x01\x02", func(r *Reader) { r.Map() }},
		"nested too deep":            {deep, func(r *Reader) { r.Skip() }},
		"tags nested too deep":       {strings.Repeat("\xc1", 100) + "\x00", func(r *Reader) { r.Skip() }},
		"something behind it":        {"\x01\x02", func(r *Reader) { r.Int(64) }},
		"a list of another length":   {"\x82\x01\x02", func(r *Reader) { r.Length(r.Array(), 3) }},
		"another value":              {"\x61c", func(r *Reader) { r.OneOf([]string{"a", "b"}) }},
		"a key twice":                {"\x00", func(r *Reader) { seen := uint64(0); r.Int(64); r.Once(&seen, 3); r.Once(&seen, 3) }},
		"a field is missing":         {"\x00", func(r *Reader) { r.Int(64); r.Need(1, 3, []string{"a", "b"}) }},
		"true is no number":          {"\xf5", func(r *Reader) { r.Float() }},
	} {
		r := NewReader([]byte(c.data))
		c.read(&r)
		if err := r.Done(); cellproto.KindOf(err) != cellproto.BadReply {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The words of an enumeration are a stranger's: they are quoted, and not all are shown.
func TestOneOfQuotes(t *testing.T) {
	known := []string{"\x1b[31mred", "\u202eblue"}
	for range 100 {
		known = append(known, strings.Repeat("x", 1000))
	}
	r := NewReader([]byte("\x62\x1b["))
	r.OneOf(known)
	err := r.Done().Error()
	if strings.ContainsFunc(err, cellproto.Unprintable) || !strings.Contains(err, `"\x1b[31mred"`) || !strings.Contains(err, "and 86 more") || len(err) > 2000 {
		t.Errorf("%d bytes: %q", len(err), err)
	}
}

// FuzzReader holds that what is passed over is what the library finds well-formed, and that nothing is read
// past the end.
func FuzzReader(f *testing.F) {
	for _, s := range []string{"\xa2\x61a\x01\x61b\x82\xf6\xf9\x3c\x00", "\xc1\x00", "\x9f\xff", "\x5b\xff\xff\xff\xff\xff\xff\xff\xff", ""} {
		f.Add([]byte(s))
	}
	mode, err := cbor.DecOptions{
		IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: cellproto.MaxArgsDepth, MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32,
	}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(data)
		r.Skip()
		if r.Done() != nil {
			return
		}
		if err := mode.Wellformed(data); err != nil && !strings.Contains(err.Error(), "simple") && !strings.Contains(err.Error(), "nested") {
			t.Fatalf("%x is passed over, and is not well-formed: %v", data, err)
		}
	})
}
