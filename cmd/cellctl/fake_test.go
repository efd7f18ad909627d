package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

const testSchema = `{"cell":"calculator","functions":{
 "add":{"doc":"Adds.","input":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]},"order":["a","b"],"output":{"type":"number"},"pure":true},
 "echo":{"body_in":true,"body_out":true},
 "fail":{},"deny":{},"busy":{}}}`

// fakeNucleus answers on both sockets of a fresh cell directory.
type fakeNucleus struct {
	mu     sync.Mutex // guards routes where another process asks
	dir    string
	status ctl.Status
	routes map[string]func(w *ctl.Writer, r *http.Request, raw http.ResponseWriter)
}

func startFake(t *testing.T) *fakeNucleus {
	t.Helper()
	n := &fakeNucleus{dir: filepath.Join(t.TempDir(), "calculator"), status: ctl.Status{Name: "calculator", State: ctl.Running, PeerID: "12D3KooWfake"}}
	writeFiles(t, n.dir, map[string]string{
		"cell.toml":         "[cell]\nname = \"calculator\"\n",
		"cache/schema.json": testSchema,
	})
	n.routes = map[string]func(*ctl.Writer, *http.Request, http.ResponseWriter){
		ctl.RouteStatus:  func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) { w.Result(n.status) },
		ctl.RouteMetrics: metrics(),
	}
	n.serveControl(t)
	n.serveCalls(t)
	return n
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *fakeNucleus) serveControl(t *testing.T) {
	t.Helper()
	l, err := ctl.Listen(n.dir, ctl.ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		route, ok := n.routes[r.URL.Path]
		n.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", ctl.ContentType)
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		route(ctl.NewWriter(w, func() { rc.Flush() }), r, w)
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
}

func (n *fakeNucleus) serveCalls(t *testing.T) {
	t.Helper()
	l, err := ctl.Listen(n.dir, ctl.CellSocket)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := cellproto.ParseSchema([]byte(testSchema))
	if err != nil {
		t.Fatal(err)
	}
	hash := schema.Hash()
	var all sync.WaitGroup
	all.Go(func() {
		for {
			socket, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { answerCalls(t, socket, hash[:]) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
}

func answerCalls(t *testing.T, socket net.Conn, hash []byte) {
	var bodies sync.WaitGroup
	defer bodies.Wait()
	conn, err := cellproto.NewConn(socket, cellproto.Config{
		Hello: cellproto.Hello{Schema: hash},
		Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
			if f.Header.Func == "echo" {
				in := c.Inbound(context.Background(), f)
				bodies.Go(func() { in.ReplyBody(cellproto.Header{}, in.Body()) })
				return
			}
			c.Queue(fakeReply(f))
			c.FlushLater(c)
		},
	})
	if err != nil {
		t.Error(err)
		return
	}
	conn.Run()
}

func fakeReply(f *cellproto.Frame) *cellproto.Frame {
	switch f.Header.Func {
	case "add":
		var args struct{ A, B float64 }
		json.Unmarshal(f.Payload, &args)
		sum, _ := json.Marshal(args.A + args.B)
		return &cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Header: cellproto.Header{Codec: cellproto.JSON}, Payload: sum}
	case "deny":
		return cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.Denied, "not you").WithHint("Ask the owner."))
	case "busy":
		e := cellproto.Errorf("call", cellproto.Overloaded, "full")
		e.RetryAfter = millis(200)
		return cellproto.ErrorReply(f.ID, e)
	}
	return cellproto.ErrorReply(f.ID, cellproto.Errorf("", cellproto.FuncError, "division by \x1b[31mzero"))
}

// outcome is what a run of cellctl leaves.
type outcome struct {
	code     int
	out, err string
}

// run runs cellctl in this process.
func run(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{in: bytes.NewBufferString(stdin), out: &out, errOut: &errOut, getenv: os.Getenv}
	code := a.run(args)
	return outcome{code, out.String(), errOut.String()}
}

// must fails the test unless the run has succeeded, and gives what it printed.
func must(t *testing.T, o outcome) string {
	t.Helper()
	if o.code != 0 {
		t.Fatalf("exit code %d: %s", o.code, o.err)
	}
	return o.out
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }
