package cell

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

func TestTyped(t *testing.T) {
	type names struct {
		Names []string `json:"names"`
	}
	p := start(t, programConfig{},
		Func("add", add).Pure(),
		Func("div", div),
		Func("slow", add).Slow(),
		Func("nothing", func(context.Context, None) (None, error) { return None{}, nil }),
		Func("pointer", func(_ context.Context, in *addArgs) (*addArgs, error) { return in, nil }),
		Func("map", func(_ context.Context, in map[string]int) (int, error) { return len(in), nil }),
		Func("html", func(context.Context, None) (names, error) { return names{[]string{"<&>"}}, nil }),
		Func("nan", func(context.Context, None) (float64, error) { var zero float64; return zero / zero, nil }),
		FuncRaw("echo", echo),
	)
	for _, test := range []struct {
		function, args, want string
		kind                 cellproto.Kind
	}{
		{"add", `{"a":3,"b":4}`, "7", 0},
		{"slow", `{"a":3,"b":4}`, "7", 0},
		{"div", `{"a":7,"b":2}`, "3", 0},
		{"div", `{"a":7,"b":0}`, "division by zero", cellproto.FuncError},
		{"nothing", ``, "{}", 0},
		{"nothing", `{}`, "{}", 0},
		{"nothing", `{"a":1}`, `the argument "a" is unknown`, cellproto.BadInput},
		{"pointer", `{"a":1,"b":2}`, `{"a":1,"b":2}`, 0},
		{"pointer", `null`, "the arguments must not be null", cellproto.BadInput},
		{"map", `{"x":1,"y":2}`, "2", 0},
		{"map", `null`, "the arguments must not be null", cellproto.BadInput},
		{"html", ``, `{"names":["<&>"]}`, 0},
		{"nan", ``, "encode reply", cellproto.FuncError}, // it ran: nobody is to be asked again, or blamed
		{"echo", `any bytes`, "any bytes", 0},
		{"sub", `{}`, `no function "sub"`, cellproto.NotFound},
		{"add", ``, `the argument "a" is missing`, cellproto.BadInput},
	} {
		got, err := p.json(t, test.function, test.args)
		t.Run(test.function+test.args, func(t *testing.T) { check(t, got, err, test.want, test.kind) })
	}
}

func TestCBOR(t *testing.T) {
	p := start(t, programConfig{}, Func("add", add), Func("raw", func(_ context.Context, in struct {
		Data []byte    `json:"data"`
		At   time.Time `json:"at"`
	}) (map[string]any, error) {
		return map[string]any{"data": in.Data, "at": in.At, "none": []string(nil)}, nil
	}))
	client := NewClient(p.Conn)
	var sum int
	reply, err := client.Do(t.Context(), &Request{Func: "add", Args: addArgs{3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	if err := reply.Decode(&sum); err != nil || sum != 7 || reply.reply.Header.Codec != cellproto.CBOR {
		t.Errorf("%d, %v, codec %d", sum, err, reply.reply.Header.Codec)
	}
	now := time.Date(2026, 11, 1, 12, 0, 0, 5, time.UTC)
	reply, err = client.Do(t.Context(), &Request{Func: "raw", Args: map[string]any{"data": []byte{1, 2}, "at": now}})
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Data []byte    `json:"data"`
		At   time.Time `json:"at"`
		None []string  `json:"none"`
	}
	if err := reply.Decode(&back); err != nil || !bytes.Equal(back.Data, []byte{1, 2}) || !back.At.Equal(now) || back.None == nil {
		t.Errorf("%+v, %v", back, err)
	}
	_, err = client.Do(t.Context(), &Request{Func: "add", Args: []byte("raw")})
	check(t, "", err, "these are raw", cellproto.Unsupported)
	if hint := cellproto.HintOf(err); !strings.Contains(hint, "add a:integer b:integer") {
		t.Errorf("hint %q", hint)
	}
}

func TestErrorKinds(t *testing.T) {
	failing := func(err error) *Function {
		return Func("f", func(context.Context, None) (None, error) { return None{}, err })
	}
	down := remote(cellproto.Errorf("call mathlib", cellproto.Unavailable, "nobody there").WithHint("Start it."))
	for name, test := range map[string]struct {
		f    *Function
		kind cellproto.Kind
	}{
		"plain":              {failing(errors.New("no")), cellproto.FuncError},
		"file":               {failing(os.ErrNotExist), cellproto.FuncError},
		"foreign deadline":   {failing(context.DeadlineExceeded), cellproto.FuncError},
		"own kind":           {failing(fmt.Errorf("x: %w", cellproto.Errorf("f", cellproto.Denied, "no"))), cellproto.Denied},
		"dependency":         {failing(down), cellproto.FuncError},
		"dependency wrapped": {failing(fmt.Errorf("x: %w", down)), cellproto.FuncError},
		"dependency, pure":   {failing(down).Pure(), cellproto.Unavailable},
		"dependency ran":     {failing(remote(cellproto.Errorf("", cellproto.MayHaveRun, "lost"))), cellproto.MayHaveRun},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, programConfig{}, test.f)
			_, err := p.json(t, "f", "")
			check(t, "", err, "", test.kind)
			if strings.HasPrefix(name, "dependency") && test.kind.NeverRan() && cellproto.HintOf(err) != "Start it." {
				t.Errorf("hint %q", cellproto.HintOf(err))
			}
		})
	}
}

func TestPanic(t *testing.T) {
	boom := func(context.Context, None) (int, error) { zero := len(os.Getenv("NO SUCH")); return 1 / zero, nil }
	p := start(t, programConfig{}, Func("boom", boom), Func("slow", boom).Slow(), Func("add", add),
		Func("body", func(context.Context, None) (io.Reader, error) { return panicReader{}, nil }))
	for _, name := range []string{"boom", "slow", "body"} {
		_, err := p.json(t, name, "")
		check(t, "", err, "the function panicked: ", cellproto.Failed)
	}
	got, err := p.json(t, "add", `{"a":1,"b":1}`)
	check(t, got, err, "2", 0)
	p.stop()
	if err := p.wait(t); err != nil {
		t.Error(err)
	}
	if log := p.log.String(); strings.Count(log, "panic in function") != 3 || !strings.Contains(log, "serve_test.go") {
		t.Errorf("log without stacks: %.300s", log)
	}
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("reader") }

func TestLargeReplies(t *testing.T) {
	const size = 3 << 20
	buffer := make([]byte, size)
	p := start(t, programConfig{},
		Func("text", func(_ context.Context, in sizeArgs) (string, error) { return strings.Repeat("x", int(in.N)), nil }),
		FuncRaw("raw", func(context.Context, []byte) ([]byte, error) { return buffer, nil }),
		FuncRaw("echo", echo),
		Func("add", add),
	)
	got, err := p.json(t, "text", fmt.Sprintf(`{"n":%d}`, size))
	check(t, got, err, `"`+strings.Repeat("x", size)+`"`, 0)
	got, err = p.call(t, cellproto.Header{Func: "raw"}, nil)
	check(t, got, err, string(buffer), 0)
	args := bytes.Repeat([]byte("args"), cellproto.MaxArgs/4)
	got, err = p.call(t, cellproto.Header{Func: "echo"}, args)
	check(t, got, err, string(args), 0)

	// A reader that takes nothing of its reply holds up nobody else.
	reply, err := p.Call(t.Context(), &cellproto.Request{Header: cellproto.Header{Func: "raw"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err = p.json(t, "add", `{"a":1,"b":1}`)
	check(t, got, err, "2", 0)
	reply.Body.Close()
}

func TestBodies(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 1 << 20
	}
	p := start(t, programConfig{},
		FuncBody("digest", func(_ context.Context, in sizeArgs, body io.Reader) (string, error) {
			h := sha256.New()
			n, err := io.Copy(h, body)
			if err != nil || n != in.N {
				return "", fmt.Errorf("%d bytes of %d: %v", n, in.N, err)
			}
			return fmt.Sprintf("%x", h.Sum(nil)), nil
		}),
		Func("zeros", zeros),
		FuncBody("copy", func(_ context.Context, _ None, body io.Reader) (io.ReadCloser, error) { return io.NopCloser(body), nil }),
		FuncBody("first", func(_ context.Context, _ None, body io.Reader) (string, error) {
			b := make([]byte, 5)
			_, err := io.ReadFull(body, b)
			return string(b), err
		}),
		Func("cut", func(context.Context, None) (io.Reader, error) {
			return io.MultiReader(strings.NewReader("begun"), errReader{errors.New("disk broke")}), nil
		}),
		Func("add", add),
	)
	client := NewClient(p.Conn)
	h := sha256.New()
	io.CopyN(h, zeroReader{}, size)
	want := fmt.Sprintf("%x", h.Sum(nil))

	reply, err := client.Do(t.Context(), &Request{Func: "digest", Args: sizeArgs{size}, Body: io.LimitReader(zeroReader{}, size)})
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := reply.Decode(&got); err != nil || got != want {
		t.Errorf("digest %s, %v", got, err)
	}

	size = min(size, 8<<20)
	h.Reset()
	io.CopyN(h, zeroReader{}, size)
	want = fmt.Sprintf("%x", h.Sum(nil))
	for name, request := range map[string]*Request{
		"zeros": {Func: "zeros", Args: sizeArgs{size}},
		"copy":  {Func: "copy", Body: io.LimitReader(zeroReader{}, size)},
	} {
		reply, err := client.Do(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		h.Reset()
		body := reply.Body()
		n, err := io.Copy(h, body)
		body.Close()
		if got := fmt.Sprintf("%x", h.Sum(nil)); err != nil || n != size || got != want {
			t.Errorf("%s: %d bytes, %s, %v", name, n, got, err)
		}
	}

	reply, err = client.Do(t.Context(), &Request{Func: "first", Body: io.LimitReader(zeroReader{}, size)})
	if err != nil || reply.Decode(&got) != nil || got != "\x00\x00\x00\x00\x00" {
		t.Errorf("first: %q %v", got, err)
	}
	text, err := p.json(t, "cut", "")
	check(t, text, err, "disk broke", cellproto.FuncError)
	_, err = client.Do(t.Context(), &Request{Func: "add", Args: addArgs{}, Body: strings.NewReader("x")})
	check(t, "", err, "takes no body", cellproto.BadInput)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestSchemaIsServed(t *testing.T) {
	p := start(t, programConfig{}, Func("b", add).Pure().Doc("Adds."), Func("a", zeros), Func("c", div).Slow(), FuncRaw("d", echo))
	text, err := p.call(t, cellproto.Header{Func: cellproto.FuncSchema}, nil)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := cellproto.ParseSchema([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	hello, err := p.PeerHello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if hash := schema.Hash(); !bytes.Equal(hello.Schema, hash[:]) {
		t.Error("the hello has another hash")
	}
	if got := compact(t, []any{hello.Functions, hello.Cell}); got != `[["a","b","c","d"],"test"]` {
		t.Error(got)
	}
	if f := schema.Functions["b"]; !f.Pure || f.Doc != "Adds." || compact(t, f.Order) != `["a","b"]` {
		t.Errorf("%+v", f)
	}
}

func TestRefusedDeclarations(t *testing.T) {
	type twice struct {
		A int `json:"B"`
		B int
	}
	for name, functions := range map[string][]*Function{
		`two functions are named "a"`:            {Func("a", add), Func("a", div)},
		`"a b" is not the name`:                  {Func("a b", add)},
		`names that begin with "cell."`:          {Func("cell.x", add)},
		"int is neither a struct nor a map":      {Func("f", func(context.Context, int) (int, error) { return 0, nil })},
		`two fields of cell.twice are named "B"`: {Func("f", func(context.Context, twice) (int, error) { return 0, nil })},
		"values of type chan int cannot be sent": {Func("f", func(context.Context, None) (chan int, error) { return nil, nil })},
		"keys of map[int]string are not strings": {Func("f", func(context.Context, None) (map[int]string, error) { return nil, nil })},
		"made without a constructor":             {{name: "f"}},
		"values of type error cannot be sent":    {Func("f", func(context.Context, None) (error, error) { return nil, nil })},
		`the json option "string" is not supported`: {Func("f", func(_ context.Context, in struct {
			A int `json:",string"`
		}) (int, error) {
			return 0, nil
		})},
		"has a cbor tag; the json tag is for both": {Func("f", func(_ context.Context, in struct {
			A int `cbor:"b"`
		}) (int, error) {
			return 0, nil
		})},
		`is not the name of a cell`: {},
	} {
		a, b := socketPair(t)
		cfg := Config{Name: "test"}
		if len(functions) == 0 {
			cfg.Name = "No Name"
		}
		err := cfg.Serve(t.Context(), a, functions...)
		b.Close()
		check(t, "", err, name, cellproto.BadInput)
	}
}
