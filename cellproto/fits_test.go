package cellproto

import (
	"encoding/json"
	"fmt"
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
		{`{"anyOf":[{"$ref":"#/$defs/p"},{"type":"null"}],"$defs":{"p":` + point + `}}`, `{"x":"a"}`, "reply.x is of type string, not integer"},
		{`{"anyOf":[{"type":"string"},{"type":"integer"}]}`, `7`, ""},
		{`{"anyOf":[{"type":"string"},{"type":"integer"}]}`, `[7]`, "none of what is allowed"},
		{`{"$ref":"#/$defs/p","minProperties":2,"$defs":{"p":` + point + `}}`, `{"x":1}`, "past minProperties 2"},
		{`{"type":"object","additionalProperties":{"type":"array","items":{"type":"string"}}}`, `{"a\u001b[31m":["x",7]}`, `reply."a\x1b[31m"[1] is of type number, not string`},
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
			err := f.ReplyFit().Check(codec, payload)
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
	if err := (Function{Output: []byte(`{"type":"integer"}`)}).ReplyFit().Check(0, []byte("raw")); err != nil {
		t.Errorf("raw bytes: %v", err)
	}
}

// In CBOR a time that is not set is null, wherever a time may stand; in JSON it is text.
func TestFitReplyTimeNotSet(t *testing.T) {
	const at = `{"type":"string","format":"date-time"}`
	for _, c := range []struct {
		output string
		reply  any
	}{
		{at, nil},
		{`{"type":"object","properties":{"at":` + at + `},"required":["at"]}`, map[string]any{"at": nil}},
		{`{"type":"array","items":` + at + `}`, []any{nil}},
		{`{"type":"object","additionalProperties":{"$ref":"#/$defs/T"},"$defs":{"T":` + at + `}}`, map[string]any{"x": nil}},
	} {
		f := Function{Output: []byte(c.output)}
		payload, err := cbor.Marshal(c.reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.ReplyFit().Check(CBOR, payload); err != nil {
			t.Errorf("%s: %v", c.output, err)
		}
		if payload, err = json.Marshal(c.reply); err != nil {
			t.Fatal(err)
		}
		if KindOf(f.ReplyFit().Check(JSON, payload)) != BadReply {
			t.Errorf("%s: null passes in JSON", c.output)
		}
	}
}

// A value that is nested deeper than is looked at is no bad one.
func TestFitReplyDeep(t *testing.T) {
	f := Function{Output: []byte(`{"$ref":"#/$defs/L","$defs":{"L":{"type":"array","items":{"$ref":"#/$defs/L"}}}}`)}
	for codec, payload := range map[Codec]string{
		JSON: strings.Repeat("[", 200) + strings.Repeat("]", 200), CBOR: strings.Repeat("\x81", 200) + "\x80",
	} {
		if err := f.ReplyFit().Check(codec, []byte(payload)); err != nil {
			t.Error(codec, err)
		}
	}
}

// Whatever a schema asks for, checking a value takes a number of steps that the value's length bounds.
func TestFitReplyIsBounded(t *testing.T) {
	var alternatives, many strings.Builder
	for i := 1; i < 60; i++ {
		fmt.Fprintf(&alternatives, `,"d%d":{"anyOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i, i-1, i-1)
	}
	for i := range 4000 {
		fmt.Fprintf(&many, `,"D%d":{"type":"array","items":{"type":"string"}}`, i)
	}
	wide := strings.TrimPrefix(strings.ReplaceAll(many.String(), `"D`, `"p`), ",")
	for name, c := range map[string]struct{ output, reply string }{
		"alternatives": {`{"$ref":"#/$defs/d59","$defs":{"d0":{"type":"integer"}` + alternatives.String() + `}}`, `"x"`},
		"definitions":  {`{"type":"array","items":{"$ref":"#/$defs/D1"},"$defs":{"D":{}` + many.String() + `}}`, "[" + strings.Repeat("[],", 80_000) + "[]]"},
		"properties":   {`{"type":"array","items":{"type":"object","properties":{` + wide + `}}}`, "[" + strings.Repeat("{},", 80_000) + "{}]"},
		"circle":       {`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, "[]"},
	} {
		fit := Function{Output: []byte(c.output)}.ReplyFit()
		var v any
		if err := decodeJSONForTest(c.reply, &v); err != nil {
			t.Fatal(err)
		}
		w := fitting{steps: maxFitSteps + len(c.reply)}
		w.value(fit.root, v, 0)
		t.Logf("%s: %d steps for %d bytes", name, maxFitSteps+len(c.reply)-w.steps, len(c.reply))
		if w.steps < -1000 {
			t.Errorf("%s: %d steps too many", name, -w.steps)
		}
	}
}

// What has been read once serves all checks: one of a small value is not dearer for a large schema.
func TestFitAllocatesForTheValueOnly(t *testing.T) {
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, `,"D%d":{"type":"array","items":{"type":"string"}}`, i)
	}
	allocs := func(more string) float64 {
		fit := Function{Output: []byte(`{"type":"array","items":{"$ref":"#/$defs/D"},"$defs":{"D":{"type":"string"}` + more + `}}`)}.ReplyFit()
		return testing.AllocsPerRun(20, func() {
			if err := fit.Check(JSON, []byte(`["a","b"]`)); err != nil {
				t.Fatal(err)
			}
		})
	}
	if small, large := allocs(""), allocs(many.String()); large > small {
		t.Errorf("%v allocations with 2000 definitions, %v with one", large, small)
	}
}

func decodeJSONForTest(text string, v *any) error { return json.Unmarshal([]byte(text), v) }

func FuzzFitReply(f *testing.F) {
	f.Add([]byte(`{"type":"object","properties":{"x":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"array","items":{"enum":[1]}}}}`), []byte(`{"x":[1]}`), true)
	f.Fuzz(func(t *testing.T, output, reply []byte, asJSON bool) {
		codec := CBOR
		if asJSON {
			codec = JSON
		}
		if err := (Function{Output: output}).ReplyFit().Check(codec, reply); err != nil && KindOf(err) != BadReply {
			t.Fatal(err)
		}
	})
}

// BenchmarkFit checks a reply of 600 structs of 8 texts, beside what it takes to decode it.
func BenchmarkFit(b *testing.B) {
	var properties []string
	item := map[string]string{}
	for i := range 8 {
		name := fmt.Sprintf("field%d", i)
		properties = append(properties, `"`+name+`":{"type":"string"}`)
		item[name] = "some value of it"
	}
	list := make([]map[string]string, 600)
	for i := range list {
		list[i] = item
	}
	text, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	binary, err := cbor.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	f := Function{Output: []byte(`{"type":"array","items":{"$ref":"#/$defs/I"},"$defs":{"I":{"type":"object","properties":{` +
		strings.Join(properties, ",") + `},"required":["field0"]}}}`)}
	fit := f.ReplyFit()
	for _, c := range []struct {
		name    string
		codec   Codec
		payload []byte
	}{{"json", JSON, text}, {"cbor", CBOR, binary}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.payload)))
			for b.Loop() {
				if err := fit.Check(c.codec, c.payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			var into []struct{ Field0, Field1, Field2, Field3, Field4, Field5, Field6, Field7 string }
			if err := json.Unmarshal(text, &into); err != nil {
				b.Fatal(err)
			}
		}
	})
}
