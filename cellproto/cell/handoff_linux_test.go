package cell

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// handOver starts a program that takes connections, and gives one to it.
func handOver(t testing.TB, functions ...*Function) (p *program, caller *cellproto.Conn) {
	t.Helper()
	return handOverTo(t, Config{}, nil, functions...)
}

// handOverTo is handOver with a configuration, and a caller that was made for a schema.
func handOverTo(t testing.TB, cfg Config, made []byte, functions ...*Function) (p *program, caller *cellproto.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	cfg.handoff = os.NewFile(uintptr(fds[1]), "handoff")
	p = start(t, programConfig{Config: cfg}, functions...)
	if _, err := p.PeerHello(limited(t)); err != nil { // as the nucleus does
		t.Fatal(err)
	}
	page, err := unix.MemfdCreate("page", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(page)
	if err := unix.Ftruncate(page, cellproto.PageSize); err != nil {
		t.Fatal(err)
	}
	send := func(h cellproto.Handoff, fd int) {
		b, err := h.Append(nil)
		if err == nil {
			err = unix.Sendmsg(fds[0], b, unix.UnixRights(fd), nil, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	send(cellproto.Handoff{Type: cellproto.HandoffPage}, page)
	near, far := socketPair(t)
	raw, err := far.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { send(cellproto.Handoff{Type: cellproto.HandoffConn, ID: 1}, int(fd)) }); err != nil {
		t.Fatal(err)
	}
	far.Close()
	caller, err = cellproto.NewConn(near, cellproto.Config{Opener: true, Hello: cellproto.Hello{MadeFor: made}})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	go func() { defer close(ran); caller.Run() }()
	t.Cleanup(func() { caller.Close(); <-ran })
	return p, caller
}

// TestRawCallsAllocateNothing: neither in the caller nor in the program, over a connection that was handed
// over. The contexts of calls are allocated 32 at a time, which is less than once a call.
func TestRawCallsAllocateNothing(t *testing.T) {
	_, caller := handOver(t, FuncRaw("echo", echo))
	ready := make(chan struct{})
	close(ready)
	l := &Local{cfg: LocalConfig{Dir: "."}, cur: &localConn{ready: ready, conn: caller}}
	args, room := make([]byte, 200), make([]byte, 0, 200)
	ctx := context.Background()
	call := func() {
		got, err := l.CallRaw(ctx, "echo", args, room)
		if err != nil || len(got) != len(args) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	call() // buffers and pools fill
	if n := testing.AllocsPerRun(2000, call); n != 0 {
		t.Errorf("%v allocations for each call", n)
	}
}

// TestNothingBeginsWithoutANucleus: once the nucleus is gone, calls that come over connections of callers
// do not run: their contexts have ended before they begin.
func TestNothingBeginsWithoutANucleus(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	var ran atomic.Int64
	p, caller := handOver(t,
		FuncRaw("busy", func(context.Context, []byte) ([]byte, error) { close(began); <-release; return nil, nil }).Slow(),
		FuncRaw("count", func(ctx context.Context, _ []byte) ([]byte, error) { ran.Add(1); return nil, ctx.Err() }))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	busy := make(chan error, 1)
	go func() {
		_, err := caller.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "busy"}})
		busy <- err
	}()
	<-began
	p.Close()
	<-p.Done()
	time.Sleep(100 * time.Millisecond)
	_, err := caller.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "count"}})
	if err == nil || !cellproto.KindOf(err).NeverRan() {
		t.Errorf("a call that came too late: %v (%v)", err, cellproto.KindOf(err))
	}
	if n := ran.Load(); n != 0 {
		t.Errorf("it ran %d times", n)
	}
	close(release)
	if err := <-busy; err != nil {
		t.Logf("the call that was in flight: %v", err)
	}
}

// A caller that the program serves itself says in its hello by which version it knows the cell.
func TestHandedOverCallersOfOlderVersions(t *testing.T) {
	cfg := Config{Name: "maths", Older: [][]*Function{{Func("mul", mulPair)}}}
	old, err := newServer(Config{Name: "maths"}, cfg.Older[0])
	if err != nil {
		t.Fatal(err)
	}
	hash := old.schema.Hash()
	for _, tc := range []struct {
		made []byte
		args string
		meta map[string]string
		kind cellproto.Kind
	}{
		{hash[:], `{"a":3,"b":4}`, nil, 0},
		{hash[:], `{"left":3,"right":4}`, nil, cellproto.BadInput},
		{nil, `{"left":3,"right":4}`, nil, 0},
		{nil, `{"left":3,"right":4}`, map[string]string{cellproto.MetaSchema: hash.String()}, 0}, // that is for the nucleus to say
		{make([]byte, len(hash)), `{"left":3,"right":4}`, nil, 0},
	} {
		_, caller := handOverTo(t, cfg, tc.made, Func("mul", mulFactors))
		_, err := caller.Call(limited(t), &cellproto.Request{
			Header: cellproto.Header{Func: "mul", Codec: cellproto.JSON, Meta: tc.meta}, Payload: []byte(tc.args),
		})
		if cellproto.KindOf(err) != tc.kind {
			t.Errorf("%s, made for %x: %v", tc.args, tc.made, err)
		}
	}
}

// TestTakenBack: a program takes the connections that are there when it begins, but none that the nucleus has taken back.
func TestTakenBack(t *testing.T) {
	for _, back := range []bool{false, true} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[0])
		page, err := unix.MemfdCreate("page", unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(page, cellproto.PageSize)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(page)
		mem, err := unix.Mmap(page, 0, cellproto.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(mem)
		if back && !cellproto.NewPage(mem, 1).TakeBack() {
			t.Fatal("the page is new")
		}
		near, far := socketPair(t)
		file, err := far.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []struct {
			cellproto.Handoff
			fd int
		}{{cellproto.Handoff{Type: cellproto.HandoffPage}, page}, {cellproto.Handoff{Type: cellproto.HandoffConn, ID: 1}, int(file.Fd())}} {
			b, err := m.Append(nil)
			if err == nil {
				err = unix.Sendmsg(fds[0], b, unix.UnixRights(m.fd), nil, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		file.Close()
		far.Close()
		s, err := newServer(Config{Name: "x"}.withDefaults(), []*Function{FuncRaw("echo", echo)})
		if err != nil {
			t.Fatal(err)
		}
		s.base, s.stop = context.WithCancel(context.Background())
		h := s.newHandoff(os.NewFile(uintptr(fds[1]), "handoff"))
		s.handoff = h
		h.start()
		h.mu.Lock()
		conns := len(h.conns)
		h.mu.Unlock()
		if want := map[bool]int{true: 0, false: 1}[back]; conns != want {
			t.Errorf("taken back %v: %d connections are served, want %d", back, conns, want)
		}
		near.Close()
		h.close()
		s.stop()
	}
}
