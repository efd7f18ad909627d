package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// envMode makes the test binary one of the programs below.
const envMode = "TEST_PROGRAM"

func TestMain(m *testing.M) {
	if mode := os.Getenv(envMode); mode != "" {
		programs[mode]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, dir := range built {
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// built are directories with what tests have built.
var built []string

var programs = map[string]func(){
	"serve":   func() { serve() },
	"late":    func() { time.Sleep(150 * time.Millisecond); serve() },
	"nohello": func() { block() },
	"exit3":   func() { fmt.Println("starting"); fmt.Fprintln(os.Stderr, "cannot open \x1b[31mdata"); os.Exit(3) },
	"panic":   func() { panic("no such table") },
	"exit0":   func() {},
	"close":   func() { syscall.Close(3); block() },
	"garbage": func() { socket().Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); block() },
	"fork": func() { // leaves a child behind that holds everything it inherited
		fmt.Println("child", fork())
	},
	"forkserve": func() { fmt.Println("child", fork()); serve() },
	"stubborn":  func() { signal.Ignore(syscall.SIGTERM); serve(); fmt.Println("ignoring the end"); block() },
	"block":     func() { block() },
	"goaway": func() {
		serveWith(func(c *cellproto.Conn, f *cellproto.Frame) {
			c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID})
			c.Queue(&cellproto.Frame{Type: cellproto.TypeGoaway})
			c.FlushLater(c)
		})
	},
	"quick": func() { // says hello and dies
		c := newConn(nil)
		go c.Run()
		c.PeerHello(context.Background())
		os.Exit(4)
	},
	"background": func() { serveHello(cellproto.Hello{Capabilities: []string{cellproto.CapBackground}}, answerFrame) },
	"sdk":        func() { serveSDK() },
	"mute":       func() { serveMute() },

	"once":        func() { serveOnce(func() { os.Exit(3) }) },
	"oncenohello": func() { serveOnce(block) },
	"oncetaker":   func() { serveOnce(takeAndDie) },
	"onceshy":     func() { serveOnce(serveShy) },

	"lines":     func() { serveLines() },
	"linesdeaf": func() { signal.Ignore(syscall.SIGTERM); fmt.Fprintln(os.Stderr, "deaf"); block() },
}

func block() {
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR2) // which nobody sends
	<-never
}

func fork() int {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envMode+"=block")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "socket")}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

func socket() net.Conn {
	fd, err := strconv.Atoi(os.Getenv(cellproto.EnvFD))
	if err != nil {
		panic(err)
	}
	conn, err := net.FileConn(os.NewFile(uintptr(fd), "socket"))
	if err != nil {
		panic(err)
	}
	syscall.Close(fd)
	return conn
}

func newConn(accept func(*cellproto.Conn, *cellproto.Frame)) *cellproto.Conn {
	return newConnHello(cellproto.Hello{}, accept)
}

func newConnHello(hello cellproto.Hello, accept func(*cellproto.Conn, *cellproto.Frame)) *cellproto.Conn {
	hello.Cell, hello.Functions = os.Getenv(cellproto.EnvName), []string{"echo", "env"}
	c, err := cellproto.NewConn(socket(), cellproto.Config{Hello: hello, Accept: accept})
	if err != nil {
		panic(err)
	}
	return c
}

func serve() { serveWith(answerFrame) }

func serveWith(accept func(*cellproto.Conn, *cellproto.Frame)) { newConn(accept).Run() }

func serveHello(hello cellproto.Hello, accept func(*cellproto.Conn, *cellproto.Frame)) {
	newConnHello(hello, accept).Run()
}

func answerFrame(c *cellproto.Conn, f *cellproto.Frame) {
	reply := func(payload []byte) {
		c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: payload})
		c.FlushLater(c)
	}
	switch f.Header.Func {
	case "echo":
		reply(f.Payload)
	case "env":
		dir, _ := os.Getwd()
		reply([]byte(dir + "\n" + strings.Join(os.Environ(), "\n")))
	case "hang":
		c.Inbound(context.Background(), f)
	case "sleep":
		in := c.Inbound(context.Background(), f)
		ms := binary.BigEndian.Uint32(in.Payload)
		time.AfterFunc(time.Duration(ms)*time.Millisecond, func() { in.Reply(cellproto.Header{}, nil) })
	case "spam":
		line := append(bytes.Repeat([]byte("x"), 1023), '\n')
		for range 1024 {
			os.Stdout.Write(line)
		}
		reply(nil)
	case "exit":
		os.Exit(7)
	case "outlater": // calls another cell after its reply
		reply(nil)
		go c.Call(context.Background(), &cellproto.Request{Header: cellproto.Header{Func: "f", To: "other"}})
	case "out": // calls another cell
		in := c.Inbound(context.Background(), f)
		go func() {
			r, err := c.Call(in.Context(), &cellproto.Request{Header: cellproto.Header{Func: "f", To: "other"}})
			if err != nil {
				in.ReplyError(err)
				return
			}
			in.Reply(cellproto.Header{}, r.Payload)
		}()
	}
}

// serveLines is a program that speaks JSON lines.
func serveLines() {
	var held []string
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 2<<20)
	for in.Scan() {
		var req struct {
			ID   int             `json:"id"`
			Fn   string          `json:"fn"`
			Args json.RawMessage `json:"args"`
		}
		if err := json.Unmarshal(in.Bytes(), &req); err != nil {
			fmt.Fprintln(os.Stderr, "bad request", err)
			continue
		}
		switch req.Fn {
		case "echo":
			fmt.Printf(`{"id":%d,"reply":%s}`+"\n", req.ID, req.Args)
		case "env":
			env, _ := json.Marshal(strings.Join(os.Environ(), " "))
			fmt.Printf(`{"id":%d,"reply":%s}`+"\n", req.ID, env)
		case "fail":
			fmt.Printf(`{"id":%d,"error":"no \"such\" thing"}`+"\n", req.ID)
		case "hold": // answered after the next release, last come first
			held = append(held, fmt.Sprintf(`{"id":%d,"reply":%s}`, req.ID, req.Args))
		case "release":
			for i := len(held) - 1; i >= 0; i-- {
				fmt.Println(held[i])
			}
			held = nil
			fmt.Printf(`{"id":%d,"reply":null}`+"\n", req.ID)
		case "badjson":
			fmt.Printf(`{"id":%d,"reply":}`+"\n", req.ID)
		case "both":
			fmt.Printf(`{"id":%d,"reply":1,"error":"x"}`+"\n", req.ID)
		case "chatty":
			fmt.Printf("debug: \x07 working\n\n{\"id\":999,\"reply\":1}\n{\"id\":%d,\"reply\":1}\n", req.ID)
		case "big":
			fmt.Printf(`{"id":%d,"reply":%q}`+"\n", req.ID, strings.Repeat("b", 500<<10))
		case "toolong":
			fmt.Printf(`{"id":%d,"reply":%q}`+"\n", req.ID, strings.Repeat("b", 2<<20))
		case "die":
			fmt.Fprintln(os.Stderr, "out of luck")
			os.Exit(9)
		case "closein":
			os.Stdin.Close()
			fmt.Printf(`{"id":%d,"reply":1}`+"\n", req.ID)
			block()
		case "closeout":
			os.Stdout.Close()
			block()
		}
	}
}

// testOutput is a log that can be read while it is written.
type testOutput struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *testOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *testOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// cellDir makes a cell directory whose program is the test binary.
func cellDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "bin"), 0o700)
	}
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "bin", "prog"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func testConfig(dir, mode string) Config {
	cfg := Config{Dir: dir, Name: "cell", Binary: "bin/prog", StartTimeout: 20 * time.Second, Env: map[string]string{envMode: mode, "GORACE": "atexit_sleep_ms=0", "GOCOVERDIR": dir}}
	if strings.HasPrefix(mode, "lines") {
		cfg.Speaks = celltoml.JSONL
	}
	return cfg
}

// newProgram makes a program that is closed, and checked to be gone, with the test.
func newProgram(t testing.TB, cfg Config, deps Deps) *Program {
	t.Helper()
	p, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		pid := p.State().PID
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if pid != 0 {
			checkReaped(t, pid)
		}
	})
	return p
}

func start(t testing.TB, mode string) *Program {
	t.Helper()
	return newProgram(t, testConfig(cellDir(t), mode), Deps{})
}

func checkReaped(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustConn(t testing.TB, p *Program) *cellproto.Conn {
	t.Helper()
	c, err := p.Conn(testContext(t))
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, cellproto.HintOf(err))
	}
	return c
}

// call is a whole call as a caller makes it.
func call(ctx context.Context, p *Program, fn string, payload []byte, codec cellproto.Codec) ([]byte, error) {
	if err := p.Begin(); err != nil {
		return nil, err
	}
	defer p.End()
	for {
		c := p.Ready()
		if c == nil || !usable(c) {
			var err error
			if c, err = p.Conn(ctx); err != nil {
				return nil, err
			}
		}
		r, err := c.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: fn, Codec: codec}, Payload: payload})
		if cellproto.KindOf(err) == cellproto.Unavailable && (p.Ready() != c || !usable(c)) {
			continue // it never left: there is a next instance to send it to
		}
		if err != nil {
			return nil, err
		}
		return r.Bytes(2 << 20)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(15 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func wantError(t testing.TB, err error, kind cellproto.Kind, text, hint string) {
	t.Helper()
	if err == nil || cellproto.KindOf(err) != kind || !strings.Contains(err.Error(), text) || !strings.Contains(cellproto.HintOf(err), hint) {
		t.Errorf("got %v (%v; hint %q), want %v with %q and hint %q", err, cellproto.KindOf(err), cellproto.HintOf(err), kind, text, hint)
	}
}
