package call

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// admit serves a caller on a Unix socket, and gives the caller's end.
func admit(t *testing.T, s *Server, who Who) *cellproto.Conn {
	t.Helper()
	near, far := unixPair(t)
	run, err := s.Admit(context.Background(), far, who)
	if err != nil {
		t.Fatal(err)
	}
	go run() // the server's Close waits for it
	return runConn(t, near)
}

// successorOf makes another server for the same cell and program.
func successorOf(t *testing.T, p *provider, cell *published, change func(*ServerConfig)) *Server {
	t.Helper()
	cfg := ServerConfig{Name: "fake", Agent: "test", Challenge: cellproto.AuthNone, ShowSchema: true, OwnerUID: os.Getuid()}
	if change != nil {
		change(&cfg)
	}
	s := NewServer(cfg, ServerDeps{Program: p.program, Identity: Identity{Peer: p.host.ID(), Host: p.key}, Log: zap.NewNop()})
	serving, err := NewServing(cellproto.CellID(cell.id.String()), cell.schema)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(serving)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(ctx)
	})
	return s
}

func TestHandOverCallers(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, simple)
	owner := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	stranger := admit(t, p.server, Who{UID: 4711})
	silent, theirs := unixPair(t) // one that says no hello
	if run, err := p.server.Admit(context.Background(), theirs, Who{UID: os.Getuid(), Owner: true}); err != nil {
		t.Fatal(err)
	} else {
		go run()
	}
	_, key := newHost(t)
	subject := signed.SubjectUID(4711)
	if _, err := ask(t, stranger, proof(t, stranger, p, key, subject, nil)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*cellproto.Conn{owner, stranger} {
		if _, err := ask(t, c, request("echo", "before")); err != nil {
			t.Fatal(err)
		}
	}
	p.server.Hold()
	held := make(chan error, 2)
	for _, c := range []*cellproto.Conn{owner, stranger} {
		go func() { _, err := ask(t, c, request("echo", "held")); held <- err }()
	}
	eventually(t, "nobody is expected to say hello any more", func() bool { return p.server.Busy() == 0 })
	carried, err := p.server.Suspend(t.Context(), false)
	if err != nil || len(carried) != 2 {
		t.Fatalf("%d carried, %v", len(carried), err)
	}
	for _, err := silent.Read(make([]byte, 4096)); err == nil; _, err = silent.Read(make([]byte, 4096)) {
	} // it ends
	counts, err := p.server.Counts()
	if err != nil {
		t.Fatal(err)
	}
	next := successorOf(t, p, cell, simple)
	next.Count(counts)
	if served := next.Load().Served; served != 2 {
		t.Errorf("%d served", served)
	}
	for _, c := range carried {
		go next.Resume(context.Background(), c.Transport, c.Who, c.Handed)
	}
	for range 2 {
		if err := <-held; err != nil {
			t.Errorf("a call that was held: %v", err)
		}
	}
	// The stranger's challenge was used, and stays so.
	_, err = ask(t, stranger, proof(t, stranger, p, key, subject, nil))
	wantKind(t, err, cellproto.Denied)
	if n := p.program.begun.Load(); n != 4 {
		t.Errorf("%d calls have begun, not 4", n)
	}
	if n := next.Load().Served; n != 4 {
		t.Errorf("%d served", n)
	}
}

// A call in flight is not cut, and everything goes on here.
func TestHandOverBusyCallers(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	release := hold(p)
	a := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	b := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	if _, err := b.Ping(t.Context()); err != nil { // its hello is there
		t.Fatal(err)
	}
	wait := begin(t, a, p, 1)
	p.server.Hold()
	eventually(t, "somebody is busy", func() bool { return p.server.Busy() > 0 })
	later := make(chan error, 1)
	go func() { _, err := ask(t, b, request("echo", "later")); later <- err }()
	if _, err := p.server.Suspend(t.Context(), false); cellproto.KindOf(err) != cellproto.Overloaded {
		t.Errorf("%v", err)
	}
	release()
	wait()
	p.server.Release()
	if err := <-later; err != nil {
		t.Error(err)
	}
	if _, err := ask(t, a, request("echo", "x")); err != nil {
		t.Error(err)
	}
}

// With cut, who cannot be carried is ended, and the others are carried.
func TestHandOverCut(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	release := hold(p)
	defer release()
	a := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	b := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	cut := make(chan error, 1)
	go func() { _, err := ask(t, a, request("echo", "x")); cut <- err }()
	if _, err := b.Ping(t.Context()); err != nil { // its hello is there
		t.Fatal(err)
	}
	eventually(t, "it is in flight", func() bool { return p.server.Load().InFlight == 1 })
	p.server.Hold()
	carried, err := p.server.Suspend(t.Context(), true)
	if err != nil || len(carried) != 1 {
		t.Errorf("%d carried, %v", len(carried), err)
	}
	wantKind(t, <-cut, cellproto.MayHaveRun)
	for _, c := range carried {
		c.Transport.Close()
	}
	<-b.Done()
}

func TestCut(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	release := hold(p)
	defer release()
	a := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	b := admit(t, p.server, Who{UID: os.Getuid(), Owner: true})
	cut := make(chan error, 1)
	go func() { _, err := ask(t, a, request("echo", "x")); cut <- err }()
	eventually(t, "it is in flight", func() bool { return p.server.Load().InFlight == 1 })
	p.server.Cut()
	wantKind(t, <-cut, cellproto.MayHaveRun)
	select {
	case <-b.Done():
		t.Error("one without a call was cut, too")
	default:
	}
}

func TestLeave(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	h, _ := newHost(t)
	release := hold(p)
	c := dial(t, h, p)
	wait := begin(t, c, p, 2)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if left := p.server.Leave(short); left != 2 {
		t.Errorf("%d calls are left, not 2", left)
	}
	if !c.Leaving() {
		t.Error("the peer was not told")
	}
	late := dial(t, h, p) // it is refused
	if _, err := ask(t, late, request("echo", "x")); err == nil {
		t.Error("a peer was let in")
	}
	p.server.Welcome()
	release()
	wait() // without an error
	again := dial(t, h, p)
	if _, err := ask(t, again, request("echo", "x")); err != nil {
		t.Error(err)
	}
	if left := p.server.Leave(t.Context()); left != 0 {
		t.Errorf("%d calls are left", left)
	}
	<-again.Done()
}

func TestResumeCorrupt(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	for _, bad := range []Handed{{}, {Conn: []byte{1}}} {
		near, far := unixPair(t)
		if err := p.server.Resume(t.Context(), far, Who{Owner: true}, bad); err == nil {
			t.Errorf("%+v was resumed", bad)
		}
		if n, err := near.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes from a connection that should be closed", n)
		}
	}
	p.server.Count(HandedServer{Served: -1, Last: 1 << 62, Latency: []byte("x")})
	if l := p.server.Load(); l.Served != 0 || l.P50 != 0 || l.LastEnded.After(time.Now()) {
		t.Errorf("%+v", l)
	}
}
