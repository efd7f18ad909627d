package call

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// crash ends the program as kill -9 would. The next one starts when it is asked for.
func (p *fakeProgram) crash() {
	p.mu.Lock()
	near, far := p.near, p.far
	p.near, p.far = nil, nil
	p.mu.Unlock()
	if near != nil {
		far.Close()
		<-near.Done()
	}
}

// onSocket gives a connection of the owner's to a provider's nucleus.
func onSocket(t *testing.T, p *provider) *cellproto.Conn {
	t.Helper()
	near, far := unixPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.server.Serve(context.Background(), far, Who{UID: os.Getuid(), Owner: true})
	}()
	t.Cleanup(func() { near.Close(); <-done })
	return runConn(t, near)
}

// TestLostProgram has a program that dies under calls of each kind.
func TestLostProgram(t *testing.T) {
	cell := publish(t, testSchema())
	for name, c := range map[string]struct {
		req    *cellproto.Request
		kind   cellproto.Kind // 0: it is made again
		keyed  bool
		keyHas string
	}{
		"pure":              {req: request("echo", "x")},
		"idempotent":        {req: request("count", "x"), keyed: true},
		"idempotent, keyed": {req: func() *cellproto.Request { r := request("count", "x"); r.Header.Key = []byte("k1"); return r }(), keyed: true, keyHas: "k1"},
		"neither":           {req: request("once", "x"), kind: cellproto.MayHaveRun},
		"too large":         {req: request("echo", strings.Repeat("x", maxKept)), kind: cellproto.MayHaveRun},
		"with a body":       {req: func() *cellproto.Request { r := request("sum", "x"); r.Body = strings.NewReader("abc"); return r }(), kind: cellproto.MayHaveRun},
	} {
		t.Run(name, func(t *testing.T) {
			p := provide(t, cell, nil)
			conn := onSocket(t, p)
			taken := make(chan struct{}, 4)
			var runs atomic.Int64
			p.program.handle = func(in *cellproto.Inbound) {
				n := runs.Add(1)
				taken <- struct{}{}
				if n > 1 {
					answer(in)
				}
			}
			result := make(chan error, 1)
			go func() { _, err := ask(t, conn, c.req); result <- err }()
			<-taken
			p.program.crash()
			err := <-result
			wantKind(t, err, c.kind)
			want := int64(2)
			if c.kind != 0 {
				want = 1
			}
			if runs.Load() != want {
				t.Errorf("it ran %d times, want %d", runs.Load(), want)
			}
			p.program.mu.Lock()
			keys := p.program.keys
			p.program.mu.Unlock()
			if c.keyed && (keys[0] == "" || keys[0] != keys[1] || !strings.Contains(keys[0], c.keyHas)) {
				t.Errorf("keys %q", keys)
			}
			eventually(t, "the places are given back", func() bool {
				return p.server.Load().InFlight == 0 && p.program.inFlight.Load() == 0 && p.server.kept.Load() == 0
			})
		})
	}
}

// TestDeadlyRequest has a request that kills each program that it reaches.
func TestDeadlyRequest(t *testing.T) {
	p := provide(t, publish(t, testSchema()), nil)
	conn := onSocket(t, p)
	var runs atomic.Int64
	p.program.handle = func(*cellproto.Inbound) { runs.Add(1); p.program.crash() }
	_, err := ask(t, conn, request("echo", "x"))
	wantKind(t, err, cellproto.MayHaveRun)
	if n := runs.Load(); n != 1+maxRepeats {
		t.Errorf("it ran %d times", n)
	}
}

// TestLostProgramThatDoesNotStart has no next one.
func TestLostProgramThatDoesNotStart(t *testing.T) {
	p := provide(t, publish(t, testSchema()), nil)
	conn := onSocket(t, p)
	p.program.handle = func(*cellproto.Inbound) {
		p.program.mu.Lock()
		e := cellproto.Errorf("start", cellproto.Unavailable, "it is broken")
		e.RetryAfter = time.Second
		p.program.broken = e
		p.program.mu.Unlock()
		p.program.crash()
	}
	_, err := ask(t, conn, request("echo", "x"))
	wantKind(t, err, cellproto.MayHaveRun) // the first one may have done it
}

// TestLostAndGivenUp has a caller that does not wait any more when its program dies.
func TestLostAndGivenUp(t *testing.T) {
	p := provide(t, publish(t, testSchema()), nil)
	conn := onSocket(t, p)
	taken, canceled := make(chan struct{}), make(chan struct{})
	var runs atomic.Int64
	p.program.handle = func(in *cellproto.Inbound) {
		if runs.Add(1) == 1 {
			close(taken)
			<-in.Context().Done()
			close(canceled)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-taken; cancel() }()
	_, err := conn.Call(ctx, request("echo", "x"))
	wantKind(t, err, cellproto.Canceled)
	<-canceled
	p.program.crash()
	eventually(t, "it is over", func() bool { return p.server.Load().InFlight == 0 && p.server.kept.Load() == 0 })
	if runs.Load() != 1 {
		t.Errorf("it ran %d times", runs.Load())
	}
}

// TestKeptIsBounded has more requests in flight than are kept.
func TestKeptIsBounded(t *testing.T) {
	s := NewServer(ServerConfig{Name: "fake"}, ServerDeps{})
	serving, err := NewServing("", testSchema())
	if err != nil {
		t.Fatal(err)
	}
	s.Set(serving)
	f := &cellproto.Frame{Header: cellproto.Header{Func: "echo"}, Payload: make([]byte, maxKept)}
	var all []*kept
	fn := serving.served["echo"]
	for k := new(kept); s.keep(k, fn, f, time.Now()); k = new(kept) {
		all = append(all, k)
	}
	if n := len(all); n == 0 || n*maxKept > maxKepts || s.kept.Load() > maxKepts {
		t.Errorf("%d kept, %d bytes", n, s.kept.Load())
	}
	for _, k := range all {
		k.release()
	}
	if s.kept.Load() != 0 || !s.keep(new(kept), fn, f, time.Now()) {
		t.Error("room is not given back")
	}
}
