package cellproto

import (
	"bytes"
	"encoding/hex"
	"io"
	"testing"
	"time"
)

func FuzzParseFrame(f *testing.F) {
	_, frames := goodFrames(f)
	for i := range frames {
		f.Add(mustFrame(f, frames[i]))
	}
	for _, v := range badFrames(f) {
		data, _ := hex.DecodeString(v.Hex)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		size, serr := FrameSize(data)
		frame, n, err := ParseFrame(data)
		switch {
		case serr != nil && err == nil:
			t.Fatalf("the size fails, the frame does not: %v", serr)
		case err != nil:
			if kind := KindOf(err); n != 0 || kind != BadInput && kind != TooLarge && kind != Unsupported {
				t.Fatalf("%d %v %v", n, kind, err)
			}
			return
		case n == 0:
			if size != 0 && len(data) >= size {
				t.Fatal("the frame is all there")
			}
			return
		case n != size || n > FrameHeaderSize+MaxFrame:
			t.Fatalf("%d bytes, the size is %d", n, size)
		}
		again, err := AppendFrame(nil, &frame)
		if err != nil || !bytes.Equal(again, data[:n]) {
			t.Fatalf("encoded again it is %x, not %x: %v", again, data[:n], err)
		}
	})
}

func FuzzParseHello(f *testing.F) {
	_, frames := goodFrames(f)
	for i := range frames {
		if frames[i].Type == TypeHello {
			f.Add(frames[i].Payload)
		}
	}
	f.Add([]byte{0xa3, 1, 0x81, 1, 0x18, 99, 0x61, 'x', 0x61, 'k', 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		checkSameHello(t, data)
		h, err := ParseHello(data)
		if err != nil {
			if kind := KindOf(err); kind != BadInput && kind != TooLarge && kind != Unsupported {
				t.Fatalf("%v %v", kind, err)
			}
			return
		}
		b, err := h.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseHello(b); err != nil {
			t.Fatalf("encoded again it is refused: %v", err)
		}
	})
}

// scripted is a peer that sends what it likes, takes everything, and then closes.
type scripted struct {
	io.Reader
}

func (s *scripted) Write(b []byte) (int, error) { return len(b), nil }
func (s *scripted) Close() error                { return nil }
func (s *scripted) Read(b []byte) (int, error)  { return s.Reader.Read(b[:min(len(b), 1+len(b)%97)]) }

// FuzzConn gives a live connection whatever bytes a hostile peer may send, to each of the ways to
// answer a call, while calls of ours wait. It must end, with nothing in flight.
func FuzzConn(f *testing.F) {
	_, frames := goodFrames(f)
	var script []byte
	for i := range frames {
		if frames[i].Type != TypeHello || i == 0 {
			script = append(script, mustFrame(f, frames[i])...)
		}
	}
	f.Add(script, false)
	f.Add(script, true)
	for _, v := range badFrames(f) {
		data, _ := hex.DecodeString(v.Hex)
		f.Add(append(mustFrame(f, frames[0]), data...), true)
	}
	f.Fuzz(fuzzConn)
}

func fuzzConn(t *testing.T, data []byte, opener bool) {
	up, callee := memoryPair()
	upConn := run(t, up, Config{Opener: true})
	run(t, callee, Config{Accept: echoStream})
	ended := make(chan Kind, 1<<16)
	begun := 0
	c, err := NewConn(&scripted{Reader: bytes.NewReader(data)}, Config{
		Opener: opener, Hello: Hello{Functions: []string{"relay", "stream"}}, FrameTimeout: time.Second, IdleTimeout: time.Second,
		Accept: func(c *Conn, f *Frame) {
			switch {
			case f.Header.Func == "relay" || f.ID%3 == 0:
				begun++
				r := NewRelay(c, f, func(k Kind, _ time.Time) { ended <- k })
				if err := r.To(upConn, f, true); err != nil {
					r.Fail(err)
				}
			case f.Header.Func == "stream" || f.ID%3 == 1:
				echoStream(c, f)
			default:
				echoInline(c, f)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := make(chan struct{})
	go func() {
		defer close(calls)
		r, err := c.Call(t.Context(), &Request{Header: Header{Func: "f"}, Body: bytes.NewReader(make([]byte, 100))})
		if err == nil {
			r.Bytes(1 << 20)
		}
	}()
	within(t, "the connection's end", func() { c.Run() })
	within(t, "the call's end", func() { <-calls })
	for range begun {
		within(t, "the end of a relayed call", func() { <-ended })
	}
	if in, out := c.InFlight(); in != 0 || out != 0 {
		t.Fatalf("%d and %d calls are in flight", in, out)
	}
	c.Close()
	if len(ended) > 0 {
		t.Fatal("a relayed call ended twice")
	}
}

// within fails the test when f has not returned after long enough for the slowest machine.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not come", what)
	}
}
