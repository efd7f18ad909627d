package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

var update = flag.Bool("update", false, "rewrite testdata/schema")

type color string

func (color) Enum() []string { return []string{"red", "green"} }

type money struct{ cents int64 }

func (m money) MarshalJSON() ([]byte, error) { return json.Marshal(float64(m.cents) / 100) }
func (m *money) UnmarshalJSON(b []byte) error {
	var f float64
	err := json.Unmarshal(b, &f)
	m.cents = int64(f*100 + 0.5)
	return err
}
func (money) JSONSchema() json.RawMessage {
	return json.RawMessage(`{"type":"number","multipleOf":0.01}`)
}

// opaque marshals itself and does not say how.
type opaque struct{ v any }

func (o opaque) MarshalJSON() ([]byte, error)     { return json.Marshal(o.v) }
func (o *opaque) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &o.v) }

type tree struct {
	Value    int     `json:"value"`
	Children []*tree `json:"children,omitempty"`
	Parent   *tree   `json:"parent"`
}

type pair[A, B any] struct {
	First  A `json:"first"`
	Second B `json:"second"`
}

type base struct {
	ID     string `json:"id" doc:"from the embedded struct"`
	Hidden string `json:"name"`
}

type everything struct {
	base
	Name   string            `json:"name" doc:"hides the embedded one"`
	I8     int8              `json:"i8"`
	I64    int64             `json:"i64"`
	U16    uint16            `json:"u16"`
	U64    uint64            `json:"u64"`
	F      float64           `json:"f"`
	OK     bool              `json:"ok"`
	Data   []byte            `json:"data"`
	At     time.Time         `json:"at"`
	Took   time.Duration     `json:"took,omitzero"`
	Tags   []string          `json:"tags" doc:"a list"`
	Point  [2]float32        `json:"point"`
	Sum    [4]byte           `json:"sum"`
	Meta   map[string]string `json:"meta,omitempty"`
	Maybe  *int              `json:"maybe"`
	Opt    string            `json:"opt,omitempty"`
	Color  color             `json:"color"`
	Best   *color            `json:"best"`
	Addr   netip.Addr        `json:"addr"`
	Price  money             `json:"price"`
	Opaque opaque            `json:"opaque"`
	Any    any               `json:"any"`
	Raw    json.RawMessage   `json:"raw"`
	Inline struct {
		X int `json:"x"`
	} `json:"inline"`
	Tree    tree                   `json:"tree"`
	Pairs   []pair[int, time.Time] `json:"pairs"`
	NoTag   int
	Skipped chan int `json:"-"`
}

func TestSchemaGoldens(t *testing.T) {
	for name, functions := range map[string][]*Function{
		"simple": {
			Func("add", add).Pure().Doc("Adds two integers."), Func("nothing", func(context.Context, None) (None, error) { return None{}, nil }),
			Func("slow", add).Slow().Idempotent(), FuncRaw("echo", echo), Func("zeros", zeros),
			FuncBody("copy", func(_ context.Context, _ None, body io.Reader) (io.ReadCloser, error) { return io.NopCloser(body), nil }),
			FuncBody("count", func(_ context.Context, _ None, body io.Reader) (int64, error) { return 0, nil }),
		},
		"types": {
			Func("everything", func(_ context.Context, in everything) (everything, error) { return in, nil }),
		},
		"recursive": {
			Func("tree", func(_ context.Context, in tree) (*tree, error) { return &in, nil }),
			Func("trees", func(_ context.Context, in map[string][]tree) ([]tree, error) { return nil, nil }),
			Func("open", func(_ context.Context, in map[string]any) (any, error) { return nil, nil }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := newServer(Config{Name: "golden"}, functions)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, s.canonical, "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			path := filepath.Join("testdata", "schema", name+".json")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got.Bytes()) {
				t.Errorf("the schema has changed; -update rewrites it\n%s", got.Bytes())
			}
			again, err := cellproto.ParseSchema(want)
			if err != nil || again.Hash() != s.schema.Hash() {
				t.Errorf("read back: %v", err)
			}
		})
	}
}

// shut marshals itself, as opaque does; a struct that embeds both does not.
type shut struct{}

func (shut) MarshalJSON() ([]byte, error)  { return nil, nil }
func (*shut) UnmarshalJSON(_ []byte) error { return nil }

func TestRefusedTypes(t *testing.T) {
	for want, v := range map[string]any{
		"embeds a pointer":           struct{ *tree }{},
		"values of type complex128":  struct{ C complex128 }{},
		"values of type json.Number": struct{ N json.Number }{},
		"values of type io.Reader":   struct{ R io.Reader }{},
		"has a quote or a backslash": reflect.Zero(reflect.StructOf([]reflect.StructField{
			{Name: "A", Type: reflect.TypeFor[int](), Tag: `json:"a'b"`},
		})).Interface(),
		"embeds a type that marshals itself": struct {
			opaque
			shut
		}{},
		"values of type chan int":    map[string]chan int{},
		"neither a struct nor a map": time.Time{},
	} {
		_, _, _, err := deriveInput(reflect.TypeOf(v), Docs{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: got %v, want %q", v, err, want)
		}
	}
}
