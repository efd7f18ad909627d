package call

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
)

// dial opens a connection of frames to a provider, as a caller would that is not ours.
func dial(t testing.TB, from host.Host, p *provider) *cellproto.Conn {
	t.Helper()
	if err := from.Connect(t.Context(), infoOf(p.host)); err != nil {
		t.Fatal(err)
	}
	s, err := from.NewStream(t.Context(), p.host.ID(), cellproto.ProtocolCall)
	if err != nil {
		t.Fatal(err)
	}
	return runConn(t, stream{s})
}

func runConn(t testing.TB, over cellproto.Transport) *cellproto.Conn {
	t.Helper()
	c, err := cellproto.NewConn(over, cellproto.Config{Opener: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); c.Run() }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func ask(t testing.TB, c *cellproto.Conn, req *cellproto.Request) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reply, err := c.Call(ctx, req)
	if err != nil {
		return nil, err
	}
	return reply.Bytes(4 << 20)
}

// hold keeps every call of a program until release is called.
func hold(p *provider) (release func()) {
	gate := make(chan struct{})
	p.program.handle = func(in *cellproto.Inbound) { <-gate; answer(in) }
	return sync.OnceFunc(func() { close(gate) })
}

// begin starts n calls and waits until they are in flight; the returned function waits for their end.
func begin(t *testing.T, c *cellproto.Conn, p *provider, n int) (wait func()) {
	t.Helper()
	var calls sync.WaitGroup
	before := p.server.Load().InFlight
	for range n {
		calls.Go(func() {
			if _, err := ask(t, c, request("echo", "x")); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "the calls are in flight", func() bool { return p.server.Load().InFlight == before+n })
	return calls.Wait
}

func TestOverload(t *testing.T) {
	cell := publish(t, testSchema())
	full := func(t *testing.T, c *cellproto.Conn) {
		t.Helper()
		_, err := ask(t, c, request("echo", "x"))
		wantKind(t, err, cellproto.Overloaded)
		if cellproto.RetryAfterOf(err) <= 0 {
			t.Errorf("%v says no time to wait", err)
		}
	}
	t.Run("one peer, two connections", func(t *testing.T) {
		p := provide(t, cell, nil)
		release := hold(p)
		defer release()
		h, _ := newHost(t)
		a, b := dial(t, h, p), dial(t, h, p)
		wait := begin(t, a, p, cellproto.MaxStreamsPeer/2)
		wait2 := begin(t, b, p, cellproto.MaxStreamsPeer/2)
		full(t, a)
		full(t, b)
		other, _ := newHost(t)
		wait3 := begin(t, dial(t, other, p), p, 1) // others have room
		release()
		wait()
		wait2()
		wait3()
		if _, err := ask(t, a, request("echo", "x")); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
	t.Run("the nucleus", func(t *testing.T) {
		p := provide(t, cell, func(cfg *ServerConfig) { cfg.MaxInFlight = 3 })
		release := hold(p)
		defer release()
		h, _ := newHost(t)
		other, _ := newHost(t)
		wait := begin(t, dial(t, h, p), p, 3)
		full(t, dial(t, other, p))
		release()
		wait()
	})
	t.Run("the program", func(t *testing.T) {
		p := provide(t, cell, nil)
		p.program.places = 2
		release := hold(p)
		defer release()
		h, _ := newHost(t)
		c := dial(t, h, p)
		wait := begin(t, c, p, 2)
		full(t, c)
		eventually(t, "the one that was refused is not in flight", func() bool { return p.server.Load().InFlight == 2 })
		release()
		wait()
	})
	t.Run("512", func(t *testing.T) {
		p := provide(t, cell, nil)
		release := hold(p)
		defer release()
		near, far := unixPair(t)
		go p.server.Serve(context.Background(), far, Who{UID: os.Getuid(), Owner: true})
		wait := begin(t, runConn(t, near), p, cellproto.MaxStreams)
		h, _ := newHost(t)
		full(t, dial(t, h, p))
		release()
		wait()
	})
}

// What is malformed does not start the program.
func TestBadInput(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	h, _ := newHost(t)
	c := dial(t, h, p)
	for args, kind := range map[string]cellproto.Kind{
		`{"text":1}`:              cellproto.BadInput,
		`{"text":"x","text":"y"}`: cellproto.BadInput,
		`{"text":"x","more":1}`:   cellproto.BadInput,
		`{}`:                      cellproto.BadInput,
		`{"text":"`:               cellproto.BadInput,
		"{\"text\":\"\xff\"}":     cellproto.BadInput,
		strings.Repeat(`[`, 100):  cellproto.TooLarge,
		`{"text":"` + strings.Repeat("x", cellproto.MaxArgs) + `"}`: cellproto.TooLarge,
	} {
		req := request("echo", "")
		req.Payload = []byte(args)
		_, err := ask(t, c, req)
		if cellproto.KindOf(err) != kind {
			t.Errorf("%.40s: %v (%v)", args, err, cellproto.KindOf(err))
		}
	}
	_, err := ask(t, c, request("none", "x"))
	wantKind(t, err, cellproto.NotFound)
	_, err = ask(t, c, request("cell.none", "x"))
	wantKind(t, err, cellproto.NotFound)
	if p.program.starts.Load() != 0 || p.program.begun.Load() != 0 {
		t.Error("the program was started for nothing")
	}
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Errorf("the connection is of no use any more: %v", err)
	}
}

// A caller's meta reaches the program, with who it is, which it cannot set; and it cannot have so
// much of it that the program takes the frame for a broken one.
func TestMeta(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	h, _ := newHost(t)
	c := dial(t, h, p)
	req := request("echo", "x")
	req.Header.Meta = map[string]string{"peer": "somebody else", "k": "v"}
	if _, err := ask(t, c, req); err != nil {
		t.Fatal(err)
	}
	if m := p.program.metas[0]; m["peer"] != peerText(h) || m["k"] != "v" || len(m) != 2 {
		t.Errorf("meta %v", m)
	}
	req.Header.Meta = map[string]string{}
	for i := range maxMeta {
		req.Header.Meta[fmt.Sprint(i)] = "x"
	}
	_, err := ask(t, c, req)
	wantKind(t, err, cellproto.TooLarge)
	if _, err := ask(t, c, request("echo", "x")); err != nil || p.program.starts.Load() != 1 {
		t.Errorf("the program was lost: %v, %d starts", err, p.program.starts.Load())
	}
}

func TestSchemaIsShownToThoseWhoMayCall(t *testing.T) {
	big := testSchema()
	for i := range 700 {
		big.Functions[fmt.Sprintf("f%03d", i)] = cellproto.Function{Doc: strings.Repeat("x", 100)}
	}
	for name, schema := range map[string]*cellproto.Schema{"small": testSchema(), "more than a chunk": big} {
		cell := publish(t, schema)
		p := provide(t, cell, nil)
		h, _ := newHost(t)
		got, err := ask(t, dial(t, h, p), &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}})
		if err != nil || string(got) != string(schema.Canonical()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		eventually(t, "nothing is in flight", func() bool { return p.server.Load().InFlight == 0 })
	}
	cell := publish(t, testSchema())
	h, _ := newHost(t)
	hidden := provide(t, cell, func(cfg *ServerConfig) { cfg.ShowSchema = false })
	_, err := ask(t, dial(t, h, hidden), &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}})
	wantKind(t, err, cellproto.Denied)
	asking := provide(t, cell, simple)
	_, err = ask(t, dial(t, h, asking), &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}})
	wantKind(t, err, cellproto.Denied)
}

// A new version that does not serve the callers of the old one lets their calls end and sends them away.
func TestSetSendsCallersAway(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	release := hold(p)
	defer release()
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(t.Context(), cell.id.String(), request("echo", "x"))
		done <- err
	}()
	eventually(t, "the call is in flight", func() bool { return p.server.Load().InFlight == 1 })
	next, err := NewServing("bafynext", cell.schema)
	if err != nil {
		t.Fatal(err)
	}
	p.server.Set(next)
	eventually(t, "the caller was told", func() bool {
		return c.links.live(cellproto.PeerID(peerText(p.host)), cell.id.String(), "") == nil
	})
	release()
	if err := <-done; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	_, err = try(t, c, cell.id.String(), request("once", "x"))
	wantKind(t, err, cellproto.NotFound)
}

// Close lets calls end that do, cuts off those that do not, and hangs on nobody: not on a program
// that does not answer, one that does not start, nor on peers that do not read or say nothing.
func TestCloseIsBounded(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	p.program.handle = silent
	h, _ := newHost(t)
	c := dial(t, h, p)
	lost := make(chan error, 1)
	go func() { _, err := ask(t, c, request("once", "x")); lost <- err }()
	eventually(t, "the call is in flight", func() bool { return p.server.Load().InFlight == 1 })

	deaf, _ := newHost(t)
	s := deafStream(t, deaf, p)
	defer s.Reset()
	mute, err := h.NewStream(t.Context(), p.host.ID(), cellproto.ProtocolCall)
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Reset()
	_, _ = mute.Write([]byte{0})

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	p.server.Close(ctx)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	wantKind(t, <-lost, cellproto.MayHaveRun)
	if err := p.server.Serve(context.Background(), failing{}, Who{Owner: true}); cellproto.KindOf(err) != cellproto.Unavailable {
		t.Errorf("a connection after Close: %v", err)
	}
}

// failing is a transport that is closed.
type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, os.ErrClosed }
func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }
func (failing) Close() error              { return nil }

// deafStream asks for more than it ever reads.
func deafStream(t *testing.T, h host.Host, p *provider) network.Stream {
	t.Helper()
	if err := h.Connect(t.Context(), infoOf(p.host)); err != nil {
		t.Fatal(err)
	}
	s, err := h.NewStream(t.Context(), p.host.ID(), cellproto.ProtocolCall)
	if err != nil {
		t.Fatal(err)
	}
	hello := cellproto.Hello{}
	payload, err := hello.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cellproto.AppendFrame(nil, &cellproto.Frame{Type: cellproto.TypeHello, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	for id := range uint32(200) {
		out, err = cellproto.AppendFrame(out, &cellproto.Frame{
			Type: cellproto.TypeRequest, ID: 2*id + 1, Header: cellproto.Header{Func: cellproto.FuncSchema},
			Payload: make([]byte, 10),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Write(out); err != nil {
		t.Fatal(err)
	}
	return s
}

// A peer that asks and never reads what it is answered costs others nothing.
func TestDeafPeer(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	p.program.handle = func(in *cellproto.Inbound) {
		in.Reply(cellproto.Header{}, make([]byte, cellproto.ChunkSize))
	}
	attacker, _ := newHost(t)
	if err := attacker.Connect(t.Context(), infoOf(p.host)); err != nil {
		t.Fatal(err)
	}
	s, err := attacker.NewStream(t.Context(), p.host.ID(), cellproto.ProtocolCall)
	if err != nil {
		t.Fatal(err)
	}
	hello := cellproto.Hello{}
	payload, _ := hello.Marshal()
	out, _ := cellproto.AppendFrame(nil, &cellproto.Frame{Type: cellproto.TypeHello, Payload: payload})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for id := uint32(1); ; id += 2 {
			out, _ = cellproto.AppendFrame(out, &cellproto.Frame{
				Type: cellproto.TypeRequest, ID: id, Header: cellproto.Header{Func: "echo", Codec: cellproto.JSON}, Payload: []byte(`{"text":"x"}`),
			})
			if _, err := s.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
	}()
	defer func() { s.Reset(); <-stopped }()
	eventually(t, "the attacker has had some answers", func() bool { return p.server.Load().Served > 20 })
	honest, _ := newHost(t)
	c := dial(t, honest, p)
	for range 50 {
		if _, err := ask(t, c, request("echo", "x")); err != nil {
			t.Fatal(err)
		}
	}
}

// A program that cannot be started, and one that leaves just when it is asked.
func TestWake(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	h, _ := newHost(t)
	c := dial(t, h, p)
	p.program.broken = cellproto.Errorf("start", cellproto.Unavailable, "it is broken").WithHint("mend it")
	_, err := ask(t, c, request("once", "x"))
	wantKind(t, err, cellproto.Unavailable)
	if cellproto.HintOf(err) != "mend it" {
		t.Errorf("the hint got lost: %v", err)
	}
	p.program.broken = nil
	var calls sync.WaitGroup
	for range 30 {
		calls.Go(func() {
			if _, err := ask(t, c, request("once", "x")); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := p.program.starts.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
	if load := p.server.Load(); load.InFlight != 0 || load.Served != 30 || p.program.inFlight.Load() != 0 {
		t.Errorf("load %+v, %d in the program", load, p.program.inFlight.Load())
	}
}

// A request that makes the nucleus panic costs its caller the connection, and nobody else anything.
func TestPanicIsContained(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	p.server.deps.Outgoing = func(*cellproto.Conn, *cellproto.Frame) { panic(errors.New("a bug")) }
	near, far := unixPair(t)
	go p.server.Serve(context.Background(), far, Who{UID: os.Getuid(), Owner: true})
	req := request("echo", "x")
	req.Header.To = "somewhere"
	_, err := ask(t, runConn(t, near), req)
	wantKind(t, err, cellproto.MayHaveRun)
	h, _ := newHost(t)
	if _, err := ask(t, dial(t, h, p), request("echo", "x")); err != nil {
		t.Error(err)
	}
}
