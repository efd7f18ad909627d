package gen

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

var update = flag.Bool("update", false, "write the expected clients")

// Each schema under testdata gives the client beside it, in every language, always the same.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.schema.json")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no schemas")
	}
	for _, file := range files {
		s := readSchema(t, file)
		for _, lang := range Languages {
			client, err := lang.Generate(s)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			again, err := lang.Generate(s)
			if err != nil || !bytes.Equal(again.Code, client.Code) {
				t.Errorf("%s: %s is not the same the second time: %v", file, lang.Name, err)
			}
			golden := strings.TrimSuffix(file, ".schema.json") + "." + lang.Name + ".golden"
			if *update {
				if err := os.WriteFile(golden, client.Code, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || !bytes.Equal(want, client.Code) {
				t.Errorf("%s is not what is written now; see go test -update: %v", golden, err)
			}
		}
	}
}

// The client that is measured is what is written now.
func TestMeasuredClient(t *testing.T) {
	const dir = "../../../bench/peers/typed/shop/"
	_, code, err := Go(readSchema(t, dir+"shop.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(dir+"shop.go", code, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if was, err := os.ReadFile(dir + "shop.go"); err != nil || !bytes.Equal(was, code) {
		t.Errorf("%sshop.go is not what is written now; see go test -update: %v", dir, err)
	}
}

func readSchema(t *testing.T, file string) *cellproto.Schema {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cellproto.ParseSchema(data)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return s
}

// Names and texts of a stranger stay names and texts.
func TestHostileTexts(t *testing.T) {
	outlines := map[string]*outline{"python": pythonOutline(t), "typescript": typescriptOutline(t)}
	evil := []string{
		"harmless",
		"*/ func init() { panic(1) } /*", "\"\"\"\nimport os\n\"\"\"", "`+evil()+`", "a\nb", "\x1b[2J", "\u202e", "${evil()}", "\\\"\\n", "\u2028x",
	}
	for _, text := range evil {
		f := cellproto.Function{
			Doc:    text,
			Input:  mustJSON(map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "string", "enum": []string{text, "b"}, "description": text}}}),
			Output: mustJSON(map[string]any{"$ref": "#/$defs/" + "D", "$defs": map[string]any{"D": map[string]any{"type": "object", "properties": map[string]any{"x": map[string]any{"type": "integer"}}}}}),
		}
		s := &cellproto.Schema{Cell: "evil", Functions: map[string]cellproto.Function{"f": f}}
		for _, lang := range Languages {
			client, err := lang.Generate(s)
			if err != nil {
				t.Errorf("%s %q: %v", lang.Name, text, err)
				continue
			}
			for _, r := range string(client.Code) {
				if cellproto.Unprintable(r) {
					t.Errorf("%s %q: the client has the character %U", lang.Name, text, r)
				}
			}
			if lang.Name == "go" {
				checkGo(t, client.Code)
			} else {
				outlines[lang.Name].add(t, text, client.Code)
			}
		}
		g := f
		g.Input = mustJSON(map[string]any{"type": "object", "properties": map[string]any{text: map[string]any{"type": "string"}}})
		s.Functions["f"] = g
		for _, lang := range Languages {
			client, err := lang.Generate(s)
			if err == nil && lang.Name == "go" {
				checkGo(t, client.Code)
			}
			if err != nil && cellproto.KindOf(err) != cellproto.BadInput {
				t.Errorf("%s %q: %v", lang.Name, text, err)
			}
		}
	}
	for _, o := range outlines {
		o.check(t)
	}
}

// outline is what a language's own parser finds in clients that differ by the texts of their schemas: the same
// statements, each time.
type outline struct {
	command []string // prints a line for each file among its arguments
	texts   []string
	files   []string
}

func pythonOutline(t *testing.T) *outline {
	t.Helper()
	return newOutline(t, "python3", "-c", `
import ast, sys
for file in sys.argv[1:]:
    print([(type(n).__name__, getattr(n, "name", ""), [(type(m).__name__, getattr(m, "name", "")) for m in getattr(n, "body", [])]) for n in ast.parse(open(file).read()).body])`)
}

func typescriptOutline(t *testing.T) *outline {
	t.Helper()
	t.Setenv("NODE_PATH", "/usr/share/nodejs:"+os.Getenv("NODE_PATH"))
	o := newOutline(t, "node", "-e", `
const [ts, fs] = [require("typescript"), require("node:fs")];
for (const file of process.argv.slice(1)) {
  const f = ts.createSourceFile(file, fs.readFileSync(file, "utf8"), ts.ScriptTarget.ES2022);
  console.log(JSON.stringify([f.parseDiagnostics.length, ...f.statements.map((s) => [s.kind, s.name?.text, s.members?.map((m) => m.name?.text)])]));
}`)
	if o.command != nil && exec.Command("node", "-e", "require('typescript')").Run() != nil {
		o.command = nil
	}
	return o
}

// newOutline gives one without a command where the language is not installed.
func newOutline(t *testing.T, command ...string) *outline {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		return &outline{}
	}
	return &outline{command: command}
}

func (o *outline) add(t *testing.T, text string, code []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), fmt.Sprint(len(o.files)))
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	o.texts, o.files = append(o.texts, text), append(o.files, file)
}

func (o *outline) check(t *testing.T) {
	t.Helper()
	if o.command == nil {
		return
	}
	out, err := exec.Command(o.command[0], append(o.command[1:], o.files...)...).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != len(o.files) {
		t.Fatalf("%s: %v\n%s", o.command[0], err, out)
	}
	for i, line := range lines {
		if line != lines[0] {
			t.Errorf("%s: %q makes other code:\n%s\n%s", o.command[0], o.texts[i], line, lines[0])
		}
	}
}

// checkGo says whether code is one package with the functions that a client has, and no others.
func checkGo(t *testing.T, code []byte) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "client.go", code, 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, code)
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && (f.Name.Name == "init" || f.Name.Name == "main") {
			t.Errorf("there is a function %s", f.Name.Name)
		}
	}
}

func mustJSON(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// Names that are the same, or taken, once they are Go's.
func TestNames(t *testing.T) {
	properties := map[string]any{}
	for _, name := range []string{"type", "Type", "a-b", "a_b", "aB", "1", "_", "-", "func", "in", "err", "w", "r", "v", "$x", "id", "ID"} {
		properties[name] = map[string]any{"type": "object", "properties": map[string]any{"x": map[string]any{"type": "string"}}}
	}
	input := mustJSON(map[string]any{"type": "object", "properties": properties})
	s := &cellproto.Schema{Cell: "type", Functions: map[string]cellproto.Function{}}
	for _, name := range []string{"new", "New", "client", "dep", "type", "a-b", "a_b", "a.b", "string", "init", "New-Args"} {
		s.Functions[name] = cellproto.Function{Input: input, Output: input}
	}
	w := newWorkspace(t)
	_, code, err := Go(s)
	if err != nil {
		t.Fatal(err)
	}
	w.write("client/client.go", string(code))
	w.vet("client")
}

// Schemas that contradict themselves, or never end, give a client that compiles, or an error.
func TestStrangeSchemas(t *testing.T) {
	w := newWorkspace(t)
	for i, input := range []string{
		`{"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}`,
		`{"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}}, "B": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}}`,
		`{"type": "object", "properties": {"a": {"type": "array", "minItems": 99999999999, "maxItems": 99999999999}}}`,
		`{"type": "object", "properties": {"a": {"type": ["string", "integer", "null"]}, "b": {"enum": [1, 2]}, "c": {"const": 3}, "d": {"oneOf": []}, "e": {"anyOf": [{"type": "null"}, {"type": "null"}]}, "f": false, "g": true}}`,
		`{"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string", "enum": [""]}}}}}}}`,
		`{"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}}, "$defs": {"A": {"type": ["integer", "null"]}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/Client"}}, "$defs": {"Client": {"type": "object", "properties": {}}}}`,
		`true`,
	} {
		s := &cellproto.Schema{Cell: "strange", Functions: map[string]cellproto.Function{
			"f": {Input: json.RawMessage(input), Output: json.RawMessage(input)},
			"g": {Output: json.RawMessage(input)}, "h": {Input: json.RawMessage(input), Pure: true}, "i": {Idempotent: true, BodyIn: true, BodyOut: true},
		}}
		_, code, err := Go(s)
		if err != nil {
			if cellproto.KindOf(err) != cellproto.BadInput {
				t.Errorf("%s: %v", input, err)
			}
			continue
		}
		w.write(fmt.Sprintf("s%d/client.go", i), string(code))
	}
	w.command("go", "vet", "./...")
}

func FuzzGo(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.schema.json")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := cellproto.ParseSchema(data)
		if err != nil {
			return
		}
		for _, lang := range Languages {
			_, err := lang.Generate(s)
			if kind := cellproto.KindOf(err); err != nil && kind != cellproto.BadInput && kind != cellproto.TooLarge {
				t.Fatalf("%s: %v", lang.Name, err)
			}
		}
	})
}

// BenchmarkGo writes the client of a cell with 200 functions.
func BenchmarkGo(b *testing.B) {
	s := &cellproto.Schema{Cell: "large", Functions: map[string]cellproto.Function{}}
	for i := range 200 {
		s.Functions[fmt.Sprintf("function%d", i)] = cellproto.Function{
			Doc:    "Does it.",
			Input:  mustJSON(map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "string"}, "b": map[string]any{"type": "integer"}}, "required": []string{"a"}}),
			Output: mustJSON(map[string]any{"type": "object", "properties": map[string]any{"x": map[string]any{"type": "array", "items": map[string]any{"type": "number"}}}}),
		}
	}
	for b.Loop() {
		if _, _, err := Go(s); err != nil {
			b.Fatal(err)
		}
	}
}
