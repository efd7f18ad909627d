package cellproto

import (
	"fmt"
	"strings"
	"testing"
)

func TestCompatible(t *testing.T) {
	schema := func(fn string) *Schema {
		t.Helper()
		s, err := ParseSchema([]byte(`{"cell": "c", "functions": {"f": ` + fn + `}}`))
		if err != nil {
			t.Fatalf("%v in %s", err, fn)
		}
		return s
	}
	input := func(s string) string { return `{"input": ` + s + `}` }
	output := func(s string) string { return `{"output": ` + s + `}` }
	object := func(props, more string) string {
		return `{"type": "object", "properties": {` + props + `}` + more + `}`
	}
	a, ab := `"a": {"type": "integer"}`, `"a": {"type": "integer"}, "b": {"type": "string"}`
	for name, c := range map[string]struct{ old, next, want string }{
		"same":                    {input(object(a, "")), input(object(a, "")), ""},
		"other doc":               {`{"doc": "x"}`, `{"doc": "y"}`, ""},
		"other description":       {input(object(a, `, "title": "x"`)), input(object(a, `, "title": "y"`)), ""},
		"optional argument":       {input(object(a, "")), input(object(ab, "")), ""},
		"required argument":       {input(object(a, "")), input(object(ab, `, "required": ["b"]`)), "f: input.b: it is required now"},
		"now required":            {input(object(ab, "")), input(object(ab, `, "required": ["b"]`)), "input.b: it is required now"},
		"no longer required":      {input(object(ab, `, "required": ["a", "b"]`)), input(object(ab, `, "required": ["a"]`)), ""},
		"argument gone":           {input(object(ab, "")), input(object(a, "")), "input.b: it is gone"},
		"argument into an open":   {input(object(ab, "")), input(`{"type": "object"}`), ""},
		"wider argument":          {input(object(a, "")), input(object(`"a": {"type": "number"}`, "")), ""},
		"narrower argument":       {input(object(`"a": {"type": "number"}`, "")), input(object(a, "")), "input.a: the type was number and is integer"},
		"other type":              {input(object(a, "")), input(object(`"a": {"type": "string"}`, "")), "input.a: the type was integer and is string"},
		"deep":                    {input(object(`"o": `+object(a, ""), "")), input(object(`"o": `+object(`"a": {"type": "null"}`, ""), "")), "input.o.a: the type"},
		"items":                   {input(object(`"l": {"type": "array", "items": {"type": "string"}}`, "")), input(object(`"l": {"type": "array", "items": {"type": "integer"}}`, "")), "input.l[]: the type"},
		"positions":               {`{"input": ` + object(ab, "") + `, "order": ["a", "b"]}`, `{"input": ` + object(ab, "") + `, "order": ["b", "a"]}`, "positional"},
		"one more position":       {`{"input": ` + object(a, "") + `, "order": ["a"]}`, `{"input": ` + object(ab, "") + `, "order": ["a", "b"]}`, ""},
		"value gone":              {input(object(`"a": {"enum": ["x", "y"]}`, "")), input(object(`"a": {"enum": ["y"]}`, "")), `the value "x" is not allowed`},
		"value added":             {input(object(`"a": {"enum": ["x"]}`, "")), input(object(`"a": {"enum": ["y", "x"]}`, "")), ""},
		"values listed":           {input(object(`"a": {"type": "string"}`, "")), input(object(`"a": {"type": "string", "enum": ["y"]}`, "")), "only some values"},
		"lower bound falls":       {input(object(`"a": {"minimum": 3}`, "")), input(object(`"a": {"minimum": 2}`, "")), ""},
		"lower bound rises":       {input(object(`"a": {"minimum": 2}`, "")), input(object(`"a": {"minimum": 3}`, "")), "minimum has changed"},
		"upper bound appears":     {input(object(a, "")), input(object(`"a": {"type": "integer", "maximum": 3}`, "")), "maximum has changed"},
		"pattern":                 {input(object(`"a": {"pattern": "x"}`, "")), input(object(`"a": {"pattern": "y"}`, "")), "pattern has changed"},
		"pattern gone":            {input(object(`"a": {"pattern": "x"}`, "")), input(object(`"a": {}`, "")), ""},
		"result gone":             {output(object(ab, "")), output(object(a, "")), "output.b: it is gone"},
		"result added":            {output(object(a, "")), output(object(ab, "")), ""},
		"result wider":            {output(`{"type": "integer"}`), output(`{"type": "number"}`), "output: the type was integer and is number"},
		"result narrower":         {output(`{"type": "number"}`), output(`{"type": "integer"}`), ""},
		"result not always":       {output(object(ab, `, "required": ["a"]`)), output(object(ab, "")), "output.a: it is not always"},
		"result value added":      {output(`{"enum": [1]}`), output(`{"enum": [1, 2]}`), "the value 2 is new"},
		"result without a schema": {output(`{"type": "integer"}`), `{}`, "output: the type"},
		"anything before":         {`{}`, output(`{"type": "integer"}`), ""},
		"no longer pure":          {`{"pure": true}`, `{}`, "not pure any more"},
		"pure to idempotent":      {`{"pure": true}`, `{"idempotent": true}`, "not pure any more"},
		"now pure":                {`{"idempotent": true}`, `{"pure": true}`, ""},
		"slow":                    {`{}`, `{"slow": true}`, ""},
		"no body":                 {`{"body_in": true}`, `{}`, "takes no body"},
		"reply is a body":         {`{}`, `{"body_out": true}`, "is a body now"},
		"definition": {
			input(`{"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "$defs": {"p": ` + object(a, "") + `}}`),
			input(`{"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "$defs": {"p": ` + object(`"a": {"type": "null"}`, "") + `}}`),
			"input.p.a: the type",
		},
		"circle": {
			input(`{"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "$defs": {"p": {"type": "object", "properties": {"n": {"$ref": "#/$defs/p"}}}}}`),
			input(`{"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "$defs": {"p": {"type": "object", "properties": {"n": {"$ref": "#/$defs/p"}, "m": {}}}}}`),
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := fmt.Sprint(Compatible(schema(c.old), schema(c.next)))
			if c.want == "" && got != "[]" || !strings.Contains(got, c.want) {
				t.Errorf("%s\nwant %q", got, c.want)
			}
			if same := Compatible(schema(c.old), schema(c.old)); len(same) > 0 {
				t.Errorf("with itself: %v", same)
			}
		})
	}
	two := &Schema{Cell: "c", Functions: map[string]Function{"f": {}, "g": {}}}
	one := &Schema{Cell: "c", Functions: map[string]Function{"f": {}}}
	if got := fmt.Sprint(Compatible(two, one)); got != "[g: the function is gone]" {
		t.Error(got)
	}
	if Compatible(one, two) != nil || Compatible(nil, one) != nil || Compatible(one, nil) != nil {
		t.Error("more is no break")
	}
}

func FuzzCompatible(f *testing.F) {
	f.Add([]byte(`{"cell":"c","functions":{"f":{"input":{"type":"object"}}}}`), []byte(`{"cell":"c","functions":{"f":{}}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, err := ParseSchema(a)
		y, nerr := ParseSchema(b)
		if err != nil || nerr != nil {
			return
		}
		Compatible(x, y)
		if same := Compatible(x, x); len(same) > 0 {
			t.Errorf("with itself: %v", same)
		}
	})
}

func TestCompare(t *testing.T) {
	parse := func(functions string) *Schema {
		t.Helper()
		s, err := ParseSchema([]byte(`{"cell": "c", "functions": {` + functions + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	f, g := `"f": {"output": {"type": "integer"}}`, `"g": {}`
	for name, c := range map[string]struct {
		old, next    *Schema
		want         Verdict
		breaks, adds int
	}{
		"same":      {parse(f), parse(f), SameSchema, 0, 0},
		"words":     {parse(f), parse(`"f": {"doc": "x", "output": {"type": "integer"}}`), BothWays, 0, 0},
		"more":      {parse(f), parse(f + "," + g), ForCallersOnly, 0, 1},
		"less":      {parse(f + "," + g), parse(f), Breaking, 1, 0},
		"other":     {parse(f), parse(g), Breaking, 1, 1},
		"from none": {nil, parse(f), BothWays, 0, 0},
	} {
		got := Compare(c.old, c.next)
		if got.Verdict != c.want || len(got.Breaks) != c.breaks || len(got.Adds) != c.adds {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A change in what refers to itself is said of the place that is nearest, whatever the members before it are called.
func TestChangeIsSaidOfTheNearestPlace(t *testing.T) {
	schema := func(price string) *Schema {
		t.Helper()
		s, err := ParseSchema([]byte(`{"cell": "c", "functions": {"f": {"input": {"$ref": "#/$defs/Line", "$defs": {"Line": {"type": "object",
			"properties": {"next": {"$ref": "#/$defs/Line"}, "price": {"type": "` + price + `"}}}}}}}}`))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	changes := Compatible(schema("integer"), schema("string"))
	if len(changes) != 1 || changes[0].Where != "input.price" {
		t.Errorf("%v", changes)
	}
}
