package call

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// withKey is a request of the idempotent function.
func withKey(text, key string) *cellproto.Request {
	req := request("count", text)
	req.Header.Key = []byte(key)
	return req
}

// numbered has the program answer with the number of the run.
func numbered(p *provider) *atomic.Int64 {
	var runs atomic.Int64
	p.program.handle = func(in *cellproto.Inbound) {
		_ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Append(nil, runs.Add(1)))
	}
	return &runs
}

// allGivenBack checks that no place is kept once nothing is in flight.
func allGivenBack(t *testing.T, p *provider) {
	t.Helper()
	eventually(t, "every place is given back", func() bool {
		return p.server.Load().InFlight == 0 && p.program.inFlight.Load() == 0
	})
	p.server.keys.mu.Lock()
	defer p.server.keys.mu.Unlock()
	if running := len(p.server.keys.once.calls) - p.server.keys.once.oldest.Len(); running != 0 {
		t.Errorf("%d calls are said to run still", running)
	}
}

func wantReply(t *testing.T, c *cellproto.Conn, req *cellproto.Request, want string) {
	t.Helper()
	got, err := ask(t, c, req)
	if err != nil || string(got) != want {
		t.Errorf("%s with key %q: %s, %v; want %s", req.Header.Func, req.Header.Key, got, err, want)
	}
}

func TestKeyedRunsOnce(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	runs := numbered(p)
	h, _ := newHost(t)
	c := dial(t, h, p)
	wantReply(t, c, withKey("x", "a"), "1")
	wantReply(t, c, withKey("x", "a"), "1")
	wantReply(t, dial(t, h, p), withKey("x", "a"), "1") // on another connection, too
	wantReply(t, c, withKey("x", "b"), "2")
	spaced := withKey("x", "a")
	spaced.Payload = []byte(` { "text" : "\u0078" } `)
	wantReply(t, c, spaced, "1") // the same arguments, written in another way
	_, err := ask(t, c, withKey("y", "a"))
	wantKind(t, err, cellproto.BadInput)
	if !strings.Contains(err.Error(), "key was used before") {
		t.Errorf("it says %q", err)
	}
	wantReply(t, c, withKey("y", ""), "3") // without a key every call counts
	wantReply(t, c, withKey("y", ""), "4")
	other, _ := newHost(t)
	wantReply(t, dial(t, other, p), withKey("x", "a"), "5") // somebody else's key
	pure := request("echo", "x")
	pure.Header.Key = []byte("a")
	wantReply(t, c, pure, "6") // it has no effect: it may run as often as it likes
	wantReply(t, c, pure, "7")
	if n := p.server.Load().Served; n != 10 {
		t.Errorf("%d calls were served, want 10", n)
	}
	allGivenBack(t, p)

	near, far := unixPair(t)
	go p.server.Serve(context.Background(), far, Who{UID: os.Getuid(), Owner: true})
	owner := runConn(t, near)
	wantReply(t, owner, withKey("x", "a"), "8")
	wantReply(t, owner, withKey("x", "a"), "8")
	if runs.Load() != 8 {
		t.Errorf("it ran %d times", runs.Load())
	}
}

// A repeat that comes while the first runs waits for it, as long as its own deadline allows.
func TestKeyedWaits(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	started, release := make(chan struct{}, 10), make(chan struct{})
	p.program.handle = func(in *cellproto.Inbound) {
		started <- struct{}{}
		<-release
		answer(in)
	}
	h, _ := newHost(t)
	c := dial(t, h, p)
	results := make(chan error, 10)
	call := func(ctx context.Context) {
		_, err := c.Call(ctx, withKey("x", "a"))
		results <- err
	}
	go call(t.Context())
	<-started
	for range 5 {
		go call(t.Context())
	}
	eventually(t, "five wait", func() bool { return p.server.Load().InFlight == 6 })
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := c.Call(short, withKey("x", "a"))
	wantKind(t, err, cellproto.Timeout)
	gone, leave := context.WithCancel(t.Context())
	go call(gone)
	eventually(t, "one more waits", func() bool { return p.server.Load().InFlight == 7 })
	leave()
	wantKind(t, <-results, cellproto.Canceled)
	eventually(t, "those who left are not waited for", func() bool { return p.server.Load().InFlight == 6 })
	if n := p.program.inFlight.Load(); n != 1 {
		t.Errorf("%d places are taken in the program, want 1", n)
	}
	close(release)
	for range 6 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if len(started) != 0 {
		t.Errorf("it ran %d times more", len(started))
	}
	allGivenBack(t, p)
}

// What did not run to its end is not an answer: whoever waits runs it, and so does whoever comes later.
func TestKeyedIsNotAnswered(t *testing.T) {
	ends := map[string]func(p *provider, in *cellproto.Inbound, first *cellproto.Conn){
		"it fails": func(_ *provider, in *cellproto.Inbound, _ *cellproto.Conn) {
			_ = in.ReplyError(cellproto.Errorf("", cellproto.Failed, "the disk is full"))
		},
		"its caller leaves": func(_ *provider, in *cellproto.Inbound, first *cellproto.Conn) {
			first.Close()
			<-in.Context().Done()
			_ = in.ReplyError(cellproto.Errorf("", cellproto.FuncError, "context canceled"))
		},
		"the program dies": func(p *provider, _ *cellproto.Inbound, _ *cellproto.Conn) {
			p.program.mu.Lock()
			far := p.program.far
			p.program.near, p.program.far = nil, nil
			p.program.mu.Unlock()
			far.Close()
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			p := provide(t, cell, nil)
			h, _ := newHost(t)
			first, second := dial(t, h, p), dial(t, h, p)
			var runs atomic.Int64
			started, waiting := make(chan struct{}), make(chan struct{})
			p.program.handle = func(in *cellproto.Inbound) {
				if runs.Add(1) > 1 {
					answer(in)
					return
				}
				close(started)
				<-waiting
				end(p, in, first)
			}
			ended := make(chan error, 2)
			go func() { _, err := first.Call(t.Context(), withKey("x", "a")); ended <- err }()
			<-started
			for range 2 {
				go func() { _, err := second.Call(t.Context(), withKey("x", "a")); ended <- err }()
			}
			eventually(t, "the others wait", func() bool { return p.server.Load().InFlight == 3 })
			close(waiting)
			failures := 0
			for range 3 {
				if err := <-ended; err != nil {
					failures++
				}
			}
			wantFailures := 1
			if name == "the program dies" { // the first call is made again itself
				wantFailures = 0
			}
			if failures != wantFailures || runs.Load() != 2 {
				t.Errorf("%d calls failed and it ran %d times, want %d and 2", failures, runs.Load(), wantFailures)
			}
			wantReply(t, second, withKey("x", "a"), `{"text":"x"}`)
			if runs.Load() != 2 {
				t.Errorf("it ran %d times in the end", runs.Load())
			}
			allGivenBack(t, p)
		})
	}
}

// An error of the function is its answer; one for which there was no room, or which is long, is not kept.
func TestKeyedAnswers(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	var runs atomic.Int64
	reply := func(in *cellproto.Inbound) {
		_ = in.ReplyError(cellproto.Errorf("", cellproto.FuncError, "run %d", runs.Load()).WithHint("Do not."))
	}
	p.program.handle = func(in *cellproto.Inbound) { runs.Add(1); reply(in) }
	h, _ := newHost(t)
	c := dial(t, h, p)
	for range 2 {
		_, err := ask(t, c, withKey("x", "error"))
		wantKind(t, err, cellproto.FuncError)
		if !strings.Contains(err.Error(), "run 1") || cellproto.HintOf(err) != "Do not." {
			t.Errorf("it says %q, %q", err, cellproto.HintOf(err))
		}
	}
	reply = func(in *cellproto.Inbound) {
		_ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, []byte(strings.Repeat("7", cellproto.ChunkSize+1)))
	}
	for want := int64(2); want <= 3; want++ {
		if got, err := ask(t, c, withKey("x", "long")); err != nil || len(got) != cellproto.ChunkSize+1 || runs.Load() != want {
			t.Errorf("%d bytes in run %d, %v", len(got), runs.Load(), err)
		}
	}
	p.program.places = 0
	_, err := ask(t, c, withKey("x", "busy"))
	wantKind(t, err, cellproto.Overloaded)
	p.program.places = 10
	reply = answer
	wantReply(t, c, withKey("x", "busy"), `{"text":"x"}`)
	allGivenBack(t, p)
}
