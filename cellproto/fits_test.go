package cellproto

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestFitReply(t *testing.T) {
	const point = `{"type":"object","properties":{"x":{"type":"integer","minimum":0},"name":{"type":["string","null"]}},"required":["x"],"additionalProperties":false}`
	for _, c := range []struct{ output, reply, want string }{
		{`{"type":"integer"}`, `7`, ""},
		{`{"type":"integer"}`, `7.0`, ""},
		{`{"type":"integer"}`, `7.5`, "reply is of type number, not integer"},
		{`{"type":"integer"}`, `"7"`, "reply is of type string, not integer"},
		{`{"type":"number"}`, `7`, ""},
		{`{"type":["array","null"],"items":{"type":"string"}}`, `null`, ""},
		{`{"type":["array","null"],"items":{"type":"string"}}`, `["a",1]`, "reply[1] is of type"},
		{`{"type":"array","minItems":2}`, `[1]`, "past minItems 2"},
		{point, `{"x":1}`, ""},
		{point, `{"x":1,"name":null}`, ""},
		{point, `{"name":"a"}`, `reply lacks "x"`},
		{point, `{"x":-1}`, "reply.x is past minimum 0"},
		{point, `{"x":1,"y":2}`, "reply.y has no value that is allowed"},
		{point, `{"x":1,"name":2}`, "reply.name is of type number, not null|string"},
		{`{"type":"string","enum":["a","b"]}`, `"b"`, ""},
		{`{"type":"string","enum":["a","b"]}`, `"c"`, "a value that is not listed"},
		{`{"enum":[1,null]}`, `null`, ""},
		{`{"enum":[1,null]}`, `2`, "not listed"},
		{`{"anyOf":[{"$ref":"#/$defs/p"},{"type":"null"}],"$defs":{"p":` + point + `}}`, `null`, ""},
		{`{"anyOf":[{"$ref":"#/$defs/p"},{"type":"null"}],"$defs":{"p":` + point + `}}`, `{"x":"a"}`, "none of what is allowed"},
		{`{"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"},"v":{"type":"integer"}}}}}`, `{"v":1,"next":{"v":2,"next":{"v":"x"}}}`, "reply.next.next.v is of type string"},
		{`false`, `1`, "no value that is allowed"},
		{`true`, `{"any":["thing"]}`, ""},
		{`{"type":"string","pattern":"^a"}`, `"b"`, ""}, // not looked at
		{`{"type":"string"}`, `"a" "b"`, "cannot be decoded"},
		{`{"type":"string"}`, `{`, "cannot be decoded"},
	} {
		f := Function{Output: []byte(c.output)}
		check := func(codec Codec, payload []byte) {
			t.Helper()
			err := f.FitReply(codec, payload)
			switch {
			case c.want == "" && err != nil, c.want != "" && err == nil,
				c.want != "" && (KindOf(err) != BadReply || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v of %s against %s: %v, want %q", codec, c.reply, c.output, err, c.want)
			}
		}
		check(JSON, []byte(c.reply))
		var v any
		if fitCBOR.Wellformed([]byte(c.reply)) == nil || strings.Contains(c.want, "decoded") || strings.Contains(c.reply, ".") {
			continue
		}
		if err := decodeJSONForTest(c.reply, &v); err != nil {
			t.Fatal(err)
		}
		data, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		check(CBOR, data)
	}
	if err := (Function{Output: []byte(`{"type":"integer"}`)}).FitReply(0, []byte("raw")); err != nil {
		t.Errorf("raw bytes: %v", err)
	}
}

// A schema that would take for ever is given up on, and the value passes.
func TestFitReplyIsBounded(t *testing.T) {
	defs := `"d0":{"type":"integer"}`
	for i := 1; i < 60; i++ {
		prev := `{"$ref":"#/$defs/d` + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10)) + `"}`
		if i == 1 {
			prev = `{"$ref":"#/$defs/d0"}`
		}
		defs += `,"d` + string(rune('0'+i/10)) + string(rune('0'+i%10)) + `":{"anyOf":[` + prev + `,` + prev + `]}`
	}
	f := Function{Output: []byte(`{"$ref":"#/$defs/d59","$defs":{` + defs + `}}`)}
	_ = f.FitReply(JSON, []byte(`"x"`)) // it returns
}

func decodeJSONForTest(text string, v *any) error { return json.Unmarshal([]byte(text), v) }

func FuzzFitReply(f *testing.F) {
	f.Add([]byte(`{"type":"object","properties":{"x":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"array","items":{"enum":[1]}}}}`), []byte(`{"x":[1]}`), true)
	f.Fuzz(func(t *testing.T, output, reply []byte, asJSON bool) {
		codec := CBOR
		if asJSON {
			codec = JSON
		}
		if err := (Function{Output: output}).FitReply(codec, reply); err != nil && KindOf(err) != BadReply {
			t.Fatal(err)
		}
	})
}
