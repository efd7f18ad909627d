package wire

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

func TestJSONReader(t *testing.T) {
	for text, c := range map[string]struct {
		read func(*Reader) any
		want any
	}{
		` true `:                          {func(r *Reader) any { return r.Bool() }, true},
		`null`:                            {func(r *Reader) any { return r.Null() }, true},
		`-9223372036854775808`:            {func(r *Reader) any { return r.Int(64) }, int64(math.MinInt64)},
		`18446744073709551615`:            {func(r *Reader) any { return r.Uint(64) }, uint64(math.MaxUint64)},
		`7.0`:                             {func(r *Reader) any { return r.Int(8) }, int64(7)},
		`-1e2`:                            {func(r *Reader) any { return r.Int(8) }, int64(-100)},
		`7`:                               {func(r *Reader) any { return r.Float() }, 7.0},
		`-0.0`:                            {func(r *Reader) any { return math.Signbit(r.Float()) }, true},
		`1e300`:                           {func(r *Reader) any { return r.Float() }, 1e300},
		`"a\"\\\u00e9` + `é\ud83d\ude00"`: {func(r *Reader) any { return r.Text() }, "a\"\\éé😀"},
		`""`:                              {func(r *Reader) any { return r.Text() }, ""},
		`"AP8="`:                          {func(r *Reader) any { return r.Bytes() }, []byte{0, 255}},
		`"red"`:                           {func(r *Reader) any { return r.OneOf([]string{"red"}) }, "red"},
		`"2020-01-02T03:04:05Z"`:          {func(r *Reader) any { return r.Time().Unix() }, int64(1577934245)},
		"[1 ,\n2]": {func(r *Reader) any {
			n := r.Array()
			a, b := r.Int(8), r.Int(8)
			r.Leave()
			return []int64{int64(n), a, b}
		}, []int64{2, 1, 2}},
		`{ "a" : { } , "b" : [ ] }`: {func(r *Reader) any { return string(r.Raw()) }, "\xba\x00\x00\x00\x02\x61a\xba\x00\x00\x00\x00\x61b\x9a\x00\x00\x00\x00"},
	} {
		r, err := NewJSONReader([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := c.read(&r); !reflect.DeepEqual(got, c.want) || r.Done() != nil {
			t.Errorf("%s: %v, %v, want %v", text, got, r.Done(), c.want)
		}
	}
}

func TestJSONReaderMustFail(t *testing.T) {
	skip := func(r *Reader) { r.Skip() }
	for text, read := range map[string]func(*Reader){
		``: skip, `{`: skip, `1 2`: skip, `"a`: skip, `{"a":}`: skip, `01`: skip, `NaN`: skip, `1e999`: skip,
		strings.Repeat("[", 33) + strings.Repeat("]", 33): skip,
		"\"\xff\"":      func(r *Reader) { r.Text() },
		`"***"`:         func(r *Reader) { r.Bytes() },
		`[1,2]`:         func(r *Reader) { r.Bytes() },
		`7.5`:           func(r *Reader) { r.Int(64) },
		`null`:          func(r *Reader) { r.Int(64) },
		`256`:           func(r *Reader) { r.Uint(8) },
		`[1,2,3]`:       func(r *Reader) { r.Length(r.Array(), 2) },
		`{"A":1}`:       func(r *Reader) { fieldA(r) },
		`{"a":1,"a":2}`: func(r *Reader) { fieldA(r) },
	} {
		r, err := NewJSONReader([]byte(text))
		if err == nil {
			read(&r)
			err = r.Done()
		}
		if cellproto.KindOf(err) != cellproto.BadReply {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func fieldA(r *Reader) {
	var seen uint64
	for n := r.Map(); n > 0 && r.Ok(); n-- {
		switch string(r.Key()) {
		case "a":
			r.Once(&seen, 0)
		}
		r.Skip()
	}
	r.Leave()
	r.Need(seen, 1, []string{"a"})
}

// FuzzJSONReader holds that what encoding/json reads comes out the same by way of CBOR.
func FuzzJSONReader(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,-3e7,"x\n",null,true,{}],"b":""}`, `1e22`, "\"\\ud800\"", `"\u0000"`, `[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want any
		fails := json.Unmarshal(text, &want) != nil
		r, err := NewJSONReader(text)
		if fails != (err != nil) {
			if fails || !strings.Contains(err.Error(), "nested") {
				t.Fatalf("%q: %v, and encoding/json fails: %v", text, err, fails)
			}
			return
		}
		if err != nil {
			return
		}
		raw := r.Raw()
		if err := r.Done(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var got any
		if err := cbor.Unmarshal(raw, &got); err != nil {
			return // no UTF-8, or a key twice
		}
		if !reflect.DeepEqual(likeJSON(got), want) {
			t.Fatalf("%q: %#v, want %#v", text, got, want)
		}
	})
}

func likeJSON(v any) any {
	switch v := v.(type) {
	case uint64:
		return float64(v)
	case int64:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = likeJSON(v[i])
		}
	case map[any]any:
		m := map[string]any{}
		for k, e := range v {
			m[k.(string)] = likeJSON(e)
		}
		return m
	}
	return v
}
