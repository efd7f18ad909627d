package cell

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// decoding gives a function with arguments of v's type.
func decoding(t testing.TB, v any) *Function {
	t.Helper()
	_, s, _, err := deriveInput(reflect.TypeOf(v), Docs{})
	if err != nil {
		t.Fatal(err)
	}
	return &Function{name: "f", args: s, usage: "f"}
}

// strict is what the strict decoding of both codecs is shown with.
type strict struct {
	A     int8            `json:"a"`
	B     string          `json:"b,omitempty"`
	P     *int            `json:"p"`
	Color color           `json:"color,omitempty"`
	Best  *color          `json:"best"`
	List  []item          `json:"list,omitempty"`
	Map   map[string]item `json:"map,omitempty"`
	Pair  [2]int          `json:"pair,omitzero"`
	Tree  *tree           `json:"tree"`
	Any   any             `json:"any,omitempty"`
}

type item struct {
	N int `json:"n"`
}

func TestStrictDecoding(t *testing.T) {
	f := decoding(t, strict{})
	for _, test := range []struct{ args, want string }{
		{`{"a":1}`, ""},
		{`{"a":1,"p":null,"best":null,"tree":null,"any":{"A":{"b":[null]}}}`, ""},
		{`{"a":1,"list":null,"map":null}`, ""},
		{`{"a":1,"list":[{"n":1},{"n":2}],"map":{"x":{"n":1}},"pair":[1,2]}`, ""},
		{`{"a":1,"color":"red","best":"green"}`, ""},
		{`{"a":1,"tree":{"value":1,"children":[{"value":2,"children":[null]}]}}`, ""},

		{`{}`, `the argument "a" is missing`},
		{`{"a":null}`, `the argument "a" must not be null`},
		{`{"a":1,"c":2}`, `the argument "c" is unknown`},
		{`{"A":1}`, `the argument "A" is unknown`},
		{`{"a":1,"any":1,"B":"x"}`, `the argument "B" is unknown`},
		{`{"a":"1"}`, `the argument "a" cannot be`},
		{`{"a":1.5}`, `the argument "a" cannot be`},
		{`{"a":300}`, `cannot`},
		{`{"a":1,"b":7}`, `the argument "b" cannot be`},
		{`{"a":1,"list":[{"n":1},{"m":2}]}`, `the argument "list[1].m" is unknown`},
		{`{"a":1,"list":[{"n":1},{}]}`, `the argument "list[1].n" is missing`},
		{`{"a":1,"list":[null]}`, `the argument "list[0]" must not be null`},
		{`{"a":1,"map":{"x":{"n":1,"m":1}}}`, `the argument "map.x.m" is unknown`},
		{`{"a":1,"pair":[1]}`, `the argument "pair" must have 2 elements, not 1`},
		{`{"a":1,"pair":[1,2,3]}`, `the argument "pair" must have 2 elements, not 3`},
		{`{"a":1,"color":"blue"}`, `the argument "color" must be one of red, green`},
		{`{"a":1,"best":"blue"}`, `the argument "best" must be one of red, green`},
		{`{"a":1,"tree":{"value":1,"children":[{}]}}`, `the argument "tree.children[0].value" is missing`},
		{`[]`, `cannot`},
		{`7`, `cannot`},
		{`null`, `the arguments must not be null`},
		{`{"a":1,"any":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, `nested`},
	} {
		var got strict
		checkDecode(t, "JSON "+test.args, arguments{f, cellproto.JSON, []byte(test.args)}.decode(&got), test.want)

		var v any
		if err := json.Unmarshal([]byte(test.args), &v); err != nil {
			t.Fatal(err)
		}
		v, _ = wholeNumbers(v)
		data, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		checkDecode(t, "CBOR "+test.args, arguments{f, cellproto.CBOR, data}.decode(&got), test.want)
	}
}

// wholeNumbers gives integers as such, so that CBOR has them as JSON shows them.
func wholeNumbers(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var n any
	if err := dec.Decode(&n); err != nil {
		return nil, err
	}
	return plainNumbers(n)
}

func checkDecode(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %q", name, err, want)
	case want == "nested" && cellproto.KindOf(err) == cellproto.TooLarge:
	case want != "" && (cellproto.KindOf(err) != cellproto.BadInput || cellproto.HintOf(err) == ""):
		t.Errorf("%s: kind %v, hint %q", name, cellproto.KindOf(err), cellproto.HintOf(err))
	}
}

func TestMalformed(t *testing.T) {
	f := decoding(t, strict{})
	for _, test := range []struct {
		codec cellproto.Codec
		data  string
	}{
		{cellproto.JSON, `{`}, {cellproto.JSON, `{"a":1}{"a":1}`}, {cellproto.JSON, `{"a":1,"a":2}`}, {cellproto.JSON, "{\"a\":1,\"b\":\"\xff\"}"},
		{cellproto.CBOR, "\xa1"}, {cellproto.CBOR, "\xa1\x61a\x01\x00"}, {cellproto.CBOR, "\xa2\x61a\x01\x61a\x02"},
		{cellproto.CBOR, "\xbf\x61a\x01\xff"}, {cellproto.CBOR, "\xa1\x01\x01"}, {cellproto.CBOR, "\xa1\x41a\x01"},
		{cellproto.CBOR, "\xa2\x61a\x01\x61b\x61\xff"}, {cellproto.CBOR, "\x9b\xff\xff\xff\xff\xff\xff\xff\xff"},
	} {
		var got strict
		checkDecode(t, test.data, arguments{f, test.codec, []byte(test.data)}.decode(&got), " ")
	}
	var got strict
	big := `{"a":1,"b":"` + strings.Repeat("x", cellproto.MaxArgs) + `"}`
	if err := (arguments{f, cellproto.JSON, []byte(big)}).decode(&got); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Error(err)
	}
}

// What one codec carries, the other one does too.
func TestCodecsAgree(t *testing.T) {
	one := 1
	red := color("red")
	in := everything{
		base: base{ID: "id"}, Name: "n", I8: -8, I64: -1 << 60, U16: 16, U64: 1 << 63, F: 0.1, OK: true, Data: []byte{0, 255},
		At: time.Date(2026, 11, 1, 2, 3, 4, 5, time.UTC), Took: time.Second, Tags: []string{"<a>"}, Point: [2]float32{1, 2.5},
		Sum: [4]byte{1, 2}, Meta: map[string]string{"k": "v"}, Maybe: &one, Color: "green", Best: &red,
		Addr: netip.MustParseAddr("192.0.2.1"), Price: money{250}, Opaque: opaque{"x"}, Any: "any", Raw: json.RawMessage(`{"r":[1]}`),
		Tree:  tree{Value: 1, Children: []*tree{{Value: 2}}},
		Pairs: []pair[int, time.Time]{{1, time.Unix(0, 0).UTC()}}, NoTag: 3,
	}
	in.Inline.X = 9
	f := decoding(t, everything{})
	for _, codec := range []cellproto.Codec{cellproto.JSON, cellproto.CBOR} {
		_, b, err := encode(codec, in)
		if err != nil {
			t.Fatal(err)
		}
		var out everything
		if err := (arguments{f, codec, b.Bytes()}).decode(&out); err != nil {
			t.Fatalf("codec %d: %v", codec, err)
		}
		if !reflect.DeepEqual(in, out) {
			t.Errorf("codec %d:\n%+v\n%+v", codec, in, out)
		}
		if err := decodeReply(codec, b.Bytes(), &out); err != nil {
			t.Error(err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(uint8(1), []byte(`{"a":1,"list":[{"n":1}],"map":{"x":{"n":2}},"color":"r\u0065d","pair":[1,2],"tree":{"value":1}}`))
	f.Add(uint8(1), []byte(`{ "a" : 1 , "any" : [ { } , null , "\"" , 1e3 ] }`))
	f.Add(uint8(2), []byte("\xa2\x61a\x01\x64list\x81\xa1\x61n\x01"))
	f.Add(uint8(2), []byte("\xa2\x61a\x01\x63any\xc1\xfb\x00\x00\x00\x00\x00\x00\x00\x16"))
	f.Add(uint8(0), []byte{})
	fn := decoding(f, strict{})
	f.Fuzz(func(t *testing.T, codec uint8, data []byte) {
		var v strict
		err := arguments{fn, cellproto.Codec(codec), data}.decode(&v)
		if err != nil {
			if kind := cellproto.KindOf(err); kind != cellproto.BadInput && kind != cellproto.TooLarge && kind != cellproto.Unsupported {
				t.Fatalf("kind %v: %v", kind, err)
			}
			return
		}
		// What was taken is taken again when it is sent on.
		used, b, err := encode(cellproto.Codec(codec), v)
		if err != nil {
			return // e.g. an infinity, which CBOR has and a reply in JSON has not
		}
		var again strict
		if err := (arguments{fn, used, b.Bytes()}).decode(&again); err != nil && b.Len() <= cellproto.MaxArgs && !strings.Contains(err.Error(), "nested") {
			t.Fatalf("%q, sent on as %q: %v", data, b.Bytes(), err)
		}
	})
}
