package cellproto

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// relayed is a relay with both its ends in the hands of the test.
type relayed struct {
	down, up       *Conn
	caller, callee *rawPeer
	relay          *Relay
	ended          chan Kind
}

// newRelayed begins a call with the frame, and passes it on unless hold.
func newRelayed(t testing.TB, f Frame, hold bool) *relayed {
	t.Helper()
	r := &relayed{ended: make(chan Kind, 10)}
	r.up, r.callee = dial(t, Config{Opener: true})
	accepted := make(chan struct{})
	var to error
	r.down, r.caller = dial(t, Config{Accept: func(c *Conn, f *Frame) {
		r.relay = NewRelay(c, f, func(k Kind, _ time.Time) { r.ended <- k })
		if !hold {
			to = r.relay.To(r.up, f, true)
		}
		close(accepted)
	}})
	r.caller.send(f)
	within(t, "the request", func() { <-accepted })
	if to != nil {
		t.Fatal(to)
	}
	if !hold {
		if got := r.callee.next(); got.Type != TypeRequest || got.More != f.More {
			t.Fatalf("passed on: %v", &got)
		}
	}
	return r
}

// over waits for the end of the call, and checks that it comes once and leaves nothing.
func (r *relayed) over(t testing.TB, want Kind) {
	t.Helper()
	within(t, "the end of the relayed call", func() {
		if got := <-r.ended; got != want {
			t.Errorf("it ended with %v, want %v", got, want)
		}
	})
	settleInbound(t, r.down)
	if len(r.ended) > 0 {
		t.Error("it ended twice")
	}
}

func settleInbound(t testing.TB, c *Conn) {
	within(t, "an idle connection", func() {
		for in, _ := c.InFlight(); in > 0; in, _ = c.InFlight() {
			c.PeerHello(context.Background())
		}
	})
}

func streamed(id uint32) Frame {
	return Frame{Type: TypeRequest, ID: id, More: true, Header: Header{Func: "f"}}
}

func chunkOf(id uint32, n int) Frame {
	return Frame{Type: TypeChunk, ID: id, Payload: make([]byte, n)}
}

// TestRelayCalleeBreaksRules: the caller gets an error that does not say that nothing ran.
func TestRelayCalleeBreaksRules(t *testing.T) {
	for name, script := range map[string][]Frame{
		"body before reply":  {chunkOf(1, 1)},
		"end before reply":   {{Type: TypeEnd, ID: 1}},
		"replies twice":      {{Type: TypeReply, ID: 1, More: true}, {Type: TypeReply, ID: 1}},
		"streams twice":      {{Type: TypeReply, ID: 1, More: true}, {Type: TypeReply, ID: 1, More: true}},
		"ignores the window": append([]Frame{{Type: TypeReply, ID: 1, More: true}}, slices.Repeat([]Frame{chunkOf(1, ChunkSize)}, 5)...),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelayed(t, streamed(1), false)
			r.callee.send(script...)
			r.over(t, Failed)
			f := r.caller.next()
			for ; f.Type == TypeChunk || f.More; f = r.caller.next() {
			}
			if f.Header.Kind != Failed || (f.Type == TypeEnd) != script[0].More {
				t.Errorf("the caller gets %v", &f)
			}
		})
	}
}

// TestRelayCallerBreaksRules: the caller gets its error at once, the callee is told, and the place
// stays taken until the callee has ended the call.
func TestRelayCallerBreaksRules(t *testing.T) {
	for name, script := range map[string]struct {
		request Frame
		frames  []Frame
	}{
		"body not announced": {request(1, "f"), []Frame{chunkOf(1, 1)}},
		"end not announced":  {request(1, "f"), []Frame{{Type: TypeEnd, ID: 1}}},
		"ends twice":         {streamed(1), []Frame{{Type: TypeEnd, ID: 1}, {Type: TypeEnd, ID: 1}}},
		"ignores the window": {streamed(1), slices.Repeat([]Frame{chunkOf(1, ChunkSize)}, 5)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelayed(t, script.request, false)
			r.caller.send(script.frames...)
			if f := r.caller.next(); f.Type != TypeReply || f.Header.Kind != BadInput {
				t.Errorf("the caller gets %v", &f)
			}
			f := r.callee.next()
			for ; f.Type == TypeChunk || f.Type == TypeEnd; f = r.callee.next() {
			}
			if f.Type != TypeCancel || len(r.ended) > 0 {
				t.Errorf("the callee gets %v; ends: %d", &f, len(r.ended))
			}
			r.callee.send(Frame{Type: TypeReply, ID: 1, Payload: []byte("late")})
			r.over(t, 0)
			if more := r.caller.sync(); len(more) > 0 {
				t.Errorf("the caller gets more: %v", more)
			}
		})
	}
}

// TestRelayHeld: what comes before the callee is known is kept, in order; a caller that gives up
// frees its place at once.
func TestRelayHeld(t *testing.T) {
	r := newRelayed(t, streamed(1), true)
	r.caller.send(chunkOf(1, 10), chunkOf(1, 20), credit(1, 1000), credit(1, 2000), Frame{Type: TypeEnd, ID: 1})
	r.caller.sync()
	req := streamed(9)
	if err := r.relay.To(r.up, &req, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		typ FrameType
		n   int
	}{{TypeRequest, 0}, {TypeChunk, 10}, {TypeChunk, 20}, {TypeEnd, 0}} {
		if f := r.callee.next(); f.Type != want.typ || len(f.Payload) != want.n || f.ID != 1 {
			t.Errorf("the callee gets %v, want %v", &f, want)
		}
	}
	r.callee.send(Frame{Type: TypeReply, ID: 1, More: true})
	if f := r.callee.next(); f.Type != TypeCredit || !bytes.Equal(f.Payload, credit(1, 3000).Payload) {
		t.Errorf("the credit of before is %v %x", &f, f.Payload)
	}
	r.callee.send(Frame{Type: TypeEnd, ID: 1})
	r.over(t, 0)

	r = newRelayed(t, streamed(1), true)
	r.caller.send(Frame{Type: TypeCancel, ID: 1})
	r.over(t, Canceled)
	if err := r.relay.To(r.up, &req, false); err != nil {
		t.Error(err)
	}
	if frames := r.callee.sync(); len(frames) > 0 {
		t.Errorf("the callee gets %v", frames)
	}
	r = newRelayed(t, streamed(1), true)
	r.caller.conn.Close()
	r.over(t, Canceled)
}

// TestRelayCallerGone: the callee is told, once, and the call is over when it has ended it.
func TestRelayCallerGone(t *testing.T) {
	for name, leave := range map[string]func(r *relayed){
		"closes":  func(r *relayed) { r.caller.conn.Close() },
		"cancels": func(r *relayed) { r.caller.send(Frame{Type: TypeCancel, ID: 1}, Frame{Type: TypeCancel, ID: 1}) },
		"both": func(r *relayed) {
			r.caller.send(Frame{Type: TypeCancel, ID: 1})
			r.caller.sync()
			r.caller.conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelayed(t, request(1, "f"), false)
			r.callee.send(Frame{Type: TypeReply, ID: 1, More: true}, chunkOf(1, 100))
			r.callee.sync()
			leave(r)
			if f := r.callee.next(); f.Type != TypeCancel {
				t.Errorf("the callee gets %v", &f)
			}
			r.callee.send(chunkOf(1, 100))
			if frames := r.callee.sync(); len(frames)+len(r.ended) > 0 {
				t.Errorf("then %v; ends: %d", frames, len(r.ended))
			}
			r.callee.send(Frame{Type: TypeEnd, ID: 1, Header: Header{Kind: Canceled}})
			r.over(t, Canceled)
		})
	}
}

// TestRelayCalleeGone: a request that may have been read may have run.
func TestRelayCalleeGone(t *testing.T) {
	r := newRelayed(t, request(1, "f"), false)
	r.callee.conn.Close()
	r.over(t, MayHaveRun)
	if f := r.caller.next(); f.Header.Kind != MayHaveRun {
		t.Errorf("the caller gets %v", &f)
	}
}

// TestRelayFullQueue: a callee that does not read costs its own connection, and no lock is held when
// its calls are told. Nothing that one caller can send fills the queue.
func TestRelayFullQueue(t *testing.T) {
	deaf := &narrowPeer{closed: make(chan struct{})}
	up := run(t, deaf, Config{Opener: true})
	ended := make(chan Kind, 1000)
	down, caller := dial(t, Config{Accept: func(c *Conn, f *Frame) {
		r := NewRelay(c, f, func(k Kind, _ time.Time) { ended <- k })
		if err := r.To(up, f, true); err != nil {
			r.Fail(err)
		}
	}})
	const calls = 64
	for i := range uint32(calls) {
		caller.send(streamed(2*i + 1))
		caller.send(slices.Repeat([]Frame{chunkOf(2*i+1, 1)}, 500)...)
		caller.send(slices.Repeat([]Frame{credit(2*i+1, 1)}, 500)...)
		caller.send(slices.Repeat([]Frame{{Type: TypeCancel, ID: 2*i + 1}}, 500)...)
	}
	caller.sync()
	up.w.mu.Lock()
	small := len(up.w.buf)
	up.w.mu.Unlock()
	if small > calls*100 { // a request, a cancel and an end for each
		t.Errorf("%d bytes wait besides bodies: a caller can cut off a callee that others use", small)
	}
	args := request(0, "f")
	args.Payload = make([]byte, MaxArgs)
	for i := range uint32(100) {
		args.ID = 2*(calls+i) + 1
		caller.send(args)
	}
	refused := 0
	for _, f := range caller.sync() {
		if f.Header.Kind != Overloaded {
			t.Errorf("the caller gets %v", &f)
		}
		refused++
	}
	if refused < 40 || refused > 60 {
		t.Errorf("%d of 100 large requests are refused", refused)
	}
	big := &Frame{Type: TypeReply, ID: 99, Payload: make([]byte, MaxArgs)}
	within(t, "the cut", func() {
		for up.Queue(big) == nil { // the callee's own calls fill the rest
		}
		for range calls + 100 {
			<-ended
		}
	})
	settleInbound(t, down)
}

// TestRelayKeepsCreditBack: while a receiver's queue is long, a callee is not asked for more.
func TestRelayKeepsCreditBack(t *testing.T) {
	r := newRelayed(t, request(1, "f"), false)
	deaf := &narrowPeer{closed: make(chan struct{})}
	slow := run(t, deaf, Config{})
	r.relay.mu.Lock()
	r.relay.down = slow // from here on the caller does not read
	r.relay.mu.Unlock()
	for i := range uint32(20) {
		if err := slow.Queue(&Frame{Type: TypeChunk, ID: 2*i + 1, Payload: make([]byte, ChunkSize)}); err != nil {
			t.Fatal(err)
		}
	}
	r.callee.send(Frame{Type: TypeReply, ID: 1, More: true})
	frames := r.callee.sync()
	r.relay.mu.Lock()
	for _, n := range []uint32{10, 20} {
		f := credit(1, n)
		if _, err := (*callerSide)(r.relay).take(&f); err != nil {
			t.Error(err)
		}
	}
	r.relay.mu.Unlock()
	if frames = append(frames, r.callee.sync()...); len(frames) > 0 {
		t.Errorf("the callee gets %v", frames)
	}
	slow.w.mu.Lock()
	slow.w.bodyFrom = len(slow.w.bodies) // it reads
	slow.w.out = nil
	slow.w.callRoom()
	slow.w.mu.Unlock()
	if f := r.callee.next(); f.Type != TypeCredit || !bytes.Equal(f.Payload, credit(1, 30).Payload) {
		t.Errorf("the callee gets %v %x", &f, f.Payload)
	}
}

// TestRandomCalls: calls, bodies, cancels and lost connections in any order over a relay. Every call
// ends exactly once, at each of its stations, and bodies arrive as they were sent.
func TestRandomCalls(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plans := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) callPlan {
			return callPlan{
				fn: rapid.SampledFrom([]string{"inline", "stream", "fail", "hold", "short"}).Draw(t, "function"),
				// around what decides: nothing, one chunk, the window, more
				body:   rapid.SampledFrom([]int{-1, 0, 1, ChunkSize, InitialWindow - 100, InitialWindow + 1, 600 << 10}).Draw(t, "body"),
				cancel: rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "cancel"),
				read:   rapid.SampledFrom([]int{1, 1 << 10, 1 << 20}).Draw(t, "read"),
			}
		}), 1, 12).Draw(rt, "calls")
		cut := rapid.SampledFrom([]string{"", "", "caller", "callee", "drain"}).Draw(rt, "cut")
		randomCalls(t, rt, plans, cut)
	})
}

type callPlan struct {
	fn     string
	body   int // bytes; -1: none
	cancel int // 0 never, 1 at once, 2 when replied, 3 while reading
	read   int // bytes at a time
}

func randomCalls(t *testing.T, rt *rapid.T, plans []callPlan, cut string) {
	var begun, over, inbound, finished atomic.Int64
	a, b := memoryPair()
	x, y := socketPair(t)
	var conns []*Conn
	var running sync.WaitGroup
	start := func(transport Transport, cfg Config) *Conn {
		c, err := NewConn(transport, cfg)
		if err != nil {
			rt.Fatal(err)
		}
		conns = append(conns, c)
		running.Go(func() { c.Run() })
		return c
	}
	var tasks sync.WaitGroup
	callee := start(y, Config{Hello: Hello{Functions: []string{"stream"}}, Accept: func(c *Conn, f *Frame) {
		if f.Header.Func == "inline" {
			echoInline(c, f)
			return
		}
		in := c.Inbound(context.Background(), f)
		inbound.Add(1)
		fn := f.Header.Func
		tasks.Go(func() {
			defer finished.Add(1)
			switch fn {
			case "fail":
				in.ReplyError(Errorf("", FuncError, "no"))
			case "hold":
				<-in.Context().Done()
				in.ReplyError(in.Context().Err())
			case "short": // does not read its body
				in.Reply(Header{}, []byte("short"))
			default:
				in.ReplyBody(Header{}, io.MultiReader(bytes.NewReader(in.Payload), in.Body()))
			}
		})
	}})
	up := start(x, Config{Opener: true})
	free := make(chan *Relay, len(plans))
	start(b, Config{Accept: func(c *Conn, f *Frame) {
		begun.Add(1)
		r := new(Relay)
		select {
		case r = <-free: // one that was used
		default:
		}
		r.Start(c, f, func(Kind, time.Time) { over.Add(1) })
		r.OnFree(func() { free <- r })
		if err := r.To(up, f, true); err != nil {
			r.Fail(err)
		}
	}})
	caller := start(a, Config{Opener: true})
	var calls sync.WaitGroup
	for i, plan := range plans {
		calls.Go(func() {
			if err := plan.run(caller, byte(i)); err != nil && cut == "" {
				rt.Errorf("call %d, %+v: %v", i, plan, err)
			}
		})
	}
	switch cut {
	case "caller":
		caller.Close()
	case "callee":
		callee.Close()
	case "drain":
		up.Drain(context.Background(), "test")
	}
	within(t, "the end of all calls", calls.Wait)
	if cut == "" {
		within(t, "all places", func() {
			for over.Load() < begun.Load() {
				caller.Ping(context.Background())
			}
		})
		for _, c := range conns {
			settle(t, c)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	within(t, "the end of all connections", running.Wait)
	within(t, "the end of all functions", tasks.Wait)
	if begun.Load() != over.Load() || inbound.Load() != finished.Load() {
		rt.Errorf("%d relayed calls began, %d ended; %d functions began, %d ended", begun.Load(), over.Load(), inbound.Load(), finished.Load())
	}
}

// run makes the call and checks what comes back.
func (p callPlan) run(c *Conn, seed byte) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := &Request{Header: Header{Func: p.fn}, Payload: []byte{seed}}
	want := []byte{seed}
	if p.body >= 0 {
		body := bytes.Repeat([]byte{seed, 1, 2}, p.body/3+1)[:p.body]
		req.Body = bytes.NewReader(body)
		if p.fn == "stream" {
			want = append(want, body...)
		}
	}
	if p.cancel == 1 || p.fn == "hold" {
		go cancel()
	}
	r, err := c.Call(ctx, req)
	switch {
	case KindOf(err) == Canceled && (p.cancel == 1 || p.fn == "hold"):
		return nil
	case p.fn == "fail" && KindOf(err) == FuncError:
		return nil
	case err != nil:
		return err
	}
	if p.fn == "short" {
		want = []byte("short")
	}
	got := r.Payload
	if r.Body != nil {
		defer r.Body.Close()
		if p.cancel == 2 {
			return nil
		}
		buf := make([]byte, p.read)
		for n := 0; err == nil; {
			if p.read < 100 && len(got) > 1000 { // else it takes too long
				buf = make([]byte, 64<<10)
			}
			n, err = r.Body.Read(buf)
			got = append(got, buf[:n]...)
			if p.cancel == 3 && len(got) > len(want)/2 {
				return nil
			}
		}
		if p.cancel == 1 && KindOf(err) == Canceled {
			return nil
		}
	}
	if err != nil && err != io.EOF || !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes of %d: %w", len(got), len(want), err)
	}
	return nil
}
