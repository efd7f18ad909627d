package cellproto

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

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

// run starts c and ends it with the test.
func run(t testing.TB, transport Transport, cfg Config) *Conn {
	t.Helper()
	c, err := NewConn(transport, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { c.Run(); close(done) }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func echoInline(c *Conn, f *Frame) {
	c.Queue(&Frame{Type: TypeReply, ID: f.ID, Header: Header{Codec: f.Header.Codec}, Payload: f.Payload})
	c.FlushLater(c)
}

func chain(t testing.TB, accept func(*Conn, *Frame)) *Conn {
	a, b := socketPair(t)
	x, y := socketPair(t)
	run(t, y, Config{Accept: accept, Hello: Hello{Functions: []string{"echo"}}})
	up := run(t, x, Config{Opener: true})
	free := make(chan *Relay, 64)
	run(t, b, Config{Accept: func(c *Conn, f *Frame) {
		r := new(Relay)
		select {
		case r = <-free:
		default:
		}
		r.Start(c, f, func(Kind, time.Time) {})
		r.OnFree(func() { free <- r })
		if err := r.To(up, f, true); err != nil {
			r.Fail(err)
		}
	}})
	return run(t, a, Config{Opener: true})
}

func TestCallThroughRelay(t *testing.T) {
	c := chain(t, echoInline)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for j := range 200 {
				want := fmt.Sprintf("%d/%d", i, j)
				r, err := c.Call(context.Background(), &Request{Header: Header{Func: "echo"}, Payload: []byte(want)})
				if err != nil || string(r.Payload) != want {
					t.Errorf("call %s: %v %v", want, r, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Replies that wait for each other all leave.
func TestTogether(t *testing.T) {
	a, b := socketPair(t)
	var wg sync.WaitGroup
	run(t, b, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		in.Together()
		wg.Go(func() {
			if in.Payload[0] == 'e' {
				_ = in.ReplyError(Errorf("", FuncError, "%s", in.Payload)) // else its caller waits in vain; so below
				return
			}
			_ = in.Reply(Header{}, in.Payload)
		})
	}})
	c := run(t, a, Config{Opener: true})
	for _, callers := range []int{1, 64} {
		var calls sync.WaitGroup
		for i := range callers {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				for j := range 100 {
					want := fmt.Sprintf("%c%d/%d", "re"[j%2], i, j)
					r, err := c.Call(ctx, &Request{Header: Header{Func: "echo"}, Payload: []byte(want)})
					if j%2 == 1 && (KindOf(err) != FuncError || !strings.Contains(err.Error(), want)) || j%2 == 0 && (err != nil || string(r.Payload) != want) {
						t.Errorf("call %s: %v %v", want, r, err)
						return
					}
				}
			})
		}
		calls.Wait()
	}
	wg.Wait()
}

func TestBodiesThroughRelay(t *testing.T) {
	c := chain(t, echoStream)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			body := bytes.Repeat([]byte("celldnet"), 2<<20/8)
			r, err := c.Call(ctx, &Request{Header: Header{Func: "echo"}, Payload: []byte("args"), Body: bytes.NewReader(body)})
			if err != nil {
				t.Error(err)
				return
			}
			got, err := r.Bytes(4 << 20)
			if err != nil || !bytes.Equal(got, append([]byte("args"), body...)) {
				t.Errorf("%d bytes of %d: %v", len(got), len(body)+4, err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkCall(b *testing.B) {
	a, s := socketPair(b)
	run(b, s, Config{Accept: echoInline})
	c := run(b, a, Config{Opener: true})
	payload := make([]byte, 200)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Call(context.Background(), &Request{Header: Header{Func: "echo"}, Payload: payload})
		}
	})
	b.Run("64", func(b *testing.B) {
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.Call(context.Background(), &Request{Header: Header{Func: "echo"}, Payload: payload})
			}
		})
	})
	r := chain(b, echoInline)
	b.Run("relay64", func(b *testing.B) {
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r.Call(context.Background(), &Request{Header: Header{Func: "echo"}, Payload: payload})
			}
		})
	})
}

func BenchmarkBody(b *testing.B) {
	c := chain(b, echoStream)
	body := make([]byte, 4<<20)
	b.SetBytes(2 * int64(len(body)))
	for b.Loop() {
		r, err := c.Call(context.Background(), &Request{Header: Header{Func: "echo"}, Body: bytes.NewReader(body)})
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r.Body); int(n) != len(body) || err != nil {
			b.Fatal(n, err)
		}
	}
}
