package gen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// What Go types a cell has, its schema says; of that schema a client is made, whose types have the same
// schema again; and values go there and back through both.
func TestRoundTrip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GEN_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("GEN_SEED=%d", seed)
	w := newWorkspace(t)
	service, text := w.service(rand.New(rand.NewPCG(seed, 1)))
	schema, err := cellproto.ParseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	pkg, code, err := Go(schema)
	if err != nil {
		t.Fatal(err)
	}
	w.write("client/client.go", string(code))
	again := service
	again.functions = nil
	m, err := newModel(schema)
	if err != nil {
		t.Fatal(err)
	}
	g := &golang{m: m, imports: map[string]bool{}}
	for _, fn := range m.funcs {
		again.functions = append(again.functions, signatureText{fn.json, "client." + g.name(fn.args), qualify(g.use(fn.out))})
	}
	w.write("second/main.go", again.main("client", pkg))
	w.vet("client")
	back, err := cellproto.ParseSchema(w.run("second", "--schema"))
	if err != nil {
		t.Fatal(err)
	}
	if back.Hash() != schema.Hash() {
		for name, f := range schema.Functions {
			was, _ := json.Marshal(f)
			is, _ := json.Marshal(back.Functions[name])
			if !bytes.Equal(was, is) {
				t.Errorf("%s was\n%s\nand is\n%s", name, was, is)
			}
		}
		t.Fatal("the schema of the generated types is another one")
	}
	w.write("values/main.go", service.values(pkg))
	if out := w.run("values", fmt.Sprint(seed)); !bytes.HasPrefix(out, []byte("ok ")) {
		t.Fatalf("%s", out)
	}
}

// service writes a service whose schema is no larger than one may be, and gives it with that.
func (w *workspace) service(r *rand.Rand) (service, []byte) {
	for range 10 {
		s := randomService(r)
		w.write("service/service.go", s.types)
		w.write("first/main.go", s.main("service", "service"))
		if text := w.run("first", "--schema"); len(text) <= cellproto.MaxSchema {
			return s, text
		}
	}
	w.t.Fatal("ten services in a row have too large a schema")
	return service{}, nil
}

// qualify puts the package in front of the named types in a type.
func qualify(name string) string {
	at := strings.LastIndexAny(name, "]*") + 1
	if head, last := name[:at], name[at:]; last != "" && 'A' <= last[0] && last[0] <= 'Z' {
		return head + "client." + last
	}
	return name
}

// workspace is a module of its own that uses this one.
type workspace struct {
	t   *testing.T
	dir string
}

const place = "example.com/generated"

func newWorkspace(t *testing.T) *workspace {
	w := &workspace{t: t, dir: t.TempDir()}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(mod), "\n")
	w.write("go.mod", "module "+place+"\n"+rest+
		"\nrequire github.com/celldnet/celld v0.0.0\n\nreplace github.com/celldnet/celld => "+root+"\n")
	w.write("go.sum", string(sum))
	return w
}

func (w *workspace) write(name, text string) {
	w.t.Helper()
	file := filepath.Join(w.dir, name)
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *workspace) run(pkg string, args ...string) []byte {
	w.t.Helper()
	program := filepath.Join(w.dir, pkg+".bin")
	w.command("go", "build", "-o", program, "./"+pkg)
	return w.command(program, args...)
}

// vet checks a package, which also has to be written as gofmt does.
func (w *workspace) vet(pkg string) {
	w.t.Helper()
	w.command("go", "vet", "./"+pkg)
	if out := w.command("gofmt", "-l", pkg); len(out) > 0 {
		w.t.Errorf("not as gofmt has it: %s", out)
	}
}

func (w *workspace) command(name string, args ...string) []byte {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), name, args...)
	cmd.Dir, cmd.Env = w.dir, append(os.Environ(), "GOPROXY=off", "GOWORK=off",
		"GOFLAGS=-mod=mod -trimpath -buildvcs=false", "CGO_ENABLED=0") // as the scripts build this module: once for all
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s\n%.4000s", name, strings.Join(args, " "), err, stderr.Bytes(), out)
	}
	return out
}

type signatureText struct{ name, in, out string }

// service is a cell of random types.
type service struct {
	types     string
	functions []signatureText
}

const header = `package %s

import (
	"context"
	"time"

	"github.com/celldnet/celld/cellproto/cell"
	%q
)

var _ = time.Now
`

func (s service) main(name, pkg string) string {
	var b strings.Builder
	path := place + "/" + name
	fmt.Fprintf(&b, header, "main", path)
	if pkg != name { // the generated one has the cell's name
		b.Reset()
		fmt.Fprintf(&b, strings.Replace(header, "%q", name+" %q", 1), "main", path)
	}
	b.WriteString("func main() {\ncell.Config{Name: \"service\"}.Main(\n")
	for _, f := range s.functions {
		fmt.Fprintf(&b, "cell.Func(%q, func(context.Context, %s) (out %s, err error) { return out, nil }),\n", f.name, f.in, f.out)
	}
	b.WriteString(")\n}\n")
	return b.String()
}

// values is a program that calls each function through the client with random arguments, and compares what
// arrives and comes back.
func (s service) values(pkg string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
	client "%s/client"
	"%s/service"
)

var _ = time.Now

var (
	random *rand.Rand
	arrived, left any
)

func serve[In, Out any](name string) *cell.Function {
	return cell.Func(name, func(_ context.Context, in In) (out Out, err error) {
		arrived = in
		fill(reflect.ValueOf(&out).Elem(), 0)
		left = out
		return out, nil
	})
}
`, place, place)
	b.WriteString(fillText)
	b.WriteString("func main() {\nvar seed uint64\nfmt.Sscan(os.Args[1], &seed)\nrandom = rand.New(rand.NewPCG(seed, 2))\na, z := net.Pipe()\n")
	b.WriteString("go cell.Config{Name: \"service\"}.Serve(context.Background(), z,\n")
	for _, f := range s.functions {
		fmt.Fprintf(&b, "serve[%s, %s](%q),\n", f.in, f.out, f.name)
	}
	b.WriteString(`)
	conn, err := cellproto.NewConn(a, cellproto.Config{Opener: true})
	if err != nil {
		panic(err)
	}
	go conn.Run()
	via := cell.NewClient(conn)
	calls := 0
	for _, c := range []*client.Client{client.New(via), client.New(onlyJSON{via})} {
		for range 30 {
			for i := range reflect.TypeOf(c).NumMethod() {
				call(reflect.ValueOf(c).Method(i), reflect.TypeOf(c).Method(i).Name)
				calls++
			}
		}
	}
	fmt.Println("ok", calls)
}

// onlyJSON leads to a cell that reads no CBOR, and so answers in JSON.
type onlyJSON struct{ cell.Doer }

func (o onlyJSON) Do(ctx context.Context, r *cell.Request) (*cell.Reply, error) {
	if _, ok := r.Args.(cell.CBOR); ok {
		return nil, cellproto.Errorf("call "+r.Func, cellproto.Unsupported, "no CBOR")
	}
	return o.Doer.Do(ctx, r)
}

func call(m reflect.Value, name string) {
	in := reflect.New(m.Type().In(1)).Elem()
	fill(in, 0)
	out := m.Call([]reflect.Value{reflect.ValueOf(context.Background()), in})
	if err, _ := out[1].Interface().(error); err != nil {
		if cellproto.KindOf(err) == cellproto.TooLarge { // JSON may have so many keys only
			return
		}
		text, _ := json.Marshal(in.Interface())
		fmt.Printf("%s: %v\n%s\n", name, err, text)
		os.Exit(0)
	}
	same(name+" arguments", in.Interface(), arrived)
	same(name+" reply", left, out[0].Interface())
}

func same(what string, sent, got any) {
	x, err := json.Marshal(sent)
	y, err2 := json.Marshal(got)
	var a, b any
	if err == nil && err2 == nil {
		err, err2 = json.Unmarshal(x, &a), json.Unmarshal(y, &b)
	}
	if err != nil || err2 != nil || !reflect.DeepEqual(bare(a), bare(b)) {
		fmt.Printf("%s: %v %v\n", what, err, err2)
		differ("", a, b)
		os.Exit(0)
	}
}
`)
	fmt.Fprintf(&b, "\nvar _ = service.Version\n")
	return b.String()
}

// fillText has bare, which leaves out what is null: a client need not tell it from what is not there. fill fills a value at random. Lists and maps are never nil: CBOR has empty ones only. Optional fields
// that are empty go missing and come back empty.
const fillText = `
func differ(at string, a, b any) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			for k := range x {
				differ(at+"."+k, x[k], y[k])
			}
			for k := range y {
				if _, ok := x[k]; !ok {
					differ(at+"."+k, nil, y[k])
				}
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				differ(fmt.Sprint(at, "[", i, "]"), x[i], y[i])
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		fmt.Printf("%s: sent %v, got %v\n", at, a, b)
	}
}

func bare(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = bare(v[i])
		}
	case map[string]any:
		for k := range v {
			if v[k] = bare(v[k]); v[k] == nil {
				delete(v, k)
			}
		}
	}
	return v
}

func fill(v reflect.Value, depth int) {
	if e, ok := v.Interface().(cell.Enumerator); ok && v.Kind() == reflect.String {
		values := e.Enum()
		v.SetString(values[random.IntN(len(values))])
		return
	}
	if v.Type() == reflect.TypeOf(time.Time{}) {
		v.Set(reflect.ValueOf(time.Unix(random.Int64N(4e9), random.Int64N(1e9)).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(random.Uint64() >> random.IntN(64)) >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint((random.Uint64() >> random.IntN(64)) >> (64 - v.Type().Bits()))
	case reflect.Float32:
		v.SetFloat(float64(float32(random.NormFloat64())))
	case reflect.Float64:
		v.SetFloat([]float64{random.NormFloat64(), float64(random.IntN(100)), 0.5}[random.IntN(3)])
	case reflect.String:
		v.SetString([]string{"", "a", "grüße", "quote\" and \\ and \n", "long long long long long long long long"}[random.IntN(5)])
	case reflect.Slice:
		n := random.IntN(4)
		if depth > 6 {
			n = 0
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for i := range random.IntN(3) {
			if depth > 6 {
				break
			}
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, depth+1)
			v.SetMapIndex(reflect.ValueOf(fmt.Sprint("key", i)), e)
		}
	case reflect.Pointer:
		if random.IntN(2) == 0 && depth <= 6 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Interface:
		v.Set(reflect.ValueOf([]any{"text", true, map[string]any{"a": "b"}, []any{"c"}}[random.IntN(4)]))
	}
}
`

// randomService makes up types, each of fields of those before it, or of itself behind a pointer, list or map.
const structs = 24 // of a random service

func randomService(r *rand.Rand) service {
	var s service
	var b strings.Builder
	b.WriteString("package service\n\nimport \"time\"\n\nconst Version = 1\n\nvar _ = time.Now\n\n")
	b.WriteString("type Color string\n\nfunc (Color) Enum() []string { return []string{\"red\", \"dark red\", \"3\", \"`+\\\"\"} }\n\n")
	for i := range structs {
		fmt.Fprintf(&b, "type T%d struct {\n", i)
		fields := 1 + r.IntN(6)
		if i == 7 {
			fields = 70 // more than one word notes
		}
		for f := range fields {
			typ, tag := randomType(r, i, 0), ""
			switch r.IntN(4) {
			case 0:
				tag = ",omitempty"
				if plainStruct(typ) { // of a struct JSON and CBOR may differ in what is zero: an empty list is not nil
					tag = ""
				}
				if typ == "time.Time" {
					tag = ",omitzero"
				}
			}
			doc := ""
			if r.IntN(5) == 0 {
				doc = ` doc:"what \"it\" is; \\n and */ too"`
			}
			fmt.Fprintf(&b, "F%d %s `json:\"%s%s\"%s`\n", f, typ, []string{"f%d", "F%d", "field_%d", "field-%d", "fieldNo%d"}[f%5], tag, doc)
		}
		text := b.String()
		b.Reset()
		lines := strings.Split(text, "\n")
		n := 0
		for k, line := range lines {
			if strings.HasPrefix(line, "F") && strings.Contains(line, "%d") {
				name := line[1:strings.IndexByte(line, ' ')]
				lines[k] = strings.ReplaceAll(line, "%d", name)
				n++
			}
		}
		b.WriteString(strings.Join(lines, "\n"))
		b.WriteString("}\n\n")
	}
	s.types = b.String()
	for i := range structs {
		out := randomType(r, structs-1, 0)
		s.functions = append(s.functions, signatureText{fmt.Sprintf("do%d", i), fmt.Sprintf("service.T%d", i), inService(out)})
	}
	return s
}

func plainStruct(typ string) bool {
	return typ == "time.Time" || typ[0] == 'T' || typ[0] == '[' && typ[1] != ']' || strings.HasPrefix(typ, "struct")
}

func inService(typ string) string {
	at := strings.LastIndexAny(typ, "]*") + 1
	if c := typ[at]; c == 'T' || c == 'C' {
		return typ[:at] + "service." + typ[at:]
	}
	return typ
}

func randomType(r *rand.Rand, own, depth int) string {
	basic := []string{
		"bool", "int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float64", "string",
		"time.Time", "[]byte", "Color", "any",
	}
	n := r.IntN(10)
	if depth > 2 {
		n = r.IntN(6)
	}
	switch {
	case n < 4 || own == 0 && n < 6:
		return basic[r.IntN(len(basic))]
	case n < 6:
		return fmt.Sprintf("T%d", r.IntN(own))
	case n == 6:
		return "[]" + randomType(r, min(own+1, structs), depth+1)
	case n == 7:
		return "map[string]" + randomType(r, min(own+1, structs), depth+1)
	case n == 8:
		if of := randomType(r, min(own+1, structs), depth+1); of[0] == 'T' || of == "int64" || of == "string" || of == "Color" || of == "time.Time" {
			return "*" + of
		}
		return "*bool"
	}
	return fmt.Sprintf("[%d]%s", 1+r.IntN(3), randomType(r, own, depth+1))
}
