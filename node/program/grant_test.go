package program

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

// serveSDK is a program that takes connections of callers.
func serveSDK() {
	os.Args = os.Args[:1]
	cell.Main(
		cell.FuncRaw("echo", func(_ context.Context, in []byte) ([]byte, error) { return in, nil }).Pure(),
		cell.FuncRaw("who", func(ctx context.Context, _ []byte) ([]byte, error) { return []byte(cell.CallerFrom(ctx)), nil }).Pure(),
		cell.FuncRaw("wait", func(ctx context.Context, _ []byte) ([]byte, error) {
			select {
			case <-time.After(200 * time.Millisecond):
				return []byte("waited"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}).Slow(),
	)
}

// holder gives a caller whose connection the program holds. While one program replaces another, none is
// handed over.
func holder(t testing.TB, p *Program, subject string, until time.Time) *cellproto.Conn {
	t.Helper()
	if newNoGrants() {
		t.Skip("connections cannot be handed over on this system")
	}
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program takes a connection", func() bool {
		return p.Grant(testContext(t), far.(*net.UnixConn), subject, until, nil)
	})
	c, err := cellproto.NewConn(near, cellproto.Config{Opener: true, Hello: cellproto.Hello{Capabilities: []string{cellproto.CapHandoff}}})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	go func() { defer close(ran); _ = c.Run() }()
	t.Cleanup(func() { c.Close(); <-ran })
	return c
}

func newNoGrants() bool {
	g, theirs, err := newGrants()
	if err != nil {
		return errors.Is(err, errors.ErrUnsupported)
	}
	theirs.Close()
	g.close()
	return false
}

func ask(t testing.TB, c *cellproto.Conn, fn, payload string) (string, error) {
	t.Helper()
	r, err := c.Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: fn}, Payload: []byte(payload)})
	if err != nil {
		return "", err
	}
	return string(r.Payload), nil
}

func mustAsk(t testing.TB, c *cellproto.Conn, fn, payload, want string) {
	t.Helper()
	if got, err := ask(t, c, fn, payload); err != nil || got != want {
		t.Fatalf("%s: %q, %v, want %q", fn, got, err, want)
	}
}

func TestGrant(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	owner := holder(t, p, "", time.Time{})
	mustAsk(t, owner, "echo", "x", "x")
	mustAsk(t, owner, "who", "", "")
	stranger := holder(t, p, "uid:7", time.Time{})
	mustAsk(t, stranger, "who", "", "uid:7")

	_, err := stranger.Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: "who", Meta: map[string]string{"peer": "me"}}})
	if err != nil {
		t.Error(err)
	}
	_, err = owner.Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: "echo", To: "other"}})
	if cellproto.KindOf(err) != cellproto.Unsupported {
		t.Errorf("a call to another cell: %v", err)
	}
	eventually(t, "the calls are counted", func() bool {
		g := p.Granted()
		return g.Conns == 2 && g.Served == 4 && g.InFlight == 0
	})
	stranger.Close()
	eventually(t, "it is told that one has left", func() bool { return p.Granted().Conns == 1 })
	if err := p.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	if g := p.Granted(); g.Conns != 0 || g.Served != 4 {
		t.Errorf("afterwards: %+v", g)
	}
}

// TestGrantedMeta: a caller cannot say that it is somebody else.
func TestGrantedMeta(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	for subject, want := range map[string]string{"": "", "uid:7": "uid:7"} {
		c := holder(t, p, subject, time.Time{})
		r, err := c.Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: "who", Meta: map[string]string{"peer": "12D3KooW", "a": "b"}}})
		if err != nil || string(r.Payload) != want {
			t.Errorf("%q: %v %v", subject, r, err)
		}
	}
}

func TestGrantedConcurrency(t *testing.T) {
	cfg := testConfig(cellDir(t), "sdk")
	cfg.Concurrency = 3
	p := newProgram(t, cfg, Deps{})
	c := holder(t, p, "uid:7", time.Time{}) // the owner waits
	mustAsk(t, c, "echo", "", "")
	var wg sync.WaitGroup
	var ok, busy atomic.Int64
	for range 8 {
		wg.Go(func() {
			_, err := ask(t, c, "wait", "")
			switch {
			case err == nil:
				ok.Add(1)
			case cellproto.KindOf(err) == cellproto.Overloaded && cellproto.RetryAfterOf(err) > 0:
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 3 || busy.Load() != 5 {
		t.Errorf("%d answered, %d refused, want 3 and 5", ok.Load(), busy.Load())
	}
	eventually(t, "all are counted", func() bool {
		g := p.Granted()
		return g.Refused == 5 && g.InFlight == 0 && g.Served == 4
	})
}

// TestGrantedShare: a stranger has as many places over two connections as over one.
func TestGrantedShare(t *testing.T) {
	cfg := testConfig(cellDir(t), "sdk")
	cfg.Concurrency = 200
	p := newProgram(t, cfg, Deps{})
	conns := []*cellproto.Conn{holder(t, p, "uid:7", time.Time{}), holder(t, p, "uid:7", time.Time{})}
	mustAsk(t, conns[0], "echo", "", "")
	var wg sync.WaitGroup
	var ok, busy atomic.Int64
	for i := range 2 * cellproto.MaxStreamsPeer {
		wg.Go(func() {
			_, err := ask(t, conns[i%2], "wait", "")
			switch {
			case err == nil:
				ok.Add(1)
			case cellproto.KindOf(err) == cellproto.Overloaded:
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	mustAsk(t, holder(t, p, "", time.Time{}), "echo", "the owner", "the owner")
	wg.Wait()
	if ok.Load() != cellproto.MaxStreamsPeer || busy.Load() != cellproto.MaxStreamsPeer {
		t.Errorf("%d answered, %d refused, want %d each", ok.Load(), busy.Load(), cellproto.MaxStreamsPeer)
	}
}

// TestGrantExpiresAfterItsCall: the end of a token cuts no call.
func TestGrantExpiresAfterItsCall(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	c := holder(t, p, "uid:7", time.Now().Add(100*time.Millisecond))
	mustAsk(t, c, "wait", "", "waited")
	within(t, "it is told to come back", func() { <-c.Done() })
}

// TestGrantedAndFrozen: a program is not frozen beneath a call, and a caller without one comes back.
func TestGrantedAndFrozen(t *testing.T) {
	p := newProgram(t, frozenConfig(t, "sdk"), Deps{})
	c := holder(t, p, "", time.Time{})
	mustAsk(t, c, "wait", "", "waited") // many times as long as it takes to be frozen
	if s := p.State(); s.Starts != 1 || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
	awaitPhase(t, p, Frozen)
	if !c.Leaving() {
		t.Error("it was not told to come back")
	}
	c = holder(t, p, "", time.Time{})
	mustAsk(t, c, "echo", "thawed", "thawed")
	if s := p.State(); s.Starts != 1 {
		t.Errorf("%+v", s)
	}
}

// A frozen program is given a connection before it goes on, so that it is woken once, and is not woken for one that it is not
// given.
func TestFrozenProgramWakesToItsCaller(t *testing.T) {
	p := newProgram(t, frozenConfig(t, "sdk"), Deps{})
	mustConn(t, p)
	for _, fits := range []bool{false, true} {
		awaitPhase(t, p, Frozen)
		pid := p.State().PID
		eventually(t, "its process is stopped", func() bool { return stopped(t, pid) })
		near, far, err := localPair()
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		asked, sleeps := false, false
		given := p.Grant(testContext(t), far.(*net.UnixConn), "", time.Time{}, func([]byte) bool {
			asked, sleeps = true, stopped(t, pid)
			return fits
		})
		if !asked {
			t.Skip("connections cannot be handed over on this system")
		}
		if given != fits || !sleeps {
			t.Errorf("given: %v, want %v; stopped before: %v", given, fits, sleeps)
		}
		if !fits && (p.State().Phase != Frozen || !stopped(t, pid)) {
			t.Error("it was woken for nothing")
		}
	}
	eventually(t, "it goes on", func() bool { return !stopped(t, p.State().PID) })
}

// TestSilentHolderIsCutOff: a caller that does not answer the goaway, and has no call in flight, does
// not keep the program awake.
func TestSilentHolderIsCutOff(t *testing.T) {
	p := newProgram(t, frozenConfig(t, "sdk"), Deps{})
	mustConn(t, p)
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if !p.Grant(testContext(t), far.(*net.UnixConn), "", time.Time{}, nil) {
		t.Skip("connections cannot be handed over on this system")
	}
	awaitPhase(t, p, Frozen)
	if n := p.Granted().Conns; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A caller whom the program does not serve is not handed to it, whoever has let it in.
func TestGrantAsksWhetherTheProgramFits(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	hello, err := mustConn(t, p).PeerHello(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	var asked []byte
	if p.Grant(testContext(t), far.(*net.UnixConn), "", time.Time{}, func(live []byte) bool { asked = live; return false }) {
		t.Error("it was")
	}
	if len(hello.Schema) == 0 || string(asked) != string(hello.Schema) {
		t.Errorf("it was asked about %x, and the program has %x", asked, hello.Schema)
	}
	if n := p.Granted().Conns; n != 0 {
		t.Errorf("%d connections are there", n)
	}
}

func TestGrantedAndKilled(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	c := holder(t, p, "", time.Time{})
	mustAsk(t, c, "echo", "", "")
	syscall.Kill(p.State().PID, syscall.SIGKILL)
	if _, err := ask(t, c, "wait", ""); err == nil {
		t.Error("a dead program has answered")
	}
	within(t, "the caller is told", func() { <-c.Done() })
	c = holder(t, p, "", time.Time{})
	mustAsk(t, c, "echo", "again", "again")
}

func TestGrantExpires(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	c := holder(t, p, "uid:7", time.Now().Add(50*time.Millisecond))
	within(t, "it is cut off", func() { <-c.Done() })
	eventually(t, "it is forgotten", func() bool { return p.Granted().Conns == 0 })
	mustAsk(t, holder(t, p, "", time.Time{}), "echo", "x", "x")
}

// TestNothingIsGranted where the program takes none: the connection is as it was.
func TestNothingIsGranted(t *testing.T) {
	for _, mode := range []string{"serve", "lines", "exit3"} {
		t.Run(mode, func(t *testing.T) {
			p := newProgram(t, testConfig(cellDir(t), mode), Deps{})
			near, far, err := localPair()
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			defer far.Close()
			if p.Grant(testContext(t), far.(*net.UnixConn), "", time.Time{}, nil) {
				t.Fatal("it was taken")
			}
			if _, err := near.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if n, err := far.Read(make([]byte, 2)); n != 1 || err != nil {
				t.Error(n, err)
			}
		})
	}
}

// TestOnTrial: it is said from before a new program starts until it has proven itself, when nothing is granted.
func TestOnTrial(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	if _, err := p.Conn(testContext(t)); err != nil || p.OnTrial() {
		t.Fatalf("at first: %t, %v", p.OnTrial(), err)
	}
	during := false
	err := p.Swap(testContext(t), Candidate{Fit: func(context.Context, *cellproto.Conn) error { during = p.OnTrial(); return nil }})
	if err != nil || !during || !p.OnTrial() {
		t.Errorf("on trial while the new one is looked at: %t, then: %t, %v", during, p.OnTrial(), err)
	}
	p.mu.Lock()
	p.trialTime = time.Millisecond
	p.cur.kick()
	p.mu.Unlock()
	eventually(t, "the trial is over", func() bool { return !p.OnTrial() })
}

// TestGrantedSwap has callers that call all the time while the program is replaced: none loses a call.
func TestGrantedSwap(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "sdk"), Deps{})
	p.trialTime = time.Millisecond
	var stop atomic.Bool
	var calls, moves atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				c := holder(t, p, "", time.Time{})
				moves.Add(1)
				for !stop.Load() && !c.Leaving() {
					_, err := ask(t, c, "echo", "x")
					switch {
					case err == nil:
						calls.Add(1)
					case cellproto.KindOf(err) == cellproto.Unavailable: // it never began
					default:
						t.Errorf("lost: %v", err)
						return
					}
				}
			}
		})
	}
	for range 5 {
		if err := p.Swap(testContext(t), Candidate{}); err != nil {
			t.Error(err)
		}
		n := calls.Load()
		eventually(t, "calls go on", func() bool { return calls.Load() > n+10 })
	}
	stop.Store(true)
	wg.Wait()
	if moves.Load() < 8 {
		t.Errorf("only %d connections were made", moves.Load())
	}
}

func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("after 20 s it is not so that %s", what)
	}
}
