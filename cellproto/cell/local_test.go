package cell

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// nucleusOf plays the nucleus of a cell directory: accept gets the requests of each connection, and its
// number. stop ends it as kill does.
func nucleusOf(t *testing.T, accept func(n int, c *cellproto.Conn, f *cellproto.Frame)) (dir string, conns <-chan *cellproto.Conn, stop func()) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	made := make(chan *cellproto.Conn, 16)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for n := 1; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c, err := cellproto.NewConn(conn, cellproto.Config{Accept: func(c *cellproto.Conn, f *cellproto.Frame) { accept(n, c, f) }})
			if err != nil {
				t.Error(err)
				return
			}
			made <- c
			go c.Run()
			t.Cleanup(c.Close)
		}
	}()
	stop = func() { l.Close(); <-over }
	t.Cleanup(stop)
	return dir, made, stop
}

func replyWith(c *cellproto.Conn, f *cellproto.Frame, payload string) {
	_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: []byte(payload)})
	c.FlushLater(c)
}

func openLocal(t *testing.T, dir string) *Local {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestLocalCloseEndsAll: a connection that is being left has a call in flight; that fails with Close.
func TestLocalCloseEndsAll(t *testing.T) {
	begun := make(chan struct{})
	dir, conns, _ := nucleusOf(t, func(_ int, c *cellproto.Conn, f *cellproto.Frame) {
		if f.Header.Func == "hang" {
			c.Inbound(context.Background(), f)
			close(begun)
			return
		}
		replyWith(c, f, "x")
	})
	l := openLocal(t, dir)
	hung := make(chan error, 1)
	go func() { _, err := l.Do(limited(t), &Request{Func: "hang"}); hung <- err }()
	<-begun
	first := <-conns
	if err := first.Goaway("leave"); err != nil {
		t.Fatal(err)
	}
	for len(conns) == 0 {
		if _, err := l.Do(limited(t), &Request{Func: "echo"}); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan struct{})
	go func() { defer close(closed); l.Close() }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Error("Close waits for a call on a connection that was left")
		first.Close()
	}
	if err := <-hung; cellproto.KindOf(err) != cellproto.MayHaveRun {
		t.Errorf("the call in flight: %v", err)
	}
}

// TestLocalLeaves: a connection whose other end said goaway is closed once nothing is in flight on it.
func TestLocalLeaves(t *testing.T) {
	dir, conns, _ := nucleusOf(t, func(_ int, c *cellproto.Conn, f *cellproto.Frame) { replyWith(c, f, "x") })
	l := openLocal(t, dir)
	for range 3 {
		for len(conns) == 0 {
			if _, err := l.Do(limited(t), &Request{Func: "echo"}); err != nil {
				t.Fatal(err)
			}
		}
		first := <-conns
		if err := first.Goaway("leave"); err != nil {
			t.Fatal(err)
		}
		for len(conns) == 0 {
			if _, err := l.Do(limited(t), &Request{Func: "echo"}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-first.Done():
		case <-time.After(5 * time.Second):
			t.Fatal("it holds the connection that it has left")
		}
	}
}

// TestLocalInsideAFunction: that a cell on this machine is not there does not mean that the function that
// called it never ran.
func TestLocalInsideAFunction(t *testing.T) {
	l := openLocal(t, t.TempDir())
	p := start(t, programConfig{}, Func("f", func(ctx context.Context, _ None) (string, error) {
		_, err := l.Do(ctx, &Request{Func: "g"})
		return "", err
	}))
	_, err := p.json(t, "f", `{}`)
	check(t, "", err, "", cellproto.FuncError)
}

// countSchema is that of a cell with one function.
func countSchema(idempotent bool) []byte {
	s := cellproto.Schema{Cell: "test", Functions: map[string]cellproto.Function{"count": {Idempotent: idempotent}}}
	return s.Canonical()
}

// TestLocalSaysThatItMayHaveRun: of several tries the one that may have run counts.
func TestLocalSaysThatItMayHaveRun(t *testing.T) {
	var stop func()
	dir, _, stop := nucleusOf(t, func(_ int, c *cellproto.Conn, f *cellproto.Frame) {
		if f.Header.Func == cellproto.FuncSchema {
			replyWith(c, f, string(countSchema(true)))
			return
		}
		go func() { stop(); c.Close() }()
	})
	l := openLocal(t, dir)
	if fn, known := l.function(limited(t), "count"); !known || !fn.Idempotent {
		t.Fatal(fn, known)
	}
	_, err := l.Do(limited(t), &Request{Func: "count", Key: "a"})
	if cellproto.KindOf(err) != cellproto.MayHaveRun {
		t.Errorf("%v (%v), but it may have run", err, cellproto.KindOf(err))
	}
}

// TestLocalGoesByTheNewSchema: what may be repeated is for the program to say that would run it again.
func TestLocalGoesByTheNewSchema(t *testing.T) {
	var ran atomic.Int64
	dir, _, _ := nucleusOf(t, func(n int, c *cellproto.Conn, f *cellproto.Frame) {
		switch {
		case f.Header.Func == cellproto.FuncSchema:
			replyWith(c, f, string(countSchema(n == 1)))
		case ran.Add(1) == 1:
			go c.Close()
		default:
			replyWith(c, f, "x")
		}
	})
	l := openLocal(t, dir)
	if fn, known := l.function(limited(t), "count"); !known || !fn.Idempotent {
		t.Fatal(fn, known)
	}
	_, err := l.Do(limited(t), &Request{Func: "count", Key: "a"})
	if cellproto.KindOf(err) != cellproto.MayHaveRun || ran.Load() != 1 {
		t.Errorf("%v, and it ran %d times", err, ran.Load())
	}
}
