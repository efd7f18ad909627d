package cellproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func credit(id uint32, n uint32) Frame {
	return Frame{Type: TypeCredit, ID: id, Payload: binary.BigEndian.AppendUint32(nil, n)}
}

func request(id uint32, fn string) Frame {
	return Frame{Type: TypeRequest, ID: id, Header: Header{Func: fn}}
}

// TestRefusals: what ends a connection, and that the peer is told why.
func TestRefusals(t *testing.T) {
	hello := Frame{Type: TypeHello, Payload: mustHello(t, Hello{})}
	for name, c := range map[string]struct {
		frames []Frame
		raw    []byte
		kind   Kind
	}{
		"garbage":                {nil, []byte("GET / HTTP/1.1\r\n\r\n"), TooLarge},
		"request before hello":   {[]Frame{request(1, "f")}, nil, BadInput},
		"second hello":           {[]Frame{hello, hello}, nil, BadInput},
		"hello of version 2":     {[]Frame{{Type: TypeHello, Payload: mustHello(t, Hello{Versions: []uint{2}})}}, nil, Unsupported},
		"parity of this side":    {[]Frame{hello, request(2, "f")}, nil, BadInput},
		"the same id again":      {[]Frame{hello, request(1, "hold"), request(1, "hold")}, nil, BadInput},
		"a frame past the limit": {[]Frame{hello}, []byte{0, 0x10, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1}, TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := memoryPair()
			c2, err := NewConn(a, Config{Accept: func(c *Conn, f *Frame) { c.Inbound(context.Background(), f) }})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c2.Run() }()
			p := newRawPeer(t, b)
			p.send(c.frames...)
			p.write(c.raw)
			within(t, "the connection's end", func() { err = <-ended })
			if KindOf(err) != c.kind {
				t.Errorf("ended with %v (%v), want %v", err, KindOf(err), c.kind)
			}
			var last Frame
			for f := p.next(); f.Type != 0; f = p.next() {
				last = f
			}
			if last.Type != TypeGoaway || last.Header.Kind != c.kind || len(last.Payload) == 0 {
				t.Errorf("the last frame was %v", &last)
			}
		})
	}
}

// TestNoise: frames that belong to no call, or not to their call, harm nobody.
func TestNoise(t *testing.T) {
	c, p := dial(t, Config{Opener: true, Accept: echoInline})
	done := make(chan error, 1)
	go func() {
		r, err := c.Call(t.Context(), &Request{Header: Header{Func: "f"}})
		if err == nil && string(r.Payload) != "7" {
			err = fmt.Errorf("reply %q", r.Payload)
		}
		done <- err
	}()
	req := p.next()
	noise := func(id uint32) []Frame {
		return []Frame{
			{Type: TypePong, ID: id}, {Type: TypeCancel, ID: id}, {Type: TypeEvent, Header: Header{Func: "e"}}, credit(id, 1<<32-1), credit(id, 1<<32-1),
		}
	}
	p.send(noise(req.ID)...)
	for _, id := range []uint32{99, 100, 1 << 31} {
		p.send(noise(id)...)
		p.send(Frame{Type: TypeReply, ID: id}, Frame{Type: TypeReply, ID: id, More: true}, Frame{Type: TypeChunk, ID: id, Payload: []byte("x")}, Frame{Type: TypeEnd, ID: id})
	}
	if frames := p.sync(); len(frames) != 0 {
		t.Errorf("answered with %v", frames)
	}
	p.send(Frame{Type: TypeReply, ID: req.ID, Payload: []byte("7")})
	within(t, "the reply", func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestPingTakesOnlyPongs: a hostile answer neither ends a ping nor blocks the reading goroutine.
func TestPingTakesOnlyPongs(t *testing.T) {
	c, p := dial(t, Config{Opener: true})
	done := make(chan error, 1)
	go func() { _, err := c.Ping(t.Context()); done <- err }()
	id := p.next().ID
	for range 5 {
		p.send(Frame{Type: TypeReply, ID: id, More: true}, Frame{Type: TypeChunk, ID: id, Payload: []byte("x")}, Frame{Type: TypeEnd, ID: id}, Frame{Type: TypeReply, ID: id})
	}
	p.sync()
	if len(done) != 0 {
		t.Fatal("the ping is over")
	}
	p.send(Frame{Type: TypePong, ID: id}, Frame{Type: TypePong, ID: id})
	within(t, "the pong", func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if in, out := c.InFlight(); in+out != 0 {
		t.Errorf("%d, %d in flight", in, out)
	}
}

// TestCalleeBreaksRules: the call fails as one that may have run, nothing is left of it, and the
// connection goes on.
func TestCalleeBreaksRules(t *testing.T) {
	chunk := func(id uint32, n int) Frame { return Frame{Type: TypeChunk, ID: id, Payload: make([]byte, n)} }
	reply := func(id uint32, more bool) Frame { return Frame{Type: TypeReply, ID: id, More: more} }
	full := func(id uint32) (out []Frame) { // uses the window up, and one byte more
		for range InitialWindow / ChunkSize {
			out = append(out, chunk(id, ChunkSize-chunkCost))
		}
		return append(out, chunk(id, 1))
	}
	for name, script := range map[string]func(id uint32) []Frame{
		"body before reply":    func(id uint32) []Frame { return []Frame{chunk(id, 1)} },
		"end before reply":     func(id uint32) []Frame { return []Frame{{Type: TypeEnd, ID: id}} },
		"two replies":          func(id uint32) []Frame { return []Frame{reply(id, true), reply(id, false)} },
		"two streamed replies": func(id uint32) []Frame { return []Frame{reply(id, true), reply(id, true)} },
		"past the window":      func(id uint32) []Frame { return append([]Frame{reply(id, true)}, full(id)...) },
	} {
		t.Run(name, func(t *testing.T) {
			c, p := dial(t, Config{Opener: true})
			body, fill := io.Pipe() // never ends by itself
			defer fill.Close()
			done, handled := make(chan error, 1), make(chan struct{})
			go func() {
				r, err := c.Call(t.Context(), &Request{Header: Header{Func: "f"}, Body: body})
				if err == nil {
					<-handled // what is read is granted again
					_, err = r.Bytes(1 << 30)
				}
				done <- err
			}()
			id := p.next().ID
			p.send(script(id)...)
			p.sync()
			close(handled)
			var err error
			within(t, "the call's end", func() { err = <-done })
			if KindOf(err) != Failed {
				t.Errorf("%v (%v)", err, KindOf(err))
			}
			p.send(reply(id, false), Frame{Type: TypeEnd, ID: id})
			p.sync()
			if in, out := c.InFlight(); in+out != 0 {
				t.Errorf("%d, %d in flight", in, out)
			}
		})
	}
}

// TestTinyChunks: the window bounds what is kept of a body, however small its chunks are.
func TestTinyChunks(t *testing.T) {
	b := newBodyIn(t.Context(), nil, 1)
	n := 0
	for b.push([]byte("x")) {
		n++
	}
	kept := 0
	for _, piece := range b.chunks {
		kept += cap(piece.data)
	}
	if n != InitialWindow/(1+chunkCost) || kept > 2*n || len(b.chunks) > n/100 {
		t.Errorf("%d chunks of a byte are kept in %d pieces of %d bytes in all", n, len(b.chunks), kept)
	}
}

// TestCallerBreaksRules: the function's body fails, and its context ends.
func TestCallerBreaksRules(t *testing.T) {
	type result struct{ body, ctx error }
	got := make(chan result, 1)
	_, p := dial(t, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		go func() {
			<-in.Context().Done() // reads nothing until then
			_, err := io.Copy(io.Discard, in.Body())
			got <- result{err, context.Cause(in.Context())}
			in.ReplyError(err)
		}()
	}})
	p.send(Frame{Type: TypeRequest, ID: 1, More: true, Header: Header{Func: "f"}})
	for range InitialWindow/ChunkSize + 1 {
		p.send(Frame{Type: TypeChunk, ID: 1, Payload: make([]byte, ChunkSize)})
	}
	within(t, "the function's end", func() {
		if r := <-got; KindOf(r.body) != BadInput || KindOf(r.ctx) != BadInput {
			t.Errorf("%+v", r)
		}
	})
	for f := p.next(); f.Type != TypeReply; f = p.next() {
	}
}

// TestCancelOfStreamedReply: the callee ends the body, and the place is free again.
func TestCancelOfStreamedReply(t *testing.T) {
	sent := make(chan error, 1)
	c, p := dial(t, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		go func() { sent <- in.ReplyBody(Header{}, strings.NewReader(strings.Repeat("x", 1<<20))) }()
	}})
	p.send(request(1, "f"))
	for sum := 0; sum < InitialWindow-ChunkSize; sum += len(p.next().Payload) {
	}
	p.send(Frame{Type: TypeCancel, ID: 1}, Frame{Type: TypeCancel, ID: 1})
	within(t, "the end of sending", func() {
		if err := <-sent; KindOf(err) != Canceled {
			t.Error(err)
		}
	})
	f := p.next()
	for ; f.Type == TypeChunk; f = p.next() {
	}
	if f.Type != TypeEnd || f.Header.Kind != Canceled {
		t.Errorf("ended with %v", &f)
	}
	if in, _ := c.InFlight(); in != 0 {
		t.Errorf("%d in flight", in)
	}
}

// TestRepliesCrossingCancels races the two, many times over: each call ends once, and nothing is left.
func TestRepliesCrossingCancels(t *testing.T) {
	a, b := socketPair(t)
	server := run(t, b, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		go func() {
			if in.Payload[0]%2 == 0 {
				in.Reply(Header{}, in.Payload)
				return
			}
			in.ReplyBody(Header{}, bytes.NewReader(make([]byte, 100<<10)))
		}()
	}})
	c := run(t, a, Config{Opener: true})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				if j%4 > 0 {
					time.AfterFunc(time.Duration(j%8*10)*time.Microsecond, cancel)
				}
				r, err := c.Call(ctx, &Request{Header: Header{Func: "f"}, Payload: []byte{byte(i + j)}, Body: strings.NewReader("body")})
				if err == nil {
					_, err = r.Bytes(1 << 20)
					if r.Body != nil {
						r.Body.Close()
					}
				}
				if err != nil && (KindOf(err) != Canceled || j%4 == 0) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	settle(t, c)
	settle(t, server)
}

// settle waits until nothing is in flight.
func settle(t testing.TB, c *Conn) {
	t.Helper()
	within(t, "an idle connection", func() {
		for in, out := c.InFlight(); in+out > 0; in, out = c.InFlight() {
			c.Ping(context.Background()) // one round trip on
		}
	})
}

func TestOverloadAndNumbers(t *testing.T) {
	c, p := dial(t, Config{
		MaxInbound: 1, Hello: Hello{Functions: []string{"hold", "echo"}},
		Accept: func(c *Conn, f *Frame) {
			if f.Header.Func == "hold" {
				c.Inbound(context.Background(), f)
				return
			}
			echoInline(c, f)
		},
	})
	number := func(id, n uint32) Frame { return Frame{Type: TypeRequest, ID: id, Header: Header{FuncNum: n}} }
	p.send(number(1, 2), number(3, 3), number(5, 1), number(7, 2))
	want := []struct {
		id   uint32
		kind Kind
	}{{1, 0}, {3, NotFound}, {7, Overloaded}}
	for _, w := range want {
		f := p.next()
		if f.ID != w.id || f.Header.Kind != w.kind || (w.kind == Overloaded) != (f.Header.RetryAfter > 0) {
			t.Errorf("%v, want %v", &f, w)
		}
	}
	if in, _ := c.InFlight(); in != 1 {
		t.Errorf("%d in flight", in)
	}
}

func TestNobodyAccepts(t *testing.T) {
	_, p := dial(t, Config{})
	p.send(request(1, "f"))
	if f := p.next(); f.Header.Kind != Unsupported {
		t.Errorf("%v", &f)
	}
}

// TestPanicEndsOneConnection, and not the process.
func TestPanicEndsOneConnection(t *testing.T) {
	a, b := memoryPair()
	c, err := NewConn(a, Config{Accept: func(*Conn, *Frame) { panic("oh") }})
	if err != nil {
		t.Fatal(err)
	}
	p := newRawPeer(t, b)
	p.send(Frame{Type: TypeHello, Payload: mustHello(t, Hello{})}, request(1, "f"))
	within(t, "the connection's end", func() { err = c.Run() })
	if KindOf(err) != Failed || !strings.Contains(err.Error(), "rules_test.go") {
		t.Errorf("no stack: %v", err)
	}
}

// TestReplyThatCannotBeSent: the caller is told instead of waiting for ever.
func TestReplyThatCannotBeSent(t *testing.T) {
	_, p := dial(t, Config{Accept: func(c *Conn, f *Frame) {
		if err := c.Queue(&Frame{Type: TypeReply, ID: f.ID, Payload: make([]byte, MaxArgs+1)}); KindOf(err) != TooLarge {
			t.Error(err)
		}
		c.FlushLater(c)
	}})
	p.send(request(1, "f"))
	if f := p.next(); f.Type != TypeReply || f.Header.Kind != Failed {
		t.Errorf("%v", &f)
	}
}

// TestRequestThatCannotBeSent costs the call, not the connection.
func TestRequestThatCannotBeSent(t *testing.T) {
	c, p := dial(t, Config{Opener: true})
	for _, req := range []*Request{
		{Header: Header{Func: strings.Repeat("f", 200)}}, {Header: Header{Func: "\xff"}}, {Header: Header{Func: "f"}, Payload: make([]byte, MaxArgs+1)}, {},
	} {
		if _, err := c.Call(t.Context(), req); !KindOf(err).NeverRan() {
			t.Errorf("%v (%v)", err, KindOf(err))
		}
	}
	if frames := p.sync(); len(frames) > 0 {
		t.Errorf("sent %v", frames)
	}
}

// TestFloods: a peer that sends and does not read gets a bounded amount of memory, and is cut off.
func TestFloods(t *testing.T) {
	for name, frame := range map[string]Frame{
		"pings":    {Type: TypePing, ID: 1, Payload: make([]byte, 64)},
		"requests": request(1, "f"),
		"events":   {Type: TypeEvent, Payload: make([]byte, 100)},
		"unknown":  {Type: TypeReply, ID: 99},
	} {
		t.Run(name, func(t *testing.T) {
			deaf := &deafPeer{flood: mustFrame(t, frame), left: 3 << 20, closed: make(chan struct{})}
			deaf.next = mustFrame(t, Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
			c, err := NewConn(deaf, Config{Accept: func(c *Conn, f *Frame) {
				c.Queue(ErrorReply(f.ID, errors.New(strings.Repeat("no ", 1000))))
				c.FlushLater(c)
			}})
			if err != nil {
				t.Fatal(err)
			}
			within(t, "the connection's end", func() { err = c.Run() })
			if n := c.w.waiting(); n > MaxQueued+MaxArgs || name == "pings" && n > longQueue+1000 {
				t.Errorf("%d bytes wait", n)
			}
			if name == "requests" && KindOf(err) != Overloaded {
				t.Errorf("not cut off: %v", err)
			}
		})
	}
}

// deafPeer sends one frame over and over and takes nothing.
type deafPeer struct {
	flood, next []byte
	left        int
	closed      chan struct{}
	once        sync.Once
}

func (d *deafPeer) Read(b []byte) (int, error) {
	n := copy(b, d.next)
	d.next = d.next[n:]
	for n+len(d.flood) <= len(b) && d.left > 0 && len(d.next) == 0 {
		n += copy(b[n:], d.flood)
		d.left -= len(d.flood)
	}
	if n == 0 {
		d.Close()
		return 0, io.EOF
	}
	return n, nil
}

func (d *deafPeer) Write([]byte) (int, error) { <-d.closed; return 0, io.ErrClosedPipe }
func (d *deafPeer) Close() error              { d.once.Do(func() { close(d.closed) }); return nil }

// TestNeverLeft: Unavailable is said only of requests that were not taken whole.
func TestNeverLeft(t *testing.T) {
	for _, taken := range []int{0, 1, 100, 1 << 10, 4 << 10, 10 << 10} {
		narrow := &narrowPeer{room: taken, closed: make(chan struct{})}
		c, err := NewConn(narrow, Config{Opener: true})
		if err != nil {
			t.Fatal(err)
		}
		hello := c.w.queued
		ended := make(chan struct{})
		go func() { defer close(ended); c.Run() }()
		errs := make([]error, 20)
		var wg sync.WaitGroup
		var ends [20]uint64
		for i := range errs {
			f := Frame{Header: Header{Func: "f"}, Payload: make([]byte, 500)}
			sink := &pending{answered: make(chan struct{}, 1)}
			if _, err := c.Open(&f, sink); err != nil {
				t.Fatal(err)
			}
			ends[i] = c.w.queued
			wg.Go(func() { <-sink.answered; errs[i] = sink.err })
		}
		wg.Go(c.Flush) // it waits for this peer
		within(t, "the end", func() {
			<-narrow.full()
			c.Close()
			wg.Wait()
			<-ended
		})
		narrow.mu.Lock()
		left := uint64(narrow.got)
		narrow.mu.Unlock()
		for i, err := range errs {
			kind := KindOf(err)
			if kind == Unavailable && ends[i] <= left || kind != Unavailable && kind != MayHaveRun {
				t.Errorf("%d of %d bytes taken, hello %d, request up to %d: %v", left, taken, hello, ends[i], kind)
			}
			if kind == MayHaveRun && ends[i] > left+maxPiece {
				t.Errorf("%d bytes taken, request up to %d cannot have run", left, ends[i])
			}
		}
	}
}

// narrowPeer takes room bytes and then no more; it sends nothing.
type narrowPeer struct {
	mu     sync.Mutex
	room   int
	got    int
	isFull chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (n *narrowPeer) full() chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.isFull == nil {
		n.isFull = make(chan struct{})
	}
	return n.isFull
}

func (n *narrowPeer) Write(b []byte) (int, error) {
	full := n.full()
	n.mu.Lock()
	k := min(len(b), n.room)
	n.room, n.got = n.room-k, n.got+k
	n.mu.Unlock()
	if k == len(b) {
		return k, nil
	}
	n.once.Do(func() { close(full) })
	<-n.closed
	return k, io.ErrClosedPipe
}

func (n *narrowPeer) Read([]byte) (int, error) { <-n.closed; return 0, io.EOF }
func (n *narrowPeer) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	return nil
}

// TestIDs: they keep their parity, are never 0, and none is used twice, also when they wrap around.
func TestIDs(t *testing.T) {
	for _, opener := range []bool{true, false} {
		c, _ := dial(t, Config{Opener: opener})
		c.mu.Lock()
		first := c.newID()
		c.calls.add(first, entry{sink: discard{}}) // a call that lasts
		c.nextID = ^uint32(0) - 9 + first%2
		seen := map[uint32]bool{first: true}
		for range 20 {
			id := c.newID()
			if id == 0 || id%2 != first%2 || seen[id] {
				t.Errorf("opener %t: id %d after the wrap", opener, id)
			}
			seen[id] = true
		}
		if (first == 1) != opener || !opener && first != 2 {
			t.Errorf("opener %t: the first id is %d", opener, first)
		}
		c.calls.remove(first)
		c.mu.Unlock()
	}
}

// TestEndedConnection: whatever comes after the end is told so, at once.
func TestEndedConnection(t *testing.T) {
	c, p := dial(t, Config{Opener: true})
	var late *Conn
	c2, p2 := dial(t, Config{Accept: func(c *Conn, f *Frame) {
		c.Close()
		in := c.Inbound(context.Background(), f)
		if in.Context().Err() == nil {
			t.Error("a call of an ended connection goes on")
		}
		r := NewRelay(c, f, func(k Kind, _ time.Time) { late = c })
		r.To(c, f, false)
	}})
	p2.send(Frame{Type: TypeRequest, ID: 1, Header: Header{Func: "f"}})
	<-c2.Done()
	c2.tasks.Wait()
	if late == nil {
		t.Error("a relay of an ended connection does not end")
	}
	p.conn.Close()
	<-c.Done()
	for _, err := range []error{
		second(c.Call(t.Context(), &Request{Header: Header{Func: "f"}})), second(c.Ping(t.Context())), c.Send(&Frame{Type: TypeGoaway}), c.Drain(t.Context(), ""),
	} {
		if err != nil && KindOf(err) != Unavailable {
			t.Error(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestBodyIsNotReadAfterAnError, so that it can be rewound and sent elsewhere.
func TestBodyIsNotReadAfterAnError(t *testing.T) {
	for range 50 {
		c, p := dial(t, Config{Opener: true})
		body := &watchedBody{ReadSeeker: bytes.NewReader(make([]byte, 1<<20))}
		done := make(chan error, 1)
		go func() { done <- second(c.Call(t.Context(), &Request{Header: Header{Func: "f"}, Body: body})) }()
		p.send(*ErrorReply(p.next().ID, Errorf("", Overloaded, "no room")))
		within(t, "the error", func() { <-done })
		body.over.Store(true)
		p.sync()
		if body.late.Load() {
			t.Fatal("read after Call has returned")
		}
		c.Close()
	}
}

type watchedBody struct {
	io.ReadSeeker
	over, late atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if b.over.Load() {
		b.late.Store(true)
	}
	return b.ReadSeeker.Read(p)
}

// TestLockstep: a body's bytes arrive while its sender waits for the answer to them.
func TestLockstep(t *testing.T) {
	c := chain(t, echoStream)
	r, w := io.Pipe()
	reply, err := c.Call(t.Context(), &Request{Header: Header{Func: "echo"}, Body: r})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the echoes", func() {
		for i := range 10 {
			text := fmt.Sprint("line ", i)
			if _, err := io.WriteString(w, text); err != nil {
				t.Error(err)
			}
			got := make([]byte, len(text))
			if _, err := io.ReadFull(reply.Body, got); err != nil || string(got) != text {
				t.Errorf("%q %v", got, err)
			}
		}
		w.Close()
		if rest, err := io.ReadAll(reply.Body); len(rest) > 0 || err != nil {
			t.Errorf("%q %v", rest, err)
		}
	})
}

// TestAbandonedBody: closing a reply's body ends the callee's sending and the caller's.
func TestAbandonedBody(t *testing.T) {
	sent := make(chan error, 1)
	a, b := socketPair(t)
	server := run(t, b, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		go func() { sent <- in.ReplyBody(Header{}, zeros{}) }()
	}})
	c := run(t, a, Config{Opener: true})
	reply, err := c.Call(t.Context(), &Request{Header: Header{Func: "f"}, Body: zeros{}})
	if err != nil {
		t.Fatal(err)
	}
	io.CopyN(io.Discard, reply.Body, 1<<20)
	reply.Body.Close()
	within(t, "the end of sending", func() {
		if err := <-sent; KindOf(err) != Canceled {
			t.Error(err)
		}
	})
	settle(t, c)
	settle(t, server)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestTextIsClean: what a peer says may be printed.
func TestTextIsClean(t *testing.T) {
	c, p := dial(t, Config{Opener: true})
	done := make(chan error, 1)
	go func() { done <- second(c.Call(t.Context(), &Request{Header: Header{Func: "f"}})) }()
	p.send(Frame{Type: TypeReply, ID: p.next().ID, Header: Header{Kind: FuncError, Hint: "try\x1b[2J"}, Payload: []byte("no\x1b]0;x\a \xff\u009b\nway")})
	err := <-done
	if err.Error() != "no?]0;x? ??\nway" || HintOf(err) != "try?[2J" {
		t.Errorf("%q, %q", err, HintOf(err))
	}
}

func TestCutText(t *testing.T) {
	for _, c := range []struct {
		in, out string
		limit   int
	}{
		{"short", "short", 10}, {"exactly10!", "exactly10!", 10}, {"longer than that", "longer", 6},
		{"αβγ", "αβ", 5}, {"αβγ", "αβγ", 6}, {"a\xffb", "a?b", 10}, {"€", "", 2}, {"", "", 0},
	} {
		if got := cutText(c.in, c.limit); got != c.out {
			t.Errorf("%q cut to %d is %q, want %q", c.in, c.limit, got, c.out)
		}
	}
}
