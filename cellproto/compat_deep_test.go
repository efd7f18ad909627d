package cellproto

import (
	"fmt"
	"strings"
	"testing"
)

func functionSchema(t testing.TB, fn string) *Schema {
	t.Helper()
	s, err := ParseSchema([]byte(`{"cell": "c", "functions": {"f": ` + fn + `}}`))
	if err != nil {
		t.Fatalf("%v in %.200s", err, fn)
	}
	return s
}

// What stands in maps, behind references and beside them. Each row is tried as it is and as its own neighbour.
func TestCompatibleDeep(t *testing.T) {
	const (
		ints   = `{"type":"object","additionalProperties":{"type":"integer"}}`
		texts  = `{"type":"object","additionalProperties":{"type":"string"}}`
		closed = `{"type":"object","properties":{"x":{"type":"string"}},"additionalProperties":false}`
		item   = `{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]}`
		more   = `{"type":"object","properties":{"x":{"type":"integer"},"y":{"type":"string"}},"required":["x","y"]}`
		other  = `{"type":"object","properties":{"x":{"type":"string"}},"required":["x"]}`
		null   = `{"type":"null"}`
		ref    = `{"$ref":"#/$defs/I"}`
		at     = `"at":{"type":"string","format":"date-time"}`
	)
	in := func(s string) string { return `{"input":{"type":"object","properties":{"a":` + s + `}}}` }
	out := func(s string) string { return `{"output":` + s + `}` }
	defs := func(s, def string) string { return strings.TrimSuffix(s, "}") + `,"$defs":{"I":` + def + `}}` }
	// The definitions are those of the root.
	inDefs := func(s, def string) string {
		return `{"input":` + defs(`{"type":"object","properties":{"a":`+s+`}}`, def) + `}`
	}
	holding := func(of, def string) string {
		return out(defs(`{"type":"object","properties":{`+of+`,"i":`+ref+`},"required":["i"]}`, def))
	}
	orNull := func(s string) string { return `{"anyOf":[` + s + `,` + null + `]}` }
	for name, c := range map[string]struct{ old, next, want string }{
		// Maps.
		"argument's values":            {in(ints), in(texts), "input.a.*: the type was integer and is string"},
		"result's values":              {out(ints), out(texts), "output.*: the type was integer and is string"},
		"values of a type":             {in(`{"type":"object","additionalProperties":` + item + `}`), in(`{"type":"object","additionalProperties":` + more + `}`), "input.a.*.y: it is required now"},
		"values of another type":       {in(`{"type":"object","additionalProperties":` + item + `}`), in(`{"type":"object","additionalProperties":` + other + `}`), "input.a.*.x: the type"},
		"values grow wider":            {in(ints), in(`{"type":"object","additionalProperties":{"type":"number"}}`), ""},
		"values grow narrower":         {out(`{"type":"object","additionalProperties":{"type":"number"}}`), out(ints), ""},
		"map to closed struct":         {in(texts), in(closed), "input.a: other names are not allowed any more"},
		"map to struct, result":        {out(ints), out(`{"type":"object","properties":{"x":{"type":"string"}}}`), "output.x: the type was integer and is string"},
		"map to struct, result, same":  {out(texts), out(`{"type":"object","properties":{"x":{"type":"string"}}}`), ""},
		"struct to map":                {in(closed), in(texts), ""},
		"struct to map, other":         {in(closed), in(ints), "input.a.x: the type was string and is integer"},
		"struct to map, result":        {out(item), out(ints), "output.x: it is not always there any more"},
		"new name in an open one":      {in(`{"type":"object","properties":{"x":{"type":"string"}},"additionalProperties":{"type":"integer"}}`), in(`{"type":"object","properties":{"x":{"type":"string"},"y":{"type":"string"}},"additionalProperties":{"type":"integer"}}`), "input.a.y: the type was integer and is string"},
		"any values to some":           {in(`{"type":"object","additionalProperties":true}`), in(ints), "input.a.*: the type was any and is integer"},
		"some values to any":           {in(ints), in(`{"type":"object"}`), ""},
		"result may have more":         {out(`{"type":"object","properties":{"x":{"type":"string"}},"additionalProperties":false}`), out(`{"type":"object","properties":{"x":{"type":"string"},"y":{"type":"string"}}}`), "output.y: no other names were promised"},
		"names by patterns":            {in(`{"type":"object","properties":{},"patternProperties":{"^x":{"type":"string"}},"additionalProperties":false}`), in(closed), "input.a: other names are not allowed any more"},
		"a map within a list in a map": {out(`{"type":"object","additionalProperties":{"type":"array","items":` + ints + `}}`), out(`{"type":"object","additionalProperties":{"type":"array","items":` + texts + `}}`), "output.*[].*: the type"},

		// Definitions that change beside what does not.
		"time beside":         {holding(at, item), holding(at, more), ""},
		"bytes beside":        {holding(`"d":{"type":"string","contentEncoding":"base64"}`, item), holding(`"d":{"type":"string","contentEncoding":"base64"}`, more), ""},
		"pattern beside":      {holding(`"p":{"type":"string","pattern":"x"}`, item), holding(`"p":{"type":"string","pattern":"x"}`, more), ""},
		"unique beside":       {holding(`"l":{"type":"array","uniqueItems":true}`, item), holding(`"l":{"type":"array","uniqueItems":true}`, more), ""},
		"one of beside":       {holding(`"o":{"oneOf":[{"type":"string"},{"type":"array"}]}`, item), holding(`"o":{"oneOf":[{"type":"string"},{"type":"array"}]}`, more), ""},
		"one of what changed": {holding(`"o":{"oneOf":[`+ref+`,{"type":"array"}]}`, item), holding(`"o":{"oneOf":[`+ref+`,{"type":"array"}]}`, other), "output.o: oneOf has changed"},
		"unused definition": {
			out(`{"type":"object","properties":{"o":{"not":{"$ref":"#/$defs/A"}}},"$defs":{"A":` + item + `,"B":` + item + `}}`),
			out(`{"type":"object","properties":{"o":{"not":{"$ref":"#/$defs/A"}}},"$defs":{"A":` + item + `,"B":` + more + `}}`), "",
		},
		"by way of another": {
			out(`{"type":"object","properties":{"o":{"not":{"$ref":"#/$defs/A"}}},"$defs":{"A":{"type":"array","items":{"$ref":"#/$defs/B"}},"B":` + item + `}}`),
			out(`{"type":"object","properties":{"o":{"not":{"$ref":"#/$defs/A"}}},"$defs":{"A":{"type":"array","items":{"$ref":"#/$defs/B"}},"B":` + more + `}}`), "output.o: not has changed",
		},

		// Pointers.
		"pointer, one more field":    {out(defs(orNull(ref), item)), out(defs(orNull(ref), more)), ""},
		"pointer, field changed":     {out(defs(orNull(ref), item)), out(defs(orNull(ref), other)), "output.x: the type was integer and is string"},
		"result becomes a pointer":   {out(defs(ref, item)), out(defs(orNull(ref), item)), "output: the type was object and is null|object"},
		"result no longer a pointer": {out(defs(orNull(ref), item)), out(defs(ref, item)), ""},
		"argument becomes a pointer": {inDefs(ref, item), inDefs(orNull(ref), item), ""},
		"argument no longer one":     {inDefs(orNull(ref), item), inDefs(ref, item), "input.a: the type was null|object and is object"},
		"the other way around":       {out(`{"anyOf":[` + null + `,` + item + `]}`), out(orNull(item)), ""},
		"pointer to an enum":         {out(orNull(`{"type":"string","enum":["a","b"]}`)), out(orNull(`{"type":"string","enum":["a"]}`)), ""},
		"pointer to an enum, more":   {out(orNull(`{"type":"string","enum":["a"]}`)), out(orNull(`{"type":"string","enum":["a","b"]}`)), `the value "b" is new`},
		"enum with a null":           {out(`{"enum":["a",null]}`), out(orNull(`{"type":"string","enum":["a"]}`)), ""},
		"enum becomes a pointer":     {out(`{"type":"string","enum":["a"]}`), out(orNull(`{"type":"string","enum":["a"]}`)), "output: the type was string and is null|string"},
		"given a name":               {out(item), out(defs(ref, more)), ""},
		"other alternatives":         {out(`{"anyOf":[{"type":"string"},{"type":"array"}]}`), out(`{"anyOf":[{"type":"string"},{"type":"object"}]}`), "output: anyOf has changed"},

		// Bytes are byte strings in CBOR, and a time that is not set is null there.
		"bytes to text":             {in(`{"type":"string","contentEncoding":"base64"}`), in(`{"type":"string"}`), "input.a: contentEncoding has changed"},
		"text to bytes":             {in(`{"type":"string"}`), in(`{"type":"string","contentEncoding":"base64"}`), "input.a: contentEncoding has changed"},
		"result text to bytes":      {out(`{"type":"string"}`), out(`{"type":"string","contentEncoding":"base64"}`), "output: contentEncoding has changed"},
		"result bytes to text":      {out(`{"type":"string","contentEncoding":"base64"}`), out(`{"type":"string"}`), "output: contentEncoding has changed"},
		"bytes to anything":         {in(`{"type":"string","contentEncoding":"base64"}`), in(`true`), ""},
		"result text to time":       {out(`{"type":"string"}`), out(`{"type":"string","format":"date-time"}`), "output: format has changed"},
		"result text to time, null": {out(`{"type":["string","null"]}`), out(`{"type":"string","format":"date-time"}`), ""},
		"result text to address":    {out(`{"type":"string"}`), out(`{"type":"string","format":"email"}`), ""},

		// References that lead out of the definitions, and what stands beside one.
		"narrowed by another document": {in(`{"type":"integer"}`), in(`{"$ref":"https://example.org/x"}`), "input.a: it refers to a schema that is not looked at"},
		"another document":             {in(`{"$ref":"https://example.org/x"}`), in(`{"$ref":"https://example.org/x","description":"y"}`), ""},
		"another document, other":      {in(`{"$ref":"https://example.org/x"}`), in(`{"$ref":"https://example.org/y"}`), "input.a: it refers to"},
		"other document for anything":  {in(`{"$ref":"https://example.org/x"}`), in(`{}`), ""},
		"the whole of itself": {
			out(`{"type":"object","properties":{"n":{"$ref":"#"},"a":{"type":"integer"}}}`),
			out(`{"type":"object","properties":{"n":{"$ref":"#"},"a":{"type":"string"}}}`), "output.a: the type",
		},
		"beside, narrower": {inDefs(ref, item), inDefs(`{"$ref":"#/$defs/I","minProperties":2}`, item), "input.a: what stands beside $ref has changed"},
		"beside, wider":    {inDefs(`{"$ref":"#/$defs/I","minProperties":2}`, item), inDefs(ref, item), ""},
		"beside, words":    {inDefs(ref, item), inDefs(`{"$ref":"#/$defs/I","description":"x"}`, item), ""},
		"beside, the same": {inDefs(`{"$ref":"#/$defs/I","minProperties":1}`, item), inDefs(`{"$ref":"#/$defs/I","minProperties":1}`, `{"type":"object","properties":{"x":{"type":"integer"}}}`), ""},

		// Constraints of types that are not there.
		"null into bounds": {in(`{"type":"null"}`), in(`{"type":["integer","null"],"minimum":3}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := fmt.Sprint(Compatible(functionSchema(t, c.old), functionSchema(t, c.next)))
			if c.want == "" && got != "[]" || !strings.Contains(got, c.want) {
				t.Errorf("%s\nwant %q", got, c.want)
			}
			for _, s := range []string{c.old, c.next} {
				if same := Compatible(functionSchema(t, s), functionSchema(t, s)); len(same) > 0 {
					t.Errorf("with itself: %v", same)
				}
			}
		})
	}
}

// Comparing takes time in proportion to the schemas, whatever their references do.
func TestCompatibleIsBounded(t *testing.T) {
	large := func(x string) *Schema {
		var defs, properties []string
		for i := range 2000 {
			defs = append(defs, fmt.Sprintf(`"D%d":{"type":"array","items":{"type":"string"}}`, i))
			properties = append(properties, fmt.Sprintf(`"p%d":{"$ref":"#/$defs/D%d"}`, i, i))
		}
		return functionSchema(t, `{"output":{"type":"object","properties":{`+strings.Join(properties, ",")+`,"x":{"$ref":"#/$defs/X"}},"$defs":{`+
			strings.Join(defs, ",")+`,"X":{"type":"`+x+`"}}}}`)
	}
	if got := fmt.Sprint(Compatible(large("string"), large("integer"))); got != "[f: output.x: the type was string and is integer]" {
		t.Error(got)
	}
	// Each definition of one side meets each of the other: their circles are of lengths without a common divisor.
	circles := func(n int, leaf string) *Schema {
		var defs []string
		for i := range n {
			defs = append(defs, fmt.Sprintf(`"D%d":{"type":"object","properties":{"n":{"$ref":"#/$defs/D%d"},"x":{"type":"%s"},"y":{"$ref":"#/$defs/D0"}}}`,
				i, (i+1)%n, leaf))
		}
		return functionSchema(t, `{"output":{"$ref":"#/$defs/D0","$defs":{`+strings.Join(defs, ",")+`}}}`)
	}
	steps := maxCompared
	a, b := circles(997, "integer"), circles(1009, "number")
	compareFunctions("f", a.Functions["f"], b.Functions["f"], &steps)
	if steps < -100_000 {
		t.Errorf("%d steps too many", -steps)
	}
}

// A schema is read in time that its length bounds: no key or name is looked for in a list of all.
func TestLargeSchemas(t *testing.T) {
	var properties, order []string
	for i := range 6000 {
		properties = append(properties, fmt.Sprintf(`"%x":{"$ref":"#/$defs/a"}`, i))
		order = append(order, fmt.Sprintf(`"%x"`, i))
	}
	names := strings.Join(order, ",")
	s := functionSchema(t, `{"input":{"type":"object","properties":{`+strings.Join(properties, ",")+`},"required":[`+names+`],"$defs":{"a":true}}}`)
	if got := Compatible(s, functionSchema(t, `{"input":{"type":"object","properties":{}}}`)); len(got) < maxChanges {
		t.Error(got)
	}
}
