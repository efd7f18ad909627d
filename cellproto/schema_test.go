package cellproto_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func calculator(t testing.TB) ([]byte, *cellproto.Schema) {
	data, err := os.ReadFile("testdata/schema/calculator.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := cellproto.ParseSchema(data)
	if err != nil {
		t.Fatal(err)
	}
	return data, s
}

// The canonical form and its hash are part of the protocol: whoever changes them parts from every
// schema that has been published.
const (
	calculatorCanonical = `{"cell":"calculator","functions":{"add":{"doc":"Adds two integers. It is \"pure\" & <fast>: € 0.",` +
		`"input":{"additionalProperties":false,"properties":{"a":{"default":1.0,"type":"integer"},"b":{"type":"integer"}},` +
		`"required":["a","b"],"type":"object"},"order":["a","b"],"output":{"type":"integer"},"pure":true},` +
		`"slow":{"input":{"properties":{"ms":{"maximum":1e4,"minimum":0,"type":"integer"}},"type":"object"},"output":true,"slow":true}}}`
	calculatorHash = "6d6b9d13dec884cf98c59c9083c9e6936008832d81c890c86187d3b5e3255057"
)

func TestSchemaCanonicalAndHash(t *testing.T) {
	_, s := calculator(t)
	if got := string(s.Canonical()); got != calculatorCanonical {
		t.Errorf("canonical form:\n got %s\nwant %s", got, calculatorCanonical)
	}
	if got := s.Hash().String(); got != calculatorHash {
		t.Errorf("hash %s, want %s", got, calculatorHash)
	}
	again, err := cellproto.ParseSchema(s.Canonical())
	if err != nil {
		t.Fatal(err)
	}
	if again.Hash() != s.Hash() {
		t.Error("the canonical form has another hash")
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	add := s.Functions["add"]
	if !add.Pure || add.Idempotent || add.Slow || !reflect.DeepEqual(add.Order, []string{"a", "b"}) || !s.Functions["slow"].Slow {
		t.Errorf("%+v", s)
	}
}

func TestSchemaOfNothing(t *testing.T) {
	bad := cellproto.Schema{Cell: "x", Functions: map[string]cellproto.Function{"f": {Input: json.RawMessage("{")}}}
	if bad.Canonical() != nil || !bad.Hash().IsZero() || cellproto.KindOf(bad.Validate()) != cellproto.BadInput {
		t.Error("a schema that is not JSON has a canonical form")
	}
	if got := string(cellproto.Schema{Cell: "x"}.Canonical()); got != `{"cell":"x","functions":{}}` {
		t.Error(got)
	}
}

func TestParseSchemaMustFail(t *testing.T) {
	data, err := os.ReadFile("testdata/schema/must-fail.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []argsVector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			_, err := cellproto.ParseSchema(v.text(t))
			if got := cellproto.KindOf(err); err == nil || got != cellproto.ParseKind(v.Kind) {
				t.Fatalf("got %v (%v), want %q", got, err, v.Kind)
			}
		})
	}
}

func TestParseSchemaTooManyFunctions(t *testing.T) {
	for n, want := range map[int]cellproto.Kind{cellproto.MaxFunctions: 0, cellproto.MaxFunctions + 1: cellproto.TooLarge} {
		var b bytes.Buffer
		b.WriteString(`{"cell":"x","functions":{"f":{}`)
		for i := range n - 1 {
			fmt.Fprintf(&b, `,"f%d":{}`, i)
		}
		b.WriteString("}}")
		if _, err := cellproto.ParseSchema(b.Bytes()); cellproto.KindOf(err) != want {
			t.Errorf("%d functions: %v, want %v", n, err, want)
		}
	}
}

func TestParseSchemaErrorsSayWhere(t *testing.T) {
	_, err := cellproto.ParseSchema([]byte(`{"cell":"x","functions":{"f":{"inptu":{}}}}`))
	if err == nil || !strings.Contains(err.Error(), "parse schema: functions: f: inptu: unknown key") ||
		cellproto.HintOf(err) != `Did you mean "input"?` {
		t.Errorf("%v (%s)", err, cellproto.HintOf(err))
	}
}

func TestSchemaFunction(t *testing.T) {
	_, s := calculator(t)
	if _, err := s.Function("add"); err != nil {
		t.Error(err)
	}
	_, err := s.Function("ad")
	if cellproto.KindOf(err) != cellproto.NotFound || cellproto.HintOf(err) != `Did you mean "add"?` {
		t.Errorf("%v (%s)", err, cellproto.HintOf(err))
	}
	_, err = s.Function("multiply")
	if cellproto.HintOf(err) != "It has: add, slow." {
		t.Error(cellproto.HintOf(err))
	}
}

func TestParseSchemaHash(t *testing.T) {
	text := strings.Repeat("0a", 32)
	h, err := cellproto.ParseSchemaHash(text)
	if err != nil || h.String() != text || h.IsZero() {
		t.Error(h, err)
	}
	data, _ := json.Marshal(h)
	var again cellproto.SchemaHash
	if err := json.Unmarshal(data, &again); err != nil || again != h {
		t.Error(string(data), err)
	}
	for _, bad := range []string{"", "0a", text[1:], text + "00", strings.ToUpper(text), text[:63] + "g"} {
		if _, err := cellproto.ParseSchemaHash(bad); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestValidNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "calc-2": true, "0": true, strings.Repeat("a", 63): true,
		"": false, "-": false, "-a": false, "A": false, "a_b": false, "a.b": false, strings.Repeat("a", 64): false,
	} {
		if cellproto.ValidCellName(name) != want {
			t.Errorf("cell %q: not %v", name, want)
		}
	}
	for name, want := range map[string]bool{
		"a": true, "Add2": true, "a.b_c-d": true, "cellular": true, strings.Repeat("a", 128): true,
		"": false, "cell.x": false, "cell.": false, "1": false, "_a": false, "a b": false, "a\n": false, strings.Repeat("a", 129): false,
	} {
		if cellproto.ValidFuncName(name) != want {
			t.Errorf("function %q: not %v", name, want)
		}
	}
}

func FuzzParseSchema(f *testing.F) {
	data, _ := calculator(f)
	f.Add(data)
	f.Add([]byte(`{"cell":"x","functions":{"f":{"input":{"$ref":"#/$defs/a","$defs":{"a":{"enum":[1,"b",null]}}}}}}`))
	f.Add([]byte(`{"cell":"x","functions":{"f":{"input":{"type":["object","null"],"properties":{"a":true},"required":["a","b"]},"order":["b"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := cellproto.ParseSchema(data)
		if err != nil {
			if k := cellproto.KindOf(err); k != cellproto.BadInput && k != cellproto.TooLarge {
				t.Fatalf("kind %v: %v", k, err)
			}
			return
		}
		again, err := cellproto.ParseSchema(s.Canonical())
		if err != nil || again.Hash() != s.Hash() || s.Hash().IsZero() {
			t.Fatalf("%s: %v", s.Canonical(), err)
		}
		for name, fn := range s.Functions {
			if fn.Usage(name) == "" {
				t.Fatal("no usage")
			}
			if args, err := fn.Arguments([]string{"1", "a=2", "true"}); err == nil {
				if err := fn.CheckArgs(args); err != nil {
					t.Fatalf("%s made of argv: %v", args, err)
				}
			}
		}
	})
}
