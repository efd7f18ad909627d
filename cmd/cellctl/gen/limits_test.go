package gen

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func functionOf(input, output string) cellproto.Function {
	var f cellproto.Function
	if input != "" {
		f.Input = json.RawMessage(input)
	}
	if output != "" {
		f.Output = json.RawMessage(output)
	}
	return f
}

func cellOf(functions ...cellproto.Function) *cellproto.Schema {
	s := &cellproto.Schema{Cell: "x", Functions: map[string]cellproto.Function{}}
	for i, f := range functions {
		s.Functions[fmt.Sprintf("f%d", i)] = f
	}
	return s
}

// chain gives n definitions, each of which holds the next one as pattern says, and the last one of which is leaf.
func chain(n int, pattern, leaf string) string {
	var defs []string
	for i := range n {
		defs = append(defs, fmt.Sprintf(`"D%d":%s`, i, strings.ReplaceAll(pattern, "NEXT", fmt.Sprintf(`{"$ref":"#/$defs/D%d"}`, i+1))))
	}
	return strings.Join(append(defs, fmt.Sprintf(`"D%d":%s`, n, leaf)), ",")
}

// hostile are schemas that ask in a few kilobytes for far more, by name. Those that are large only because Go has no
// such types become smaller ones, and compile.
func hostile() map[string]*cellproto.Schema {
	all := func(n int) string {
		var properties []string
		for i := range n + 1 {
			properties = append(properties, fmt.Sprintf(`"%06d":{"$ref":"#/$defs/D%d"}`, i, n-i))
		}
		return strings.Join(properties, ",")
	}
	holding := func(properties, defs string) string {
		return `{"type":"object","properties":{` + properties + `},"$defs":{` + defs + `}}`
	}
	one := `"d":{"$ref":"#/$defs/D0"}`
	array := `{"type":"array","minItems":4096,"maxItems":4096,"items":NEXT}`
	var values []string
	for i := range 20_000 {
		values = append(values, fmt.Sprintf(`"%c"`, 0x4e00+i))
	}
	const integer, text = `{"type":"integer"}`, `{"type":"string"}`
	return map[string]*cellproto.Schema{
		"lists of lists":   cellOf(functionOf(holding(all(1500), chain(1500, `{"type":"array","items":NEXT}`, text)), "")),
		"lists of null":    cellOf(functionOf(holding(all(500), chain(500, `{"anyOf":[{"type":"array","items":NEXT},{"type":"null"}]}`, text)), "")),
		"list of itself":   cellOf(functionOf(holding(one, `"D0":{"anyOf":[{"type":"array","items":{"$ref":"#/$defs/D0"}},{"type":"null"}]}`), "")),
		"arrays of arrays": cellOf(functionOf(holding(one, chain(4, array, integer)), "")),
		"arrays in structs": cellOf(functionOf("", holding(one, chain(40,
			`{"type":"object","properties":{"a":{"type":"array","minItems":4096,"maxItems":4096,"items":NEXT}},"required":["a"]}`, integer)))),
		"twice the next":   cellOf(functionOf("", holding(one, chain(64, `{"type":"object","properties":{"a":NEXT,"b":NEXT},"required":["a","b"]}`, integer)))),
		"structs by value": cellOf(functionOf(holding(one, chain(2000, `{"type":"object","properties":{"a":NEXT,"b":{"type":"integer"}},"required":["a"]}`, integer)), "")),
		"alike but for the end": cellOf(
			functionOf(holding(one, chain(1500, `{"type":"object","properties":{"a":NEXT}}`, integer)), ""),
			functionOf(holding(one, chain(1500, `{"type":"object","properties":{"a":NEXT}}`, text)), "")),
		"values of one name": cellOf(functionOf(`{"type":"object","properties":{"v":{"type":"string","enum":[`+strings.Join(values, ",")+`]}}}`, "")),
	}
}

// hostileInGo are the clients of hostile in Go, which take the longest to make, or why there is none.
var hostileInGo = sync.OnceValue(func() map[string]made {
	all := map[string]made{}
	for name, s := range hostile() {
		client, err := Languages[0].Generate(s)
		all[name] = made{client, err}
	}
	return all
})

type made struct {
	client Client
	err    error
}

// Whatever a schema asks for, the client is of bounded size, or refused as too large.
func TestBounds(t *testing.T) {
	for name, s := range hostile() {
		if len(s.Canonical()) > cellproto.MaxSchema {
			t.Fatalf("%s is larger than a schema may be: %d", name, len(s.Canonical()))
		}
		for _, lang := range Languages {
			var client Client
			var err error
			if lang.Name == Languages[0].Name {
				client, err = hostileInGo()[name].client, hostileInGo()[name].err
			} else {
				client, err = lang.Generate(s)
			}
			if err != nil && cellproto.KindOf(err) != cellproto.TooLarge || len(client.Code) > maxCode {
				t.Errorf("%s in %s: %d bytes, %v", name, lang.Name, len(client.Code), err)
			}
			t.Logf("%s in %s: %d bytes of %d, %v", name, lang.Name, len(client.Code), len(s.Canonical()), err)
		}
	}
}

// What is legal in a cell has a client that compiles.
func TestLegalSchemasCompile(t *testing.T) {
	w := newWorkspace(t)
	const object = `{"type":"object","properties":{`
	for name, s := range map[string]*cellproto.Schema{
		"arrays": cellOf(functionOf(object+`"o":`+object+`"a":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"array","items":{"type":"string"}}},
			"b":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"array","minItems":3,"maxItems":3,"items":{"type":"object","additionalProperties":{"type":"string"}}}},
			"c":{"type":"array","minItems":2,"maxItems":2,"items":`+object+`"x":{"type":"array","items":true}}}},
			"d":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"object","properties":{},"additionalProperties":false}},
			"e":{"type":"array","minItems":2,"maxItems":2,"items":{}},
			"f":{"type":"object","additionalProperties":{"type":"object","properties":{},"additionalProperties":false}},
			"g":{"type":"array","items":{"type":"object","properties":{},"additionalProperties":false}}}}}}`,
			object+`"a":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"object","properties":{}}},"b":{"type":"object","additionalProperties":{"type":"object","properties":{}}}}}`)),
		"enums": cellOf(functionOf(object+`"c":{"$ref":"#/$defs/Color"},"d":{"$ref":"#/$defs/Color_Red"},"e":{"$ref":"#/$defs/Color_Red2"}},
			"$defs":{"Color":{"type":"string","enum":["red","blue"]},"Color_Red":`+object+`"x":{"type":"integer"}}},"Color_Red2":{"type":"string","enum":["a"]}}}`, "")),
		"chain":   cellOf(functionOf(object+`"n":{"$ref":"#/$defs/D0"}},"$defs":{`+chain(200, object+`"n":{"anyOf":[NEXT,{"type":"null"}]}}}`, `{"type":"integer"}`)+`}}`, "")),
		"umlauts": cellOf(functionOf(object+`"größe":{"type":"integer","description":"wie gro\ufeffß"},"数":{"type":"integer"}}}`, object+`"größe":{"type":"integer"}}}`)),
		"mark":    {Cell: "x", Functions: map[string]cellproto.Function{"f": {Doc: "does\ufeff i\u200dt"}}},
	} {
		for _, lang := range Languages {
			client, err := lang.Generate(s)
			if err != nil {
				t.Errorf("%s in %s: %v", name, lang.Name, err)
			}
			if lang.Name == "go" {
				w.write(name+"/client.go", string(client.Code))
			}
		}
	}
	for name, m := range hostileInGo() {
		if m.err == nil && len(m.client.Code) < 64<<10 {
			w.write(strings.ReplaceAll(name, " ", "_")+"/client.go", string(m.client.Code))
		}
	}
	w.command("go", "vet", "./...")
	w.write("arrays/zero_test.go", zeroTest)
	w.command("go", "test", "-vet=off", "./arrays") // all is vetted
}

// zeroTest is what encoding/json says of omitzero.
const zeroTest = `package x

import "testing"

func TestZero(t *testing.T) {
	if !zeroF0ArgsO(new(F0ArgsO)) {
		t.Error("it is not empty")
	}
	for i, fill := range []func(o *F0ArgsO){
		func(o *F0ArgsO) { o.A[1] = []string{} },
		func(o *F0ArgsO) { o.B[1][2] = map[string]string{} },
		func(o *F0ArgsO) { o.C[1].X = []any{} },
		func(o *F0ArgsO) { o.E[1] = 0 },
	} {
		var o F0ArgsO
		if fill(&o); zeroF0ArgsO(&o) {
			t.Error(i, "is empty")
		}
	}
}
`

// Only Go cannot have every name in a tag.
func TestNamesOfFields(t *testing.T) {
	for _, name := range []string{"", "a,b", "quote\"", "back\\slash", "new\nline", "`"} {
		s := cellOf(functionOf(string(mustJSON(map[string]any{"type": "object", "properties": map[string]any{name: map[string]any{"type": "string"}}})), ""))
		for _, lang := range Languages {
			_, err := lang.Generate(s)
			if (lang.Name == "go") != (cellproto.KindOf(err) == cellproto.BadInput) || lang.Name != "go" && err != nil {
				t.Errorf("%q in %s: %v", name, lang.Name, err)
			}
		}
	}
}

// A type is not named as what the runtime of its language uses.
func TestReservedNames(t *testing.T) {
	for _, c := range []struct {
		language, runtime, global string
		reserved                  names
	}{
		{"python", pythonRuntime, `(?m)^(?:class +|def +)?([A-Z]\w*)\b *(?:\(|:|=)`, pythonTypes()},
		{"typescript", typescriptRuntime, `(?m)^(?:export )?(?:abstract )?(?:class|interface|type|enum|const|function) +([A-Z]\w*)`, typescriptTypes()},
	} {
		for _, m := range regexp.MustCompile(c.global).FindAllStringSubmatch(c.runtime, -1) {
			if c.reserved[m[1]] == 0 {
				t.Errorf("%s: %s is not reserved", c.language, m[1])
			}
		}
	}
	s := cellOf(functionOf("", `{"type":"object","properties":{"a":{"$ref":"#/$defs/OSError"},"b":{"$ref":"#/$defs/OSError_"},"c":{"$ref":"#/$defs/KINDS"}},
		"$defs":{"OSError":{"type":"object","properties":{"x":{"type":"integer"}}},"OSError_":{"type":"object","properties":{"y":{"type":"integer"}}},
		"KINDS":{"type":"string","enum":["a"]}}}`))
	code, err := Python(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"class OSError_:", "class OSError_2:", "class KINDS_(enum.Enum):"} {
		if strings.Count(string(code), want) != 1 {
			t.Errorf("there is no %q", want)
		}
	}
	if strings.Contains(string(code), "class OSError:") || strings.Contains(string(code), "class KINDS(") {
		t.Error("a type has the name of what the runtime uses")
	}
}
