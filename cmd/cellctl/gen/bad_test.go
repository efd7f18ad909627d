package gen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/celldnet/celld/cellproto"
)

// Schemas that no client is made for, in no language: they are refused when they are read.
func TestSchemasThatAreRefused(t *testing.T) {
	object := func(more string) string {
		return `{"type": "object", "properties": {"a": {"type": "string"}}` + more + `}`
	}
	fn := func(input string) string { return `{"cell": "c", "functions": {"f": {"input": ` + input + `}}}` }
	many := make([]string, cellproto.MaxFunctions+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"f%d": {}`, i)
	}
	for name, tc := range map[string]struct {
		text string
		kind cellproto.Kind
	}{
		"huge":                    {fn(object(`, "title": "` + strings.Repeat("x", cellproto.MaxSchema) + `"`)), cellproto.TooLarge},
		"many functions":          {`{"cell": "c", "functions": {` + strings.Join(many, ",") + `}}`, cellproto.TooLarge},
		"deep":                    {fn(object(`, "x": ` + strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200))), cellproto.TooLarge},
		"arguments of no object":  {fn(`{"type": "string"}`), cellproto.BadInput},
		"no type":                 {fn(`{"type": "strange"}`), cellproto.BadInput},
		"properties of no object": {fn(`{"type": "object", "properties": []}`), cellproto.BadInput},
		"required of no list":     {fn(object(`, "required": "a"`)), cellproto.BadInput},
		"the same key twice":      {fn(object(`, "properties": {}`)), cellproto.BadInput},
		"order without property":  {`{"cell": "c", "functions": {"f": {"input": ` + object("") + `, "order": ["b"]}}}`, cellproto.BadInput},
		"the nucleus's name":      {`{"cell": "c", "functions": {"cell.f": {}}}`, cellproto.BadInput},
		"a line in a name":        {`{"cell": "c", "functions": {"f\n": {}}}`, cellproto.BadInput},
		"a quote in a name":       {`{"cell": "c", "functions": {"f\"": {}}}`, cellproto.BadInput},
		"a line in the cell":      {`{"cell": "c\n", "functions": {}}`, cellproto.BadInput},
		"half a character":        {`{"cell": "c", "functions": {"f": {"doc": "\ud800"}}}`, cellproto.BadInput},
		"older than older":        {`{"cell": "c", "functions": {}, "older": [{"cell": "c", "functions": {}, "older": [{"cell": "c", "functions": {}}]}]}`, cellproto.BadInput},
	} {
		if _, err := cellproto.ParseSchema([]byte(tc.text)); cellproto.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Words that mean something in one of the languages.
const taken = `break case chan const continue default defer else fallthrough for func go goto if import interface map package range
return select struct switch type var any bool byte error float64 int int64 len make new nil panic print string true false append init main
False None True and as assert async await class def del elif except finally from global in is lambda nonlocal not or pass raise try while
with yield self cls match dict list str bytes object super datetime dataclass typing json re
abstract arguments boolean catch constructor debugger declare delete do enum eval export extends implements instanceof keyof let module
namespace never null number private protected prototype public readonly require static symbol this throw typeof undefined unknown void
__proto__ toString valueOf hasOwnProperty call conn close timeout client dep cell ctx`

// Schemas that are legal and meant badly: each language has a client that it takes, or an error.
func TestBadSchemasInEveryLanguage(t *testing.T) {
	words := strings.Fields(taken)
	named := map[string]any{}
	for _, w := range words {
		named[w] = map[string]any{"type": "object", "properties": map[string]any{w: map[string]any{"type": "string", "enum": words}}}
	}
	keywords := &cellproto.Schema{Cell: "class", Functions: map[string]cellproto.Function{}}
	collide := &cellproto.Schema{Cell: "collide", Functions: map[string]cellproto.Function{}}
	same := map[string]any{}
	for _, name := range []string{"a-b", "a_b", "aB", "AB", "a.b", "A-B", "Ab", "ab"} {
		same[name] = map[string]any{"type": "object", "properties": map[string]any{"x": map[string]any{"type": "integer"}}}
	}
	for _, w := range words {
		if cellproto.ValidFuncName(w) {
			keywords.Functions[w] = cellproto.Function{Input: mustJSON(map[string]any{"type": "object", "properties": named}), Output: mustJSON(map[string]any{"$ref": "#/$defs/" + w, "$defs": named})}
			if len(keywords.Functions) == 2 {
				break
			}
		}
	}
	for _, w := range words {
		if cellproto.ValidFuncName(w) && keywords.Functions[w].Input == nil {
			keywords.Functions[w] = cellproto.Function{Input: mustJSON(map[string]any{"type": "object", "properties": map[string]any{w: map[string]any{"type": "string"}}})}
		}
	}
	for name := range same {
		if cellproto.ValidFuncName(name) {
			collide.Functions[name] = cellproto.Function{Input: mustJSON(map[string]any{"type": "object", "properties": same, "$defs": same}), Output: mustJSON(map[string]any{"type": "object", "properties": same})}
		}
	}
	schemas := []*cellproto.Schema{keywords, collide}
	for i, input := range []string{
		`{"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}`,
		`{"type": "object", "properties": {"a": {"type": ["string", "integer", "null"]}, "b": {"enum": [1, 2]}, "c": {"const": 3}, "d": {"oneOf": []}, "f": false, "g": true}}`,
		`{"type": "object", "properties": {"a": {"type": "string", "minLength": 5, "maxLength": 1}, "b": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "required": ["z"]}`,
		`{"type": "object", "properties": {"'": {"type": "string"}, "\"": {"type": "string"}, "\n": {"type": "string"}, "` + "`" + `": {"type": "string"}, "*/": {"type": "string"}}}`,
		`{"type": "object", "description": "'''\"\"\"*/\n${x}\\", "properties": {"a": {"type": "string", "enum": ["'", "\"", "\n", "\\", "${x}", "*/"], "description": "*/ \"\"\" ''' \\\n"}}}`,
	} {
		schemas = append(schemas, &cellproto.Schema{Cell: fmt.Sprint("strange", i), Functions: map[string]cellproto.Function{
			"f": {Doc: "*/ \"\"\" ''' \\\n", Input: json.RawMessage(input), Output: json.RawMessage(input)},
		}})
	}
	dir := t.TempDir()
	files := map[string][]string{}
	for i, s := range schemas {
		for _, lang := range Languages {
			client, err := lang.Generate(s)
			if err != nil {
				if s == keywords || s == collide || cellproto.KindOf(err) != cellproto.BadInput { // names are no reason
					t.Errorf("%s of %s: %v", lang.Name, s.Cell, err)
				}
				continue
			}
			if lang.Name == "go" {
				checkGo(t, client.Code)
				continue
			}
			file := filepath.Join(dir, fmt.Sprintf("client%d%s", i, filepath.Ext(client.File)))
			code := bytes.Replace(client.Code, []byte("// @ts-nocheck\n"), nil, 1)
			if err := os.WriteFile(file, code, 0o600); err != nil {
				t.Fatal(err)
			}
			files[lang.Name] = append(files[lang.Name], file)
		}
	}
	t.Run("python", func(t *testing.T) {
		run(t, "python3", append([]string{"-W", "error", "-c", "import sys\nfor f in sys.argv[1:]: compile(open(f, encoding='utf-8').read(), f, 'exec')"}, files["python"]...)...)
	})
	t.Run("typescript", func(t *testing.T) {
		archive, err := txtar.ParseFile("../testdata/script/e2e_gen_languages.txt")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if filepath.Base(f.Name) == "node.d.ts" {
				file := filepath.Join(dir, "node.d.ts")
				if err := os.WriteFile(file, f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
				files["typescript"] = append([]string{file}, files["typescript"]...)
			}
		}
		run(t, "tsc", append([]string{"--noEmit", "--strict", "--target", "es2022", "--lib", "es2022", "--module", "commonjs"}, files["typescript"]...)...)
	})
}

// run runs a tool if it is there.
func run(t *testing.T, tool string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Skip("there is no " + tool)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%.4000s", err, out)
	}
}

// Functions that are called like methods which everybody knows: go vet takes none for those, and in TypeScript nothing that
// is done to every object (printing it, waiting for it) calls one.
func TestFunctionsNamedLikeKnownMethods(t *testing.T) {
	s := &cellproto.Schema{Cell: "known", Functions: map[string]cellproto.Function{}}
	for _, name := range strings.Fields(`gobDecode gobEncode marshalJSON marshalXML readByte readByteCall readRune unmarshalJSON unmarshalXML unreadByte
		unreadRune writeByte readFrom writeTo scan seek format string error is as unwrap lock unlock
		then toString toJSON valueOf toLocaleString`) {
		s.Functions[name] = cellproto.Function{Input: json.RawMessage(`{"type": "object", "properties": {"a": {"type": "integer"}}}`), Output: json.RawMessage(`{"type": "integer"}`)}
	}
	_, code, err := Go(s)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkspace(t)
	w.write("client/client.go", string(code))
	w.vet("client")
	for _, lang := range Languages {
		if lang.Name != "typescript" {
			continue
		}
		client, err := lang.Generate(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"then", "toString", "toJSON", "valueOf", "toLocaleString"} {
			if bytes.Contains(client.Code, []byte("  async "+name+"(")) {
				t.Errorf("the client has a method %s", name)
			}
		}
	}
}
