package call

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// Who copies what is kept is not waiting for the sender.
func TestReplayBesideACopy(t *testing.T) {
	const size = 100 << 10
	first := repeatable(pipe{bytes.NewReader(make([]byte, size))}).(*attemptBody)
	if n, err := io.Copy(io.Discard, first); n != size || err != nil {
		t.Fatal(n, err)
	}
	second, _ := first.rewound()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		for buf := make([]byte, 1); ; {
			if _, err := second.Read(buf); err != nil {
				return
			}
		}
	}()
	for {
		body := first.r.beside(nil)
		if body == nil {
			t.Fatal("the sender is said to be silent, which has sent all")
		}
		body.end()
		select {
		case <-copied:
			return
		default:
		}
	}
}

// Of several attempts at one time only the oldest reads what cannot be kept. One that is over makes room for the next, and one
// that is stuck, or has yielded.
func TestReplayBeside(t *testing.T) {
	const size = 2 * replayable
	for name, c := range map[string]struct {
		then  func(first, second *attemptBody) // once the second waits
		whole bool                             // the second gets all
	}{
		"the oldest resumes":  {func(first, _ *attemptBody) { io.Copy(io.Discard, first) }, false},
		"the oldest ends":     {func(first, _ *attemptBody) { first.end() }, true},
		"the oldest is stuck": {func(first, _ *attemptBody) { time.Sleep(stuckTime) }, true},
		"the oldest yields":   {func(first, _ *attemptBody) { first.yield() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := repeatable(pipe{bytes.NewReader(make([]byte, size))}).(*attemptBody)
				time.Sleep(time.Minute)
				if n, err := io.CopyN(io.Discard, first, 10); err != nil {
					t.Fatal(n, err)
				}
				var useless []string
				first.whenLost(func() { useless = append(useless, "first") })
				second := first.r.beside(func() { useless = append(useless, "second") })
				over := make(chan error, 1)
				go func() { _, err := io.ReadAll(second); over <- err }()
				synctest.Wait()
				first.r.mu.Lock()
				if first.r.changed == nil || second.at != replayable {
					t.Errorf("the second does not wait, but has read %d bytes", second.at)
				}
				first.r.mu.Unlock()
				c.then(first, second)
				err := <-over
				if c.whole != (err == nil && second.at == size) || !c.whole && !errors.Is(err, errBodyLost) {
					t.Errorf("the second has read %d bytes, %v", second.at, err)
				}
				want := "[second]"
				if c.whole && !first.ended() {
					want = "[first]"
				} else if c.whole {
					want = "[]"
				}
				if got := fmt.Sprint(useless); got != want {
					t.Errorf("%s lost it, want %s", got, want)
				}
				if !c.whole != lostBody(&cellproto.Request{Body: second}) || c.whole && !first.ended() != lostBody(&cellproto.Request{Body: first}) {
					t.Error("who lost it does not know")
				}
			})
		})
	}
}

// A body that can be read anywhere is read by each attempt for itself, from where it was to begin.
func TestReplayOfAFile(t *testing.T) {
	file := strings.NewReader(strings.Repeat("0123456789", replayable/5))
	if _, err := file.Seek(7, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	first := repeatable(file).(*attemptBody)
	if n, err := io.CopyN(io.Discard, first, 2*replayable-100); err != nil {
		t.Fatal(n, err)
	}
	if soon := time.Now().Add(time.Hour); !first.r.busy(soon) || first.r.busy(first.begun) {
		t.Error("it is not on its way, or would be there before it was begun")
	}
	for name, next := range map[string]func() *attemptBody{
		"beside": func() *attemptBody { return first.r.beside(nil) },
		"after":  func() *attemptBody { next, _ := first.rewound(); return next },
	} {
		got, err := io.ReadAll(next())
		if err != nil || len(got) != 2*replayable-7 || string(got[:5]) != "78901" {
			t.Errorf("%s: %d bytes, %.10q, %v", name, len(got), got, err)
		}
	}
	if first.r.busy(time.Now().Add(time.Hour)) {
		t.Error("all was read, or is over, and it is on its way")
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errAttemptOver) {
		t.Errorf("an attempt that is over gets %v", err)
	}
}

// One that resumes while another one is asked beside it has all of its body, and what comes of a part of it is no answer.
func TestHedgeBesideALargeBody(t *testing.T) {
	const size = 1 << 20
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, rare)
	first, other := all[0], all[1]
	if string(c.remote(cell.id).decision.Winner) != peerText(first.host) {
		first, other = other, first
	}
	strict := func(in *cellproto.Inbound, read int64, err error) {
		rest, rerr := io.Copy(io.Discard, in.Body())
		if err != nil || rerr != nil {
			in.ReplyError(cellproto.Errorf("total", cellproto.BadInput, "the body ends after %d bytes", read+rest))
			return
		}
		in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Append(nil, read+rest))
	}
	resume := make(chan struct{})
	first.program.handle = func(in *cellproto.Inbound) { <-resume; strict(in, 0, nil) }
	other.program.handle = func(in *cellproto.Inbound) {
		read, err := io.CopyN(io.Discard, in.Body(), replayable)
		close(resume)
		strict(in, read, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	req := request("total", "x")
	req.Body = pipe{bytes.NewReader(make([]byte, size))}
	before := c.observed(cellproto.PeerID(peerText(other.host))).Failures
	res, err := c.Call(ctx, cell.id.String(), req)
	if err != nil || string(res.Reply.Payload) != fmt.Sprint(size) {
		t.Fatalf("%+v, %v", res, err)
	}
	if n := c.observed(cellproto.PeerID(peerText(other.host))).Failures; n != before {
		t.Error("it is held against the one that was sent a part")
	}
}
