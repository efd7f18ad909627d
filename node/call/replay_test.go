package call

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

// pipe hides everything of a reader but Read, as a pipe does.
type pipe struct{ io.Reader }

// A body that cannot be rewound is no reason for a call to fail when it never ran, or when it may be
// repeated and little of the body has been sent.
func TestBodyFailsOver(t *testing.T) {
	refuses := map[string]func(*provider){
		"unreachable": func(p *provider) { p.host.Close() },
		"no place":    func(p *provider) { p.program.places = 0 },
		"fails":       func(p *provider) { p.program.handle = func(in *cellproto.Inbound) { p.host.Close() } },
	}
	for name, refuse := range refuses {
		for _, size := range []int{0, 10, 100 << 10, 1 << 20} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				t.Parallel()
				cell := publish(t, testSchema())
				a, b := provide(t, cell, nil), provide(t, cell, nil)
				peers := &book{}
				peers.add(a.host, b.host)
				c := use(t, cell, peers, nil)
				winner, other := a, b
				if call(t, c, cell, "relay").Provider == peerText(b.host) {
					winner, other = b, a
				}
				refuse(winner)
				req := request("total", "x")
				req.Body = pipe{strings.NewReader(strings.Repeat("x", size))}
				res, err := try(t, c, cell.id.String(), req)
				if err != nil {
					t.Fatal(err)
				}
				if string(res.Reply.Payload) != fmt.Sprint(size) || res.Provider != peerText(other.host) {
					t.Errorf("%s counted %s bytes, want %d by the other one", res.Provider, res.Reply.Payload, size)
				}
			})
		}
	}
}

// What has gone through and cannot be had again is not sent in part: the call says so.
func TestBodyIsNotSentInPart(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	lose := func(p *provider) func(*cellproto.Inbound) {
		return func(in *cellproto.Inbound) {
			_, _ = io.CopyN(io.Discard, in.Body(), 1<<20)
			p.host.Close()
		}
	}
	a.program.handle, b.program.handle = lose(a), lose(b)
	before := a.program.begun.Load() + b.program.begun.Load()
	req := request("total", "x")
	req.Body = pipe{strings.NewReader(strings.Repeat("x", 2<<20))}
	_, err := try(t, c, cell.id.String(), req)
	wantKind(t, err, cellproto.MayHaveRun)
	if !strings.Contains(err.Error(), "cannot be sent a second time") {
		t.Errorf("it says %q", err)
	}
	if n := a.program.begun.Load() + b.program.begun.Load() - before; n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}
}

// Whatever sizes are read, in however many attempts, each attempt sees the body from its beginning
// without a gap, or is told that it cannot.
func TestReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := bytes.Repeat([]byte("0123456789"), rapid.IntRange(0, 60_000).Draw(t, "size/10"))
		next := repeatable(pipe{bytes.NewReader(body)}).(*attemptBody)
		for range rapid.IntRange(1, 5).Draw(t, "attempts") {
			var got []byte
			lost := next.r.read > replayable
			buf := make([]byte, rapid.IntRange(1, 100_000).Draw(t, "buffer"))
			var err error
			tried := false
			for range rapid.IntRange(0, 20).Draw(t, "reads") {
				tried = true
				var n int
				if n, err = next.Read(buf); n > 0 {
					got = append(got, buf[:n]...)
				}
				if err != nil {
					break
				}
			}
			if !bytes.Equal(got, body[:len(got)]) {
				t.Fatalf("%d bytes are not the beginning", len(got))
			}
			if err == io.EOF && len(got) != len(body) || errors.Is(err, errBodyLost) && (next.r.read <= replayable || len(got) > 0) {
				t.Fatalf("%v after %d of %d bytes", err, len(got), len(body))
			}
			if lost && tried && !errors.Is(err, errBodyLost) {
				t.Fatalf("its beginning is lost, and it gives %d bytes, %v", len(got), err)
			}
			old := next
			again, ok := next.rewound()
			if ok == (next.r.read > replayable) {
				t.Fatalf("rewinding after %d bytes: %v", next.r.read, ok)
			}
			if _, err := old.Read(buf); err == nil {
				t.Fatal("an attempt that is over reads on")
			}
			next = again
		}
	})
}

// What an attempt that is over was waiting for goes to the next one.
func TestReplayWaits(t *testing.T) {
	r, w := io.Pipe()
	first := repeatable(r).(*attemptBody)
	waiting := make(chan error, 1)
	started := make(chan struct{})
	first.r.src = pipe{readerFunc(func(p []byte) (int, error) { close(started); return r.Read(p) })}
	go func() { _, err := first.Read(make([]byte, 10)); waiting <- err }()
	<-started
	first.r.src = r // for whoever is next; the first one has its reader
	second, ok := first.rewound()
	if !ok {
		t.Fatal("nothing was read, and it cannot be rewound")
	}
	go func() { w.Write([]byte("hello")); w.Close() }()
	got, err := io.ReadAll(second)
	if err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-waiting; err == nil {
		t.Error("the first one has read it too")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
