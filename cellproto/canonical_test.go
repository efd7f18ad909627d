package cellproto_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"pgregory.net/rapid"
)

func TestCanonicalJSON(t *testing.T) {
	for text, want := range map[string]string{
		` { "b" : 1 , "a" : [ true , false , null ] } `: `{"a":[true,false,null],"b":1}`,
		`[1.0,1e3,-0,1E+2,12345678901234567890]`:        `[1.0,1e3,-0,1E+2,12345678901234567890]`,
		`"\u0041\u20ac\/\u007f\ud83d\ude00"`:            "\"A€/\x7f😀\"",
		`"\u0000\u001f\b\t\n\f\r\"\\<>&"`:               `"\u0000\u001f\b\t\n\f\r\"\\<>&"`,
		// U+E000 sorts before U+1F600 here; in UTF-16, as in RFC 8785, it is the other way round.
		`{"\ud83d\ude00":1,"\ue000":2,"":3,"\u0061a":4,"a":5}`: "{\"\":3,\"a\":5,\"aa\":4,\"\ue000\":2,\"😀\":1}",
	} {
		if got, err := cellproto.CanonicalJSON([]byte(text)); err != nil || string(got) != want {
			t.Errorf("%s: %s (%v), want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "{", `{"a":1,"a":1}`, "\"\xff\"", `"\ud800"`, "1 2"} {
		if _, err := cellproto.CanonicalJSON([]byte(text)); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%q: %v", text, err)
		}
	}
	big := `"` + strings.Repeat("x", cellproto.MaxSchema) + `"`
	if _, err := cellproto.CanonicalJSON([]byte(big)); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Error(err)
	}
}

// jsonTree draws a JSON value.
func jsonTree(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		top := 6
		if depth == 0 {
			top = 4
		}
		switch rapid.IntRange(0, top).Draw(t, "sort") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return json.Number(rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?`).Draw(t, "number"))
		case 3, 4:
			return rapid.String().Draw(t, "string")
		case 5:
			return rapid.SliceOfN(jsonTree(depth-1), 0, 4).Draw(t, "array")
		}
		return rapid.MapOfN(rapid.String(), jsonTree(depth-1), 0, 24).Draw(t, "object")
	})
}

// write spells a value with white space, an order of members and escapes of its own.
func write(t *rapid.T, b *strings.Builder, v any) {
	space := func() { b.WriteString(rapid.SampledFrom([]string{"", "", " ", "\n\t", "\r\n"}).Draw(t, "space")) }
	space()
	defer space()
	switch v := v.(type) {
	case string:
		b.WriteByte('"')
		for _, r := range v {
			switch escape := rapid.Bool().Draw(t, "escape"); {
			case (escape || r < 0x20 || r == '"' || r == '\\') && r < 0x10000:
				fmt.Fprintf(b, `\u%04X`, r)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte('"')
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			write(t, b, e)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		first := true
		for k, e := range v { // in any order
			if !first {
				b.WriteByte(',')
			}
			first = false
			write(t, b, k)
			b.WriteByte(':')
			write(t, b, e)
		}
		b.WriteByte('}')
	default:
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(data)
	}
}

func TestCanonicalJSONProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := jsonTree(3).Draw(t, "tree")
		var one, two strings.Builder
		write(t, &one, tree)
		write(t, &two, tree)
		a, errA := cellproto.CanonicalJSON([]byte(one.String()))
		b, errB := cellproto.CanonicalJSON([]byte(two.String()))
		if errA != nil || errB != nil {
			t.Fatalf("%v, %v", errA, errB)
		}
		if string(a) != string(b) {
			t.Fatalf("two spellings of one value:\n%s\n%s", a, b)
		}
		again, err := cellproto.CanonicalJSON(a)
		if err != nil || string(again) != string(a) {
			t.Fatalf("not a fixed point: %s (%v)", again, err)
		}
		if !json.Valid(a) || len(a) > one.Len() {
			t.Fatalf("not shorter: %s", a)
		}
	})
}
