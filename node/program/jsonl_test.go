package program

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/node/state"
)

// greet is a whole cell in a few lines of shell, which know no JSON library.
const greet = `#!/bin/sh
while read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  name=${line#*\"name\":\"}; name=${name%%\"*}
  case $line in
  *'"fn":"greet"'*) echo "{\"id\":$id,\"reply\":\"Hello, $name!\"}" ;;
  *) echo "{\"id\":$id,\"error\":\"no such function\"}" ;;
  esac
done
`

const greetSchema = `{"cell": "greet", "functions": {"greet": {"input":
  {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}, "pure": true}, "other": {}}}`

func shellCell(t testing.TB, script, schema string) Config {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "greet"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if schema != "" {
		if err := os.WriteFile(filepath.Join(dir, "schema.json"), []byte(schema), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Config{Dir: dir, Name: "greet", Binary: "bin/greet", Speaks: celltoml.JSONL, IdleTimeout: time.Minute}
}

func TestShellProgram(t *testing.T) {
	p := newProgram(t, shellCell(t, greet, greetSchema), Deps{})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			args := fmt.Sprintf("{\n \"name\": \"Ann%d\"}", i) // the newline must not reach the program
			got, err := call(ctx, p, "greet", []byte(args), cellproto.JSON)
			if want := fmt.Sprintf(`"Hello, Ann%d!"`, i); err != nil || string(got) != want {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		})
	}
	wg.Wait()
	_, err := call(ctx, p, "other", []byte(`{"name":"x"}`), cellproto.JSON)
	wantError(t, err, cellproto.FuncError, "no such function", "")
	_, err = call(ctx, p, "nothing", nil, cellproto.JSON)
	wantError(t, err, cellproto.NotFound, "no function", "greet, other")

	h, ok := p.Hello()
	schema, perr := cellproto.ParseSchema([]byte(greetSchema))
	if perr != nil || !ok || fmt.Sprint(h.Functions) != "[greet other]" || cellproto.SchemaHash(h.Schema) != schema.Hash() {
		t.Errorf("hello %+v, %v", h, perr)
	}
	got, err := call(ctx, p, cellproto.FuncSchema, nil, cellproto.Raw)
	if err != nil || string(got) != string(schema.Canonical()) {
		t.Errorf("schema %s, %v", got, err)
	}
	pid := p.State().PID
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
	checkReaped(t, pid)
	if s := p.State(); s.LastExit != "exit status 0" || s.Counters.BadLines != 0 || s.Starts != 1 {
		t.Errorf("%+v", s)
	}
	if got, err := call(ctx, p, "greet", []byte(`{"name":"Bo"}`), cellproto.JSON); err != nil || string(got) != `"Hello, Bo!"` {
		t.Errorf("after the stop: %s, %v", got, err)
	}
}

func TestLinesAnswers(t *testing.T) {
	p := start(t, "lines")
	ctx := testContext(t)
	if got, err := call(ctx, p, "echo", []byte(`{"b": [1, 2], "a": "ü"}`), cellproto.JSON); err != nil || string(got) != `{"b":[1,2],"a":"ü"}` {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil || string(got) != `{}` {
		t.Errorf("no arguments: %s, %v", got, err)
	}
	_, err := call(ctx, p, "fail", nil, cellproto.Raw)
	wantError(t, err, cellproto.FuncError, `no "such" thing`, "")
	got, err := call(ctx, p, "big", nil, cellproto.Raw) // travels as a body
	var text string
	if err != nil || json.Unmarshal(got, &text) != nil || len(text) != 500<<10 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if s := p.State(); s.Counters.BadLines != 0 {
		t.Errorf("%+v", s)
	}
}

// Nobody else holds such a program to its schema: what does not fit reaches no caller as a reply.
func TestLinesReplyThatDoesNotFit(t *testing.T) {
	const schema = `{"cell": "greet", "functions": {"ok": {"output": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
		"lacks": {"output": {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}},
		"other": {"output": {"type": "string"}}, "free": {}}}`
	p := newProgram(t, shellCell(t, `#!/bin/sh
while read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  echo "{\"id\":$id,\"reply\":{\"a\":7}}"
done
`, schema), Deps{})
	ctx := testContext(t)
	for _, fn := range []string{"ok", "free"} {
		if got, err := call(ctx, p, fn, nil, cellproto.JSON); err != nil || string(got) != `{"a":7}` {
			t.Errorf("%s: %s, %v", fn, got, err)
		}
	}
	_, err := call(ctx, p, "lacks", nil, cellproto.JSON)
	wantError(t, err, cellproto.BadReply, `reply lacks "b"`, "schema.json")
	_, err = call(ctx, p, "other", nil, cellproto.JSON)
	wantError(t, err, cellproto.BadReply, "reply is of type object, not string", "schema.json")
	if n := p.State().Counters.BadLines; n != 2 {
		t.Errorf("%d bad lines were counted", n)
	}
}

func TestLinesOutOfOrder(t *testing.T) {
	p := start(t, "lines")
	ctx := testContext(t)
	c := mustConn(t, p)
	const held = 30
	var wg sync.WaitGroup
	for i := range held {
		wg.Go(func() {
			want := fmt.Sprint(i)
			if got, err := call(ctx, p, "hold", []byte(want), cellproto.JSON); err != nil || string(got) != want {
				t.Errorf("%s, %v, want %s", got, err, want)
			}
		})
	}
	eventually(t, "all are in flight", func() bool { _, out := c.InFlight(); return out == held })
	for c := true; c; { // until the program has read them all
		if _, err := call(ctx, p, "release", nil, cellproto.Raw); err != nil {
			t.Fatal(err)
		}
		c = p.InFlight() > 0
	}
	wg.Wait()
}

func TestLinesUnsupported(t *testing.T) {
	p := start(t, "lines")
	ctx := testContext(t)
	c := mustConn(t, p)
	_, err := call(ctx, p, "echo", []byte{0xa0}, cellproto.CBOR)
	wantError(t, err, cellproto.Unsupported, "JSON arguments only", "JSON")
	_, err = call(ctx, p, "echo", []byte("x"), cellproto.Raw)
	wantError(t, err, cellproto.Unsupported, "JSON arguments only", "JSON")
	_, err = c.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "echo"}, Body: strings.NewReader("body")})
	wantError(t, err, cellproto.Unsupported, "takes no bodies", "SDK")
	_, err = call(ctx, p, "echo", []byte(`{"a":1,"a":2}`), cellproto.JSON)
	wantError(t, err, cellproto.BadInput, "twice", "")
	_, err = call(ctx, p, "cell.schema", nil, cellproto.Raw)
	wantError(t, err, cellproto.NotFound, "no schema", "schema.json")
	_, err = call(ctx, p, "cell.other", nil, cellproto.Raw)
	wantError(t, err, cellproto.NotFound, "no such function", "")
	if got, err := call(ctx, p, "echo", []byte("7"), cellproto.JSON); err != nil || string(got) != "7" {
		t.Errorf("after all that: %s, %v", got, err)
	}
}

func TestLinesBad(t *testing.T) {
	var out testOutput
	p := newProgram(t, testConfig(cellDir(t), "lines"), Deps{Output: &out})
	ctx := testContext(t)
	_, err := call(ctx, p, "badjson", nil, cellproto.Raw)
	wantError(t, err, cellproto.Failed, "not a JSON object", "An answer is one line")
	_, err = call(ctx, p, "both", nil, cellproto.Raw)
	wantError(t, err, cellproto.Failed, "both a reply and an error", "An answer is one line")
	_, err = call(ctx, p, "toolong", nil, cellproto.Raw)
	wantError(t, err, cellproto.Failed, "the limit is 1048576", "An answer is one line")
	if got, err := call(ctx, p, "chatty", nil, cellproto.Raw); err != nil || string(got) != "1" {
		t.Errorf("%s, %v", got, err)
	}
	if s := p.State(); s.Counters.BadLines != 5 {
		t.Errorf("%+v", s)
	}
	for _, want := range []string{`debug: \x07 working`, "no request has the id 999", "both a reply and an error"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, out.String())
		}
	}
}

func TestLinesProgramDies(t *testing.T) {
	p := start(t, "lines")
	ctx := testContext(t)
	if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	_, err := call(ctx, p, "die", nil, cellproto.Raw)
	wantError(t, err, cellproto.MayHaveRun, "(exit status 9; it printed: out of luck)", "cellctl logs")
	if got, err := call(ctx, p, "echo", []byte("1"), cellproto.JSON); err != nil || string(got) != "1" {
		t.Errorf("after the crash: %s, %v", got, err)
	}
	c := mustConn(t, p)
	errs := make(chan error, 5)
	for range cap(errs) {
		go func() { _, err := call(ctx, p, "hold", nil, cellproto.Raw); errs <- err }()
	}
	eventually(t, "all are in flight", func() bool { _, out := c.InFlight(); return out == cap(errs) })
	if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(p.State().PID, syscall.SIGKILL)
	for range cap(errs) {
		wantError(t, <-errs, cellproto.MayHaveRun, "signal: killed", "")
	}
}

// TestLinesNeverRead has a program that ends without having read a request: it provably did not run.
func TestLinesNeverRead(t *testing.T) {
	if _, ok := unread(os.Stdin); !ok {
		_, w, _ := os.Pipe()
		if _, ok := unread(w); !ok {
			t.Skip("this system does not tell what a pipe holds")
		}
	}
	p := newProgram(t, shellCell(t, "#!/bin/sh\nsleep 0.1\necho no database >&2\nexit 5\n", ""), Deps{})
	_, err := mustConn(t, p).Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: "greet"}})
	wantError(t, err, cellproto.Unavailable, "before it read the request (exit status 5; it printed: no database)", "")
	eventually(t, "the failure is seen", func() bool { return p.State().Phase == Failed })
	_, err = p.Conn(testContext(t))
	wantError(t, err, cellproto.Unavailable, "exit status 5", "cellctl logs")
}

func TestLinesMissingInterpreter(t *testing.T) {
	p := newProgram(t, shellCell(t, "#!/usr/bin/env no-such-python\n", ""), Deps{})
	_, err := call(testContext(t), p, "greet", nil, cellproto.Raw)
	wantError(t, err, cellproto.Unavailable, "no-such-python", "cellctl logs")
}

func TestLinesClosedStreams(t *testing.T) {
	p := start(t, "lines")
	ctx := testContext(t)
	if _, err := call(ctx, p, "closein", nil, cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	_, err := p.Ready().Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "echo"}})
	wantError(t, err, cellproto.Unavailable, "input", "")
	if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
		t.Errorf("the next one: %v", err)
	}
	_, err = call(ctx, p, "closeout", nil, cellproto.Raw)
	wantError(t, err, cellproto.MayHaveRun, "closed its input or output", "")
	if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// TestLinesDeaf has a program that reads nothing: what does not fit is refused, and it can be stopped.
func TestLinesDeaf(t *testing.T) {
	cfg := testConfig(cellDir(t), "linesdeaf")
	cfg.StopTimeout = 100 * time.Millisecond
	p := newProgram(t, cfg, Deps{})
	c := mustConn(t, p)
	ctx, cancel := context.WithCancel(testContext(t))
	args := []byte(`"` + strings.Repeat("a", 250<<10) + `"`)
	errs := make(chan error, 40)
	for range cap(errs) {
		go func() {
			_, err := c.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "f", Codec: cellproto.JSON}, Payload: args})
			errs <- err
		}()
	}
	err := <-errs
	wantError(t, err, cellproto.Overloaded, "wait for the program to read", "")
	cancel()
	for range cap(errs) - 1 {
		<-errs
	}
	pid := p.State().PID
	if err := p.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	checkReaped(t, pid)
}

func TestLinesCallerGivesUp(t *testing.T) {
	p := start(t, "lines")
	c := mustConn(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := call(ctx, p, "hold", nil, cellproto.Raw)
	wantError(t, err, cellproto.Timeout, "", "")
	if _, out := c.InFlight(); out != 1 {
		t.Errorf("%d calls in flight: the program still works on one", out)
	}
	if _, err := call(testContext(t), p, "release", nil, cellproto.Raw); err != nil {
		t.Error(err)
	}
	eventually(t, "the late answer is taken", func() bool { _, out := c.InFlight(); return out == 0 })
}

func TestBadSchemaFile(t *testing.T) {
	for name, schema := range map[string]string{
		"no JSON": "{", "too large": `{"cell":"` + strings.Repeat("x", cellproto.MaxSchema) + `"}`, "unknown key": `{"cell":"greet","functions":{},"x":1}`,
	} {
		p := newProgram(t, shellCell(t, greet, schema), Deps{})
		_, err := p.Conn(testContext(t))
		wantError(t, err, cellproto.Unavailable, "schema", "")
		if s := p.State(); s.LastExit != "" {
			t.Errorf("%s: the program was started: %+v", name, s)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	for line, want := range map[string]answer{
		`{"id":1,"reply":{"a":[1,2]}}`:   {ID: 1, Reply: []byte(`{"a":[1,2]}`)},
		`{"id":1,"reply":null}`:          {ID: 1, Reply: []byte(`null`)},
		` {"reply":1,"id":2.0,"log":3} `: {ID: 2, Reply: []byte(`1`)},
		`{"id":3,"error":"text"}`:        {ID: 3, Error: "text", Fails: true},
		`{"id":3,"error":""}`:            {ID: 3, Error: "the function failed", Fails: true},
	} {
		got, err := parseAnswer([]byte(line))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for line, id := range map[string]uint64{
		``: 0, `x`: 0, `null`: 0, `[1]`: 0, `{}`: 0, `{"id":1}`: 1, `{"id":1,"reply":1,"error":"x"}`: 1,
		`{"id":0,"reply":1}`: 0, `{"id":-1,"reply":1}`: 0, `{"id":"1","reply":1}`: 0, `{"id":1.5,"reply":1}`: 0,
		`{"id":1,"error":null}`: 1, `{"id":1,"error":{"a":1}}`: 1, `{"ID":1,"reply":1}`: 0,
		`{"id":4,"reply":}`: 4, `{"x":[{}],"id":5,"reply":"cut`: 5, "{\"id\":6,\"reply\":\"\xff\"}": 6,
		`{"id":1,"reply":1} {}`: 1,
	} {
		got, err := parseAnswer([]byte(line))
		if cellproto.KindOf(err) != cellproto.BadInput || got.ID != id {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
}

func TestAppendRequest(t *testing.T) {
	got, err := appendRequest([]byte("x"), 7, "greet", []byte("{ \"a\" : \"\\n\",\n\"b\":1}"))
	if want := `x{"id":7,"fn":"greet","args":{"a":"\n","b":1}}` + "\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := appendRequest(nil, 1, "f", nil); err != nil || string(got) != `{"id":1,"fn":"f","args":{}}`+"\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := appendRequest(nil, 1, "f", []byte("{")); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
}

// notes asks its nucleus to keep a name, and gives what it says.
const notes = `#!/bin/sh
while read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  name=${line#*\"name\":\"}; name=${name%%\"*}
  echo "{\"call\":\"$name\",\"id\":$id,\"args\":{\"key\":\"a\",\"value\":\"$id\"}}"
  read -r answer
  echo "{\"id\":$id,\"reply\":$answer}"
done
`

// A program of JSON lines calls its nucleus, and nobody else.
func TestLinesCallTheNucleus(t *testing.T) {
	cfg := shellCell(t, notes, "")
	store, err := state.New(state.Config{Dir: cfg.Dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	p := newProgram(t, cfg, Deps{Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		if !store.Accept(c, f) {
			t.Errorf("it calls %s of %q", f.Header.Func, f.Header.To)
		}
	}})
	for _, step := range [][2]string{
		{"cell.kv.get", `{"answer":1,"reply":{"value":null}}`},
		{"cell.kv.put", `{"answer":2,"reply":{"value":null}}`},
		{"cell.kv.get", `{"answer":3,"reply":{"value":"2"}}`},
		{"cell.file.read", `{"answer":4,"error":"cell.file.read: a program that speaks jsonl calls functions that begin with cell.kv. only","kind":"unsupported"}`},
		{"add", `"kind":"unsupported"}`},
	} {
		got, err := call(testContext(t), p, "f", fmt.Appendf(nil, `{"name":%q}`, step[0]), cellproto.JSON)
		if err != nil || !strings.HasSuffix(string(got), step[1]) {
			t.Errorf("%s: %s, %v", step[0], got, err)
		}
	}
}

// A program that calls without reading is held to its limits.
func TestLinesFlood(t *testing.T) {
	const flood = `#!/bin/sh
read -r line
i=0
while [ $i -lt 2000 ]; do i=$((i+1)); echo "{\"call\":\"cell.kv.get\",\"id\":$i,\"args\":{\"key\":\"a\"}}"; done
echo '{"id":1,"reply":"done"}'
while read -r line; do :; done
`
	var under, most atomic.Int64
	p := newProgram(t, shellCell(t, flood, ""), Deps{Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		most.Store(max(most.Load(), under.Add(1)))
		in := c.Inbound(context.Background(), f)
		go func() {
			under.Add(-1)
			_ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, []byte("{}"))
		}()
	}})
	if got, err := call(testContext(t), p, "f", nil, cellproto.JSON); err != nil || string(got) != `"done"` {
		t.Errorf("%s, %v", got, err)
	}
	if n := most.Load(); n > maxOwnCalls {
		t.Errorf("%d calls were under way", n)
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, line := range []string{
		`{"id":1,"reply":{"a":1}}`, `{"id":1,"error":"text"}`, `{"id":1e3,"reply":[]}`, `{"id":4,"reply":}`, `{"x":{"id":1},"id":`, "\xff", ``,
		`{"id":2,"call":"cell.kv.get","args":{"key":"a"}}`, `{"id":2,"call":1}`, `{"call":"f"}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		a, err := parseAnswer(line)
		if err != nil {
			if cellproto.KindOf(err) != cellproto.BadInput || a.Reply != nil || a.Fails {
				t.Fatalf("%+v, %v", a, err)
			}
			return
		}
		if a.Call != "" {
			if a.ID == 0 || a.Fails || a.Reply != nil || a.Args != nil && !json.Valid(a.Args) {
				t.Fatalf("%+v", a)
			}
			return
		}
		if a.ID == 0 || a.Fails == (a.Reply != nil) || a.Reply != nil && !json.Valid(a.Reply) {
			t.Fatalf("%+v", a)
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nbc\n\ndefgh"), 3, 2)
	f.Fuzz(func(t *testing.T, data []byte, limit, step int) {
		limit, step = 1+limit&15, 1+step&15
		s := lineSplitter{max: limit}
		var got []string
		emit := func(line []byte, cut int) {
			if len(line) > limit || cut > 0 && len(line) < limit {
				t.Fatalf("%d bytes, %d cut, limit %d", len(line), cut, limit)
			}
			got = append(got, fmt.Sprintf("%s+%d", line, cut))
		}
		for rest := data; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			s.feed(rest[:min(step, len(rest))], emit)
		}
		s.finish(emit)
		var want []string
		lines := strings.Split(string(data), "\n")
		for i, line := range lines {
			if i == len(lines)-1 && line == "" {
				break
			}
			n := min(limit, len(line))
			want = append(want, fmt.Sprintf("%s+%d", line[:n], len(line)-n))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}
