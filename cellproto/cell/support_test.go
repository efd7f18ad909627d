package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"go.uber.org/goleak"
)

// TestMain makes the test binary the program of a cell when a nucleus, played by a test, starts it.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		Main(childFunctions()...)
	}
	goleak.VerifyTestMain(m)
}

// socketPair gives two connected Unix sockets.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// program is a served cell, and the nucleus's end of the connection to it.
type program struct {
	*cellproto.Conn
	stop   context.CancelFunc // as SIGTERM does
	result chan error         // of Serve
	log    *bytes.Buffer      // to be read when Serve has returned
}

type programConfig struct {
	Config
	accept func(*cellproto.Conn, *cellproto.Frame) // of the nucleus, for calls to other cells
}

func start(t testing.TB, cfg programConfig, functions ...*Function) *program {
	t.Helper()
	nucleus, inside := socketPair(t)
	p := &program{result: make(chan error, 1), log: &bytes.Buffer{}}
	cfg.Log = p.log
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.result <- cfg.Serve(ctx, inside, functions...) }()
	conn, err := cellproto.NewConn(nucleus, cellproto.Config{Opener: true, Accept: cfg.accept})
	if err != nil {
		t.Fatal(err)
	}
	p.Conn = conn
	ran := make(chan struct{})
	go func() { conn.Run(); close(ran) }()
	t.Cleanup(func() {
		conn.Close()
		<-ran
		select {
		case <-p.result:
		case <-time.After(time.Minute):
			t.Error("Serve does not return")
		}
		stop()
	})
	return p
}

// wait gives what Serve returned.
func (p *program) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-p.result:
		p.result <- nil // for the cleanup
		return err
	case <-time.After(time.Minute):
		t.Fatal("Serve does not return")
		return nil
	}
}

func (p *program) json(t testing.TB, function, args string) (string, error) {
	t.Helper()
	return p.call(t, cellproto.Header{Func: function, Codec: cellproto.JSON}, []byte(args))
}

func (p *program) call(t testing.TB, h cellproto.Header, payload []byte) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reply, err := p.Call(ctx, &cellproto.Request{Header: h, Payload: payload})
	if err != nil {
		return "", err
	}
	b, err := reply.Bytes(1 << 30)
	return string(b), err
}

// check compares one reply, or the beginning of an error's text and its kind.
func check(t testing.TB, got string, err error, want string, kind cellproto.Kind) {
	t.Helper()
	if kind != 0 {
		if cellproto.KindOf(err) != kind || !strings.Contains(err.Error(), want) {
			t.Errorf("got %q and %v (%v), want error %q of kind %q", got, err, cellproto.KindOf(err), want, kind)
		}
		return
	}
	if err != nil || got != want {
		t.Errorf("got %.200q and %v, want %.200q", got, err, want)
	}
}

type addArgs struct {
	A int `json:"a" doc:"first addend"`
	B int `json:"b"`
}

func add(_ context.Context, in addArgs) (int, error) { return in.A + in.B, nil }

func div(_ context.Context, in addArgs) (int, error) {
	if in.B == 0 {
		return 0, errors.New("division by zero")
	}
	return in.A / in.B, nil
}

func echo(_ context.Context, in []byte) ([]byte, error) { return in, nil }

type sizeArgs struct {
	N int64 `json:"n"`
}

func zeros(_ context.Context, in sizeArgs) (io.Reader, error) {
	return io.LimitReader(zeroReader{}, in.N), nil
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func compact(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
