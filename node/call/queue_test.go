package call

import (
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// While there is no place, the owner comes first, then who has earned it, then newcomers; the lowest is
// refused when too many wait.
func TestQueueEvicts(t *testing.T) {
	q := queue{time: time.Hour}
	full := cellproto.Errorf("call", cellproto.Overloaded, "full")
	var mu sync.Mutex
	var refused []ledger.Class

	add := func(c ledger.Class) error {
		sess := &session{s: &Server{deps: ServerDeps{Rank: func(Who) Rank { return Rank{Class: c, Weight: 1, Group: "g"} }}}}
		p := &passed{s: sess}
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		conn, err := cellproto.NewConn(near, cellproto.Config{})
		if err != nil {
			t.Fatal(err)
		}
		p.relay.Start(conn, &cellproto.Frame{ID: 1}, func(cellproto.Kind, time.Time) {
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, c)
		})
		w := &waiting{fail: p.relay.Fail}
		return q.push(sess, &cellproto.Frame{Header: cellproto.Header{Budget: time.Hour}}, full, w, &p.ticket)
	}
	for range maxQueued {
		if err := add(ledger.ClassStranger); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(ledger.ClassStranger); !errors.Is(err, full) {
		t.Errorf("one stranger too many: %v", err)
	}
	for _, c := range []ledger.Class{ledger.ClassEarned, ledger.ClassOwner} {
		if err := add(c); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	mu.Lock()
	if !slices.Equal(refused, []ledger.Class{ledger.ClassStranger, ledger.ClassStranger}) {
		t.Errorf("refused are %v", refused)
	}
	mu.Unlock()
	var order []ledger.Class
	for q.q.Len() > 0 {
		r, _ := q.q.Pop()
		order = append(order, r.Class)
	}
	if len(order) != maxQueued || order[0] != ledger.ClassOwner || order[1] != ledger.ClassEarned || order[2] != ledger.ClassStranger {
		t.Errorf("%d, in the order %v", len(order), order[:3])
	}

}

// Who waits with many calls keeps nobody of its class out: it is who waits most that makes room, among strangers by
// groups and among those who have earned it by caller.
func TestQueueIsShared(t *testing.T) {
	full := cellproto.Errorf("call", cellproto.Overloaded, "full")
	for _, class := range []ledger.Class{ledger.ClassStranger, ledger.ClassEarned} {
		q := queue{time: time.Hour}
		waits := map[byte]int{}
		add := func(who byte) error {
			r := Rank{Class: class, Weight: 1, Key: ledger.Key{who}, Group: string(rune('a' + who))}
			sess := &session{s: &Server{deps: ServerDeps{Rank: func(Who) Rank { return r }}}}
			w := &waiting{fail: func(err error) {
				if !errors.Is(err, full) {
					t.Error(err)
				}
				waits[who]--
			}}
			var ticket uint64
			err := q.push(sess, &cellproto.Frame{Header: cellproto.Header{Budget: time.Hour}}, full, w, &ticket)
			if err == nil {
				waits[who]++
			}
			return err
		}
		for range 2 * maxQueued {
			_ = add(0) // as many as it likes
		}
		for range maxQueued / 4 {
			if err := add(1); err != nil {
				t.Fatalf("%v: another one: %v", class, err)
			}
		}
		for range 2 * maxQueued {
			_, _ = add(2), add(3)
		}
		if waits[1] != maxQueued/4 || len(q.calls) != maxQueued || q.q.Len() != maxQueued {
			t.Errorf("%v: %v wait", class, waits)
		}
		for who, n := range waits {
			if n < maxQueued/4-1 || n > maxQueued/4+1 {
				t.Errorf("%v: %d waits with %d calls", class, who, n)
			}
		}
		for _, w := range q.calls {
			w.timer.Stop()
		}
	}
}

// Calls that find no place are not refused at once: they are served in the order of their ranks when
// there is one, and counted as others.
func TestQueueByRank(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	p.program.places = 1
	p.server.queue.time = patience
	stranger, _ := newHost(t)
	earned, _ := newHost(t)
	p.server.deps.Rank = func(w Who) Rank {
		if w.Peer == earned.ID() {
			return Rank{Class: ledger.ClassEarned, Weight: 1}
		}
		return Rank{Class: ledger.ClassStranger, Weight: 1}
	}
	held := make(chan struct{})
	served := make(chan string, 10)
	p.program.handle = func(in *cellproto.Inbound) {
		served <- string(in.Payload)
		<-held
		answer(in)
	}
	a, b := dial(t, stranger, p), dial(t, earned, p)
	var calls sync.WaitGroup
	call := func(c *cellproto.Conn, text string) {
		calls.Go(func() {
			if _, err := ask(t, c, request("echo", text)); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		})
	}
	call(a, "first")
	<-served
	for i, name := range []string{"stranger", "stranger", "earned"} {
		c := a
		if name == "earned" {
			c = b
		}
		call(c, name)
		eventually(t, "it waits", func() bool { return p.server.Waiting() == i+1 })
	}
	close(held)
	calls.Wait()
	for i, want := range []string{"earned", "stranger", "stranger"} {
		if got := <-served; got != `{"text":"`+want+`"}` {
			t.Errorf("served as number %d is %s, want %s", i, got, want)
		}
	}
	p.server.Meter().Tick(time.Now(), Spent{})
	if u := p.server.Meter().Divided(stranger.ID().String()); u.Calls != 3 || u.Wall == 0 || u.In == 0 || u.Out == 0 {
		t.Errorf("%+v", u)
	}
	if _, ok := p.server.Forget(stranger.ID().String()); ok {
		t.Error("a caller that is connected was forgotten")
	}
	a.Close()
	eventually(t, "who has left can be forgotten, with all that it has used", func() bool {
		u, ok := p.server.Forget(stranger.ID().String())
		return ok && u.Calls == 3
	})
	if u := p.server.Meter().Divided(stranger.ID().String()); u != (Usage{}) {
		t.Errorf("%+v", u)
	}
	if l := p.server.Load(); l.InFlight != 0 || p.program.inFlight.Load() != 0 || p.server.Waiting() != 0 {
		t.Errorf("places are left taken: %+v", l)
	}
}

// Whoever comes while others wait does not get past them by chance, when a place is free at that moment. Calls with a
// key wait like all others.
func TestNobodyBarges(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	p.program.places = 1
	p.server.queue.time = patience
	stranger, _ := newHost(t)
	earned, _ := newHost(t)
	p.server.deps.Rank = func(w Who) Rank {
		if w.Peer == earned.ID() {
			return Rank{Class: ledger.ClassEarned, Weight: 1}
		}
		return Rank{Class: ledger.ClassStranger, Weight: 1}
	}
	held := make(chan struct{})
	served := make(chan string, 10)
	p.program.handle = func(in *cellproto.Inbound) {
		served <- string(in.Payload)
		<-held
		answer(in)
	}
	a, b := dial(t, stranger, p), dial(t, earned, p)
	var calls sync.WaitGroup
	call := func(c *cellproto.Conn, req *cellproto.Request) {
		calls.Go(func() {
			if _, err := ask(t, c, req); err != nil {
				t.Errorf("%s: %v", req.Payload, err)
			}
		})
	}
	keyed := func(text string) *cellproto.Request {
		req := request("count", text)
		req.Header.Key = []byte(text)
		return req
	}
	call(a, request("echo", "first"))
	<-served
	call(b, keyed("earned"))
	eventually(t, "the call with a key waits", func() bool { return p.server.Waiting() == 1 })
	p.program.inFlight.Add(-1) // a place that nobody has been told of
	call(a, request("echo", "stranger"))
	if got := <-served; got != `{"text":"earned"}` {
		t.Errorf("served next is %s", got)
	}
	eventually(t, "the stranger waits", func() bool { return p.server.Waiting() == 1 })
	call(b, keyed("again"))
	eventually(t, "both wait", func() bool { return p.server.Waiting() == 2 })
	close(held)
	calls.Wait()
	<-served
	<-served
	eventually(t, "no place is left taken", func() bool {
		return p.program.inFlight.Load() == -1 && p.server.Load().InFlight == 0 && p.server.Waiting() == 0
	})
	p.server.queue.mu.Lock()
	defer p.server.queue.mu.Unlock()
	if len(p.server.queue.calls) > 0 {
		t.Error("calls are remembered that wait no more")
	}
}
