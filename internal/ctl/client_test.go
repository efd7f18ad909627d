package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers on the control socket of a fresh directory until the test ends.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	dir := t.TempDir()
	l, err := Listen(dir, ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return &Client{Dir: dir}
}

// answerer gives a Writer of a handler that answers while it reads.
func answerer(w http.ResponseWriter) *Writer {
	w.Header().Set("Content-Type", ContentType)
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()
	return NewWriter(w, func() { rc.Flush() })
}

func TestClientResults(t *testing.T) {
	want := Status{Name: "calculator", State: Idle, NucleusPID: 7, Addrs: []string{"/ip4/127.0.0.1/tcp/1/p2p/x"}}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		a := answerer(w)
		switch r.Method + " " + r.URL.Path {
		case "GET " + RouteStatus:
			a.Result(want)
		case "POST " + RouteRace:
			a.Progress("asking\x1b[31m two")
			a.Result([]RaceRow{{Peer: r.URL.Query().Get("target"), Winner: true}})
		case "GET " + RouteHistory:
			a.Fail(&RemoteError{Op: "history", Kind: "not found", Message: "no such cell", Hint: "Look again."})
		case "POST " + RouteStop:
			a.Result(nil)
		case "GET " + RouteDoctor:
			http.Error(w, "no", http.StatusForbidden)
		case "GET " + RouteFind:
			for i := range 3 {
				a.Item(FindRow{Peer: fmt.Sprint(i)})
			}
			a.Result(Found{3})
		default:
			http.NotFound(w, r)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if got, err := c.Status(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("status: %+v, %v", got, err)
	}
	var progress []string
	c.Progress = func(s string) { progress = append(progress, s) }
	if got, err := c.Race(ctx, "a b&c"); err != nil || len(got) != 1 || got[0].Peer != "a b&c" || !got[0].Winner {
		t.Errorf("race: %+v, %v", got, err)
	}
	if len(progress) != 1 || progress[0] != "asking [31m two" {
		t.Errorf("progress %q", progress)
	}
	_, err := c.History(ctx, "x")
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Kind != "not found" || remote.Hint != "Look again." {
		t.Errorf("history: %v", err)
	}
	if err := c.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	rows := 0
	if err := c.Find(ctx, "x", func(FindRow) error { rows++; return nil }); err != nil || rows != 3 {
		t.Errorf("find: %d rows, %v", rows, err)
	}
	if _, err := c.Doctor(ctx); !errors.As(err, &remote) || remote.Kind != "denied" {
		t.Errorf("a refusal gives %v", err)
	}
	if _, err := c.Schema(ctx, "x"); !errors.Is(err, ErrProtocol) {
		t.Errorf("an unknown route gives %v", err)
	}
}

func TestClientUse(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		req, err := ParseUse(r.URL.Query(), time.Second)
		if err != nil {
			t.Error(err)
		}
		a := answerer(w)
		if req.Func == "lost" {
			a.Result(UseMeta{Codec: CodecRaw})
			panic(http.ErrAbortHandler)
		}
		a.Progress("begun")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		a.Result(UseMeta{Codec: CodecJSON, Source: "local", TookUS: 5})
		w.Write(body)
		if req.Func == "broken" {
			w.Header().Set(http.TrailerPrefix+TrailerError, `{"op":"use","kind":"timed out","message":"late"}`)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	use := func(fn string, body io.Reader) ([]byte, error) {
		r, err := c.Use(ctx, UseRequest{Target: "x", Func: fn, Timeout: time.Second}, body)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	big := bytes.Repeat([]byte("0123456789"), 300_000)
	if got, err := use("echo", bytes.NewReader(big)); err != nil || !bytes.Equal(got, big) {
		t.Errorf("echo of %d bytes: %d bytes, %v", len(big), len(got), err)
	}
	if got, err := use("echo", nil); err != nil || len(got) != 0 {
		t.Errorf("echo of nothing: %q, %v", got, err)
	}
	if _, err := use("lost", nil); !errors.Is(err, ErrLost) {
		t.Errorf("a reply that was cut gives %v", err)
	}
	var remote *RemoteError
	if got, err := use("broken", strings.NewReader("part")); !errors.As(err, &remote) || remote.Kind != "timed out" || string(got) != "part" {
		t.Errorf("a reply that failed gives %q, %v", got, err)
	}
	failing := io.MultiReader(strings.NewReader("some"), errReader{})
	if _, err := use("echo", failing); !errors.Is(err, errInput) {
		t.Errorf("an input that breaks gives %v", err)
	}
}

var errInput = errors.New("bad disk")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errInput }

func TestClientEnds(t *testing.T) {
	if _, err := (&Client{Dir: t.TempDir()}).Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no nucleus gives %v", err)
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answerer(w).Progress("thinking")
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Race(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline gives %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	c.Progress = func(string) { cancel() }
	if _, err := c.Race(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancel gives %v", err)
	}
}

// Whatever answers on the socket, the client gives an error and does not hang or grow.
func TestClientGarbage(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + ContentType + "\r\n"
	for name, answer := range map[string]string{
		"nothing":       "",
		"not HTTP":      "SSH-2.0-x\r\n\r\n",
		"half a head":   "HTTP/1.1 200 OK\r\nContent-",
		"bad header":    "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
		"long header":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", MaxHeader) + "\r\n\r\n",
		"other type":    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{\"result\":{}}\n",
		"no last line":  head + "\r\n{\"progress\":\"x\"}\n",
		"half a line":   head + "\r\n{\"result\":",
		"two fields":    head + "\r\n{\"result\":{},\"item\":{}}\n",
		"unknown field": head + "\r\n{\"surprise\":{}}\n",
		"no JSON":       head + "\r\nhello\n",
		"long line":     head + "\r\n{\"progress\":\"" + strings.Repeat("x", MaxLine) + "\"}\n{\"result\":{}}\n",
		"wrong type":    head + "\r\n{\"result\":[1]}\n",
		"bad length":    head + "Content-Length: -1\r\n\r\n{\"result\":{}}\n",
		"short length":  head + "Content-Length: 5\r\n\r\n{\"result\":{}}\n",
		"long length":   head + "Content-Length: 50\r\n\r\n{\"item\":{}}\n",
		"bad chunk":     head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"huge chunk":    head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
		"gzip":          head + "Transfer-Encoding: gzip\r\n\r\n{\"result\":{}}\n",
		"no kind":       head + "\r\n{\"error\":{\"message\":\"x\"}}\n",
		"null error":    head + "\r\n{\"error\":null}\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := Listen(dir, ControlSocket)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { defer close(done); answerOnce(l, answer) }()
			_, err = (&Client{Dir: dir}).Status(context.Background())
			if !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrLost) {
				t.Errorf("got %v", err)
			}
			l.Close()
			<-done
		})
	}
}

func answerOnce(l net.Listener, answer string) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Read(make([]byte, 4096))
	io.WriteString(conn, answer)
}

func TestUseRequestQuery(t *testing.T) {
	for _, want := range []UseRequest{
		{Target: "bafy", Func: "add", Timeout: time.Second, Argv: []string{"3", "a=4&", "ü"}, Body: BodyArgs},
		{Func: "sum", Timeout: 24 * time.Hour, Args: json.RawMessage(`{"a":[1]}`), Key: "k", Quorum: "2of3", Body: BodyStream, CallerDir: "/x y"},
		{Target: "/d", Func: "f", Timeout: time.Millisecond, Argv: []string{}, Body: BodyAuto},
		{Func: "f", Timeout: time.Second, Body: BodyStream, File: &File{Path: "/x y/ü", Size: 7, Changed: 8}},
	} {
		q, err := want.Query()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseUse(q, time.Minute)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	for _, bad := range []string{
		"target=x", "fn=f&body=what", "fn=f&argv=x", "fn=f&argv=[1]", "fn=f&argv=[]&args={}",
		"fn=f&timeout_ms=0", "fn=f&timeout_ms=x", "fn=f&timeout_ms=99999999999",
		"fn=f&file=x", "fn=f&file={}", `fn=f&file={"Path":"x"}`,
	} {
		r, _ := http.NewRequest("POST", "http://cell/v1/use?"+bad, nil)
		if _, err := ParseUse(r.URL.Query(), time.Minute); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// A file is read by its name only if it is the one that was meant, and can be read twice.
func TestFileIsTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "input")
	write := func(text string) *os.File {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	meant := FileOf(write("one"))
	f := meant.Open()
	if f == nil {
		t.Fatal("the same file is not found")
	}
	text, err := io.ReadAll(f)
	f.Close()
	if string(text) != "one" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	write("another")
	if f := meant.Open(); f != nil {
		t.Error("it was written to, and is taken for the same")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if f := meant.Open(); f != nil {
		t.Error("it is gone")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if f := FileOf(r); f != nil {
		t.Errorf("a pipe is %+v", f)
	}
	if f := (&File{Path: t.TempDir()}).Open(); f != nil {
		t.Error("a directory was opened")
	}
}

func TestReady(t *testing.T) {
	var b bytes.Buffer
	if WriteReady(&b, nil); ReadReady(&b) != nil {
		t.Error("readiness does not survive")
	}
	want := &RemoteError{Op: "start", Kind: "bad input", Message: "cell.toml line 4", Hint: "Mend it."}
	WriteReady(&b, want)
	var got *RemoteError
	if err := ReadReady(&b); !errors.As(err, &got) || *got != *want {
		t.Errorf("got %v", err)
	}
	if err := ReadReady(strings.NewReader("error no disk\n")); !errors.As(err, &got) || got.Message != "no disk" {
		t.Errorf("got %v", err)
	}
	if err := ReadReady(strings.NewReader("")); !errors.Is(err, ErrLost) {
		t.Errorf("silence gives %v", err)
	}
	if err := ReadReady(strings.NewReader("what\n")); !errors.Is(err, ErrProtocol) {
		t.Errorf("nonsense gives %v", err)
	}
}

func TestBudget(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		10 * time.Second: 9800 * time.Millisecond, 100 * time.Millisecond: 90 * time.Millisecond, 0: 0,
	} {
		if got := Budget(left); got != want {
			t.Errorf("of %v the nucleus gets %v, want %v", left, got, want)
		}
	}
}
