package cellproto

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of this file run in simulated time.

// endsWith runs c and gives when it ended and why.
func endsWith(t *testing.T, transport Transport, cfg Config, play func(c *Conn)) (after time.Duration, err error) {
	t.Helper()
	c, cerr := NewConn(transport, cfg)
	if cerr != nil {
		t.Fatal(cerr)
	}
	begin := time.Now()
	played := make(chan struct{})
	go func() { defer close(played); play(c) }()
	err = c.Run()
	after = time.Since(begin)
	<-played
	return after, err
}

func helloFrame(t *testing.T) []byte {
	return mustFrame(t, Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
}

func TestNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, send := range map[string]string{"silence": "", "half a hello": string(helloFrame(t)[:13])} {
			a, b := memoryPair()
			after, err := endsWith(t, a, Config{IdleTimeout: IdleTimeout}, func(*Conn) { io.WriteString(b, send) })
			if KindOf(err) != Timeout || after < FrameTimeout || after > 2*FrameTimeout {
				t.Errorf("%s: %v after %v", name, err, after)
			}
		}
	})
}

// TestSlowFrame: a frame that comes byte by byte does not get more time.
func TestSlowFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		after, err := endsWith(t, a, Config{}, func(c *Conn) {
			b.Write(helloFrame(t))
			time.Sleep(time.Hour) // between frames a peer of this kind may take its time
			request := mustFrame(t, Frame{Type: TypeRequest, ID: 1, Header: Header{Func: "f"}, Payload: make([]byte, 1000)})
			for _, x := range request {
				if _, err := b.Write([]byte{x}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		if after -= time.Hour; KindOf(err) != Timeout || after < FrameTimeout || after > 2*FrameTimeout {
			t.Errorf("%v after %v", err, after)
		}
	})
}

// TestFramesCutAnywhere: a peer that sends without a pause, so that each read ends within a frame,
// keeps its connection.
func TestFramesCutAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		events := 0
		_, err := endsWith(t, a, Config{Event: func(*Conn, *Frame) { events++ }}, func(*Conn) {
			event := mustFrame(t, Frame{Type: TypeEvent, Payload: make([]byte, 100)})
			b.Write(append(helloFrame(t), event[:50]...))
			for range 120 {
				time.Sleep(time.Second)
				b.Write(append(event[50:len(event):len(event)], event[:50]...))
			}
			b.Write(event[50:])
			time.Sleep(time.Second)
			b.Close()
		})
		if events != 121 || err != errPeerClosed {
			t.Errorf("%d events, %v", events, err)
		}
	})
}

// TestSlowHandler: the time that a handler takes is not the peer's.
func TestSlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		_, err := endsWith(t, a, Config{Accept: func(c *Conn, f *Frame) {
			time.Sleep(time.Minute)
			echoInline(c, f)
		}}, func(c *Conn) {
			frame := mustFrame(t, request(1, "f"))
			b.Write(append(helloFrame(t), frame[:10]...))
			time.Sleep(time.Second)
			b.Write(frame[10:])
			p := newRawPeer(t, b)
			for f := range p.frames {
				if f.Type == TypeReply {
					break
				}
			}
			b.Close()
		})
		if err != errPeerClosed {
			t.Error(err)
		}
	})
}

// TestIdle: a connection without calls is drained and closed, whatever else it is used for; with a
// call in flight it stays.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		p := newRawPeer(t, b)
		after, err := endsWith(t, a, Config{IdleTimeout: IdleTimeout, Accept: func(c *Conn, f *Frame) {
			in := c.Inbound(context.Background(), f)
			go func() { time.Sleep(5 * time.Minute); in.Reply(Header{}, nil) }()
		}}, func(c *Conn) {
			p.write(helloFrame(t))
			time.Sleep(50 * time.Second)
			p.send(request(1, "f"))
			for f := range p.frames {
				switch f.Type {
				case TypeReply:
					go func() {
						for range 30 {
							time.Sleep(10 * time.Second)
							p.send(Frame{Type: TypePing, ID: 9}, Frame{Type: TypeEvent})
						}
					}()
				case TypeGoaway:
					p.send(request(3, "f")) // it crossed the goaway
				case TypePing:
					p.send(Frame{Type: TypePong, ID: f.ID})
				}
			}
		})
		want := 50*time.Second + 5*time.Minute + IdleTimeout + 5*time.Minute
		if err != nil || after < want || after > want+15*time.Second {
			t.Errorf("%v after %v, want nil after %v", err, after, want)
		}
		time.Sleep(time.Hour)
	})
}

func TestIdleByDefaultNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		if after, err := endsWith(t, a, Config{}, func(*Conn) { time.Sleep(24 * time.Hour); b.Close() }); after != 24*time.Hour || err != errPeerClosed {
			t.Errorf("%v after %v", err, after)
		}
	})
}

// stuckStream is a transport whose peer takes nothing, and whose Write only Reset ends, as with a
// stream of QUIC.
type stuckStream struct {
	read, written chan struct{}
	once          sync.Once
}

func (s *stuckStream) Read([]byte) (int, error)  { <-s.read; return 0, io.EOF }
func (s *stuckStream) Write([]byte) (int, error) { <-s.written; return 0, io.ErrClosedPipe }
func (s *stuckStream) Close() error              { s.once.Do(func() { close(s.read) }); return nil }
func (s *stuckStream) Reset() error              { close(s.written); return nil }

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stuckStream{read: make(chan struct{}), written: make(chan struct{})}
		var callErr error
		var took time.Duration
		after, err := endsWith(t, s, Config{Opener: true}, func(c *Conn) {
			// The hello is being written: this call waits for nobody but its own deadline.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			begin := time.Now()
			_, callErr = c.Call(ctx, &Request{Header: Header{Func: "f"}, Payload: make([]byte, 100<<10)})
			took = time.Since(begin)
		})
		if KindOf(err) != Timeout || after < StallTimeout || after > StallTimeout+FrameTimeout {
			t.Errorf("%v after %v", err, after)
		}
		if KindOf(callErr) != Timeout || took != time.Second {
			t.Errorf("the call: %v after %v", callErr, took)
		}
	})
}

// TestNoCredit: a caller that grants nothing does not hold its place for ever.
func TestNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent error
		var took time.Duration
		c, p := dial(t, Config{Accept: func(c *Conn, f *Frame) {
			in := c.Inbound(context.Background(), f)
			go func() {
				begin := time.Now()
				sent = in.ReplyBody(Header{}, zeros{})
				took = time.Since(begin)
			}()
		}})
		for name, w := range map[string]struct {
			budget, want time.Duration
		}{"no deadline": {0, bodyStall}, "a deadline": {10 * time.Second, 10 * time.Second}} {
			p.send(Frame{Type: TypeRequest, ID: 1, Header: Header{Func: "f", Budget: w.budget}})
			var last Frame
			for last = range p.frames {
				if last.Type == TypeEnd {
					break
				}
			}
			synctest.Wait()
			if KindOf(sent) != Timeout || took != w.want || last.Header.Kind != Timeout {
				t.Errorf("%s: %v after %v, %v", name, sent, took, &last)
			}
			if in, _ := c.InFlight(); in != 0 {
				t.Errorf("%s: %d in flight", name, in)
			}
		}
		c.Close()
	})
}

// TestSlowReader: what is read slowly is granted nevertheless, before the sender loses patience.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair()
		server := run(t, a, Config{Accept: func(c *Conn, f *Frame) {
			in := c.Inbound(context.Background(), f)
			go in.ReplyBody(Header{}, bytes.NewReader(make([]byte, 1<<20)))
		}})
		c := run(t, b, Config{Opener: true})
		r, err := c.Call(t.Context(), &Request{Header: Header{Func: "f"}})
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		buf := make([]byte, 1<<10)
		for err == nil {
			var n int
			n, err = r.Body.Read(buf) // 1 KiB in 1.5 s: 25 min
			sum += n
			time.Sleep(1500 * time.Millisecond)
		}
		if sum != 1<<20 || err != io.EOF {
			t.Errorf("%d bytes, %v", sum, err)
		}
		if in, _ := server.InFlight(); in != 0 {
			t.Errorf("%d in flight", in)
		}
	})
}

// TestDrain: what the peer began before it heard the goaway is served, what comes after is refused as
// never run, and nobody waits for a peer that is gone.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := dial(t, Config{Accept: func(c *Conn, f *Frame) {
			in := c.Inbound(context.Background(), f)
			go func() { time.Sleep(time.Second); in.Reply(Header{}, in.Payload) }()
		}})
		drained := make(chan error, 1)
		go func() { drained <- c.Drain(t.Context(), "bye") }()
		if f := <-p.frames; f.Type != TypeGoaway || string(f.Payload) != "bye" {
			t.Errorf("%v", &f)
		}
		ping := <-p.frames
		p.send(request(1, "f"), Frame{Type: TypePong, ID: ping.ID})
		synctest.Wait()
		p.send(request(3, "f"))
		kinds := map[uint32]Kind{}
		for f := range p.frames {
			kinds[f.ID] = f.Header.Kind
		}
		if err := <-drained; err != nil || len(kinds) != 2 || kinds[1] != 0 || kinds[3] != Unavailable {
			t.Errorf("%v: %v", err, kinds)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a peer that says nothing
		c, _ := dial(t, Config{})
		begin := time.Now()
		if err := c.Drain(t.Context(), strings.Repeat("long ", 2000)); err != nil || time.Since(begin) > barrierTimeout {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
	synctest.Test(t, func(t *testing.T) { // a call that does not end
		c, p := dial(t, Config{Accept: func(c *Conn, f *Frame) { c.Inbound(context.Background(), f) }})
		p.send(request(1, "f"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), DrainTimeout)
		defer cancel()
		if err := c.Drain(ctx, ""); KindOf(err) != Timeout {
			t.Error(err)
		}
	})
}

// TestLeaving: no request follows a goaway that was read, so that the drain loses none.
func TestLeaving(t *testing.T) {
	c, p := dial(t, Config{Opener: true})
	p.send(Frame{Type: TypeGoaway})
	p.sync()
	if _, err := c.Call(t.Context(), &Request{Header: Header{Func: "f"}}); KindOf(err) != Unavailable || !c.Leaving() {
		t.Error(err)
	}
}
