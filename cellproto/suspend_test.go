package cellproto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// handover is the serving end of a connection that goes from one Conn to the next.
type handover struct {
	t    *testing.T
	far  *memory
	runs sync.Map // how often each call was accepted, by its payload
	cur  *Conn
	ran  chan error
	slow time.Duration // of each answer
}

func (h *handover) accept(c *Conn, f *Frame) {
	n, _ := h.runs.LoadOrStore(string(f.Payload), new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	in := c.Inbound(context.Background(), f)
	c.tasks.Go(func() {
		body, _ := io.ReadAll(in.Body())
		time.Sleep(h.slow)
		in.Reply(Header{}, append(in.Payload, body...))
	})
}

func (h *handover) config() Config {
	return Config{Hello: Hello{Cell: "c", Functions: []string{"echo"}}, Accept: h.accept}
}

func (h *handover) run(c *Conn, err error) {
	if err != nil {
		h.t.Fatal(err)
	}
	ran := make(chan error, 1)
	h.cur, h.ran = c, ran
	go func() { ran <- c.Run() }()
}

// next hands the connection over, once no call is in flight.
func (h *handover) next() {
	h.t.Helper()
	if err := h.cur.Hold(); err != nil {
		h.t.Fatal(err)
	}
	var s *Suspended
	for {
		var err error
		if s, err = h.cur.Suspend(h.t.Context()); err == nil {
			break
		}
		if KindOf(err) != Overloaded {
			h.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := <-h.ran; !errors.Is(err, ErrSuspended) {
		h.t.Fatal(err)
	}
	b, err := s.Marshal()
	if err != nil {
		h.t.Fatal(err)
	}
	s, err = ParseSuspended(b)
	if err != nil {
		h.t.Fatal(err)
	}
	h.run(ResumeConn(h.far, h.config(), s))
}

func newHandover(t *testing.T) (*handover, *Conn) {
	a, b := memoryPair()
	h := &handover{t: t, far: b}
	h.run(NewConn(b, h.config()))
	t.Cleanup(func() { h.cur.Close(); <-h.ran })
	return h, run(t, a, Config{Opener: true})
}

// TestSuspend has callers that call all the time while the other end is handed over: every call is
// answered, and runs once.
func TestSuspend(t *testing.T) {
	for _, slow := range []time.Duration{0, 300 * time.Microsecond, 3 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			h, c := newHandover(t)
			h.slow = slow
			var wg sync.WaitGroup
			const callers, calls = 5, 60
			for i := range callers {
				wg.Go(func() {
					for k := range calls {
						name := fmt.Sprintf("%d/%d", i, k)
						req := &Request{Header: Header{Func: "echo"}, Payload: []byte(name)}
						want := []byte(name)
						if k%7 == 0 {
							body := bytes.Repeat([]byte("b"), 200<<10)
							req.Body, want = bytes.NewReader(body), append(want, body...)
						}
						r, err := c.Call(t.Context(), req)
						if err != nil {
							t.Errorf("%s: %v", name, err)
							return
						}
						if got, err := r.Bytes(1 << 20); err != nil || !bytes.Equal(got, want) {
							t.Errorf("%s: %d bytes, %v", name, len(got), err)
						}
						time.Sleep(time.Duration(k%3) * 100 * time.Microsecond)
					}
				})
			}
			for range 10 {
				h.next()
				time.Sleep(2 * time.Millisecond)
			}
			wg.Wait()
			n := 0
			h.runs.Range(func(name, runs any) bool {
				if n++; runs.(*atomic.Int64).Load() != 1 {
					t.Errorf("%s has run %d times", name, runs.(*atomic.Int64).Load())
				}
				return true
			})
			if n != callers*calls {
				t.Errorf("%d calls have run, want %d", n, callers*calls)
			}
		})
	}
}

// TestUnhold accepts what was held back, in order.
func TestUnhold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, c := newHandover(t)
		echo(t, c, "echo")
		if err := h.cur.Hold(); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				want := fmt.Sprint(i)
				r, err := c.Call(t.Context(), &Request{Header: Header{Func: "echo"}, Payload: []byte(want), Body: bytes.NewReader([]byte("+"))})
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := r.Bytes(100); err != nil || string(got) != want+"+" {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		synctest.Wait()
		if in, _ := h.cur.InFlight(); in != 0 {
			t.Errorf("%d calls were accepted", in)
		}
		if _, err := c.Ping(t.Context()); err != nil {
			t.Errorf("a ping is held back too: %v", err)
		}
		h.cur.Unhold()
		wg.Wait()
		if h.cur.holding.Load() {
			t.Error("it still holds")
		}
	})
}

// TestHoldIsBounded: a peer that sends without end is not read without end.
func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		h := &handover{t: t, far: b}
		h.run(NewConn(b, h.config()))
		defer func() { h.cur.Close(); <-h.ran }()
		peer := newRawPeer(t, a)
		peer.send(Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
		peer.next()
		if err := h.cur.Hold(); err != nil {
			t.Fatal(err)
		}
		const requests, size = 40, 100 << 10
		for i := range uint32(requests) {
			peer.send(Frame{Type: TypeRequest, ID: 2*i + 1, Header: Header{Func: "echo"}, Payload: append([]byte(fmt.Sprint(i, " ")), make([]byte, size)...)})
		}
		synctest.Wait()
		h.cur.mu.Lock()
		n := len(h.cur.held.frames)
		h.cur.mu.Unlock()
		if n < maxHeld || n > maxHeld+2*size {
			t.Errorf("%d bytes are held back", n)
		}
		h.next()
		h.cur.Unhold() // which is not held: nothing happens
		replies := 0
		for replies < requests {
			f := peer.next()
			if f.Type == 0 {
				t.Fatalf("the connection has ended after %d replies", replies)
			}
			if f.Type == TypeReply {
				replies++
			}
			if f.More {
				peer.send(Frame{Type: TypeCredit, ID: f.ID, Payload: []byte{0, 8, 0, 0}})
			}
		}
	})
}

func TestSuspendIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, c := newHandover(t)
		h.slow = time.Second
		if _, err := h.cur.Suspend(t.Context()); KindOf(err) != Overloaded {
			t.Errorf("without a hold: %v", err)
		}
		done := make(chan struct{})
		go func() { defer close(done); echo(t, c, "echo") }()
		synctest.Wait()
		if err := h.cur.Hold(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.cur.Suspend(t.Context()); KindOf(err) != Overloaded {
			t.Errorf("with a call in flight: %v", err)
		}
		<-done
		if err := c.Hold(); KindOf(err) != Unsupported {
			t.Errorf("a caller's connection: %v", err)
		}
		h.cur.Close()
		if _, err := h.cur.Suspend(t.Context()); KindOf(err) != Unavailable {
			t.Errorf("after the end: %v", err)
		}
	})
}

func FuzzSuspended(f *testing.F) {
	hello := mustHello(f, Hello{Cell: "c"})
	for _, s := range []Suspended{{Peer: hello, Own: hello}, {Peer: hello, Own: hello, NextID: 7, Input: []byte("x"), Leaving: true}} {
		b, err := s.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSuspended(data)
		if err != nil {
			return
		}
		b, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseSuspended(b); err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}
