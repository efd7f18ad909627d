package program

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// refuse answers what a program asks of others; a nucleus always has somebody who does.
func refuse(c *cellproto.Conn, f *cellproto.Frame) {
	_ = c.Queue(cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.NotFound, "there is nobody")))
	c.FlushLater(c)
}

// handOver takes a program apart and makes another Program of it, as another nucleus in the same process
// would.
func handOver(t *testing.T, p *Program, deps Deps) *Program {
	t.Helper()
	ctx := testContext(t)
	if err := p.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Hold(); err != nil {
		t.Fatal(err)
	}
	h, files, err := p.Suspend(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := h.Marshal()
	if err == nil {
		h, err = ParseHandover(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Files(); got != len(files) {
		t.Fatalf("%d files, not %d", len(files), got)
	}
	if _, err := p.Conn(ctx); cellproto.KindOf(err) != cellproto.Unavailable {
		t.Errorf("the one before: %v", err)
	}
	next, err := Adopt(p.cfg, deps, h, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := next.Close(testContext(t)); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return next
}

func pidOf(t *testing.T, p *Program) int {
	t.Helper()
	s := p.State()
	if s.Phase != Running || s.PID == 0 {
		t.Fatalf("%+v", s)
	}
	return s.PID
}

func TestHandOver(t *testing.T) {
	var log testOutput
	p, err := New(testConfig(cellDir(t), "sdk"), Deps{Output: &log, Accept: refuse})
	if err != nil {
		t.Fatal(err)
	}
	mustConn(t, p)
	owner := holder(t, p, "", time.Time{})
	mustAsk(t, owner, "echo", "x", "x")
	stranger := holder(t, p, "uid:7", time.Now().Add(time.Hour))
	mustAsk(t, stranger, "who", "", "uid:7")
	if _, err := call(testContext(t), p, "echo", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	before, pid := p.State(), pidOf(t, p)

	next := handOver(t, p, Deps{Output: &log, Accept: refuse})
	after := next.State()
	if after.PID != pid || after.Starts != before.Starts || after.Counters.Served != before.Counters.Served ||
		after.Started.UnixMilli() != before.Started.UnixMilli() || next.Binary() != p.files.bin {
		t.Errorf("%+v became %+v", before, after)
	}
	mustAsk(t, owner, "echo", "z", "z")
	mustAsk(t, stranger, "who", "", "uid:7")
	got, err := call(testContext(t), next, "echo", []byte("relayed"), 0)
	if err != nil || string(got) != "relayed" {
		t.Errorf("%q, %v", got, err)
	}
	if g := next.Granted(); g.Conns != 2 || g.Served != 4 {
		t.Errorf("%+v", g)
	}
	third := holder(t, next, "uid:8", time.Time{})
	mustAsk(t, third, "who", "", "uid:8")
	stranger.Close()
	eventually(t, "it is told that one has left", func() bool { return next.Granted().Conns == 2 })
	if line, err := os.ReadFile(filepath.Join(p.cfg.Dir, "run", pidFile)); err != nil || !strings.Contains(string(line), "\n") {
		t.Errorf("%q, %v", line, err)
	}
	if err := next.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	checkReaped(t, pid)
	if s := next.State(); s.Crashes != 0 || next.Granted().Conns != 0 {
		t.Errorf("%+v", s)
	}
	// The next call starts it anew.
	mustConn(t, next)
}

// A program that is frozen stays so, and goes on with the next call.
func TestHandOverFrozen(t *testing.T) {
	cfg := testConfig(cellDir(t), "serve")
	cfg.FreezeAfter = 20 * time.Millisecond
	p, err := New(cfg, Deps{Accept: refuse})
	if err != nil {
		t.Fatal(err)
	}
	mustConn(t, p)
	eventually(t, "it is frozen", func() bool { return p.State().Phase == Frozen })
	next := handOver(t, p, Deps{Accept: refuse})
	s := next.State()
	if s.Phase != Frozen {
		t.Errorf("%+v", s)
	}
	eventually(t, "its process stands still", func() bool { return stateOf(t, s.PID) == "T" }) // a signal takes its time
	if got, err := call(testContext(t), next, "echo", []byte("x"), 0); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// stateOf gives the state of a process, as proc(5) has it.
func stateOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])[0])
}

// A call in flight is not cut: the program stays, and so does what the program prints.
func TestHandOverBusy(t *testing.T) {
	var log testOutput
	p := newProgram(t, testConfig(cellDir(t), "serve"), Deps{Output: &log, Accept: refuse})
	conn := mustConn(t, p)
	done := make(chan error, 1)
	go func() {
		_, err := conn.Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: "sleep"}, Payload: []byte{0, 0, 0, 200}})
		done <- err
	}()
	eventually(t, "it is in flight", func() bool { return p.Busy() == 1 })
	if err := p.Hold(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Suspend(testContext(t)); cellproto.KindOf(err) != cellproto.Overloaded {
		t.Errorf("%v", err)
	}
	p.Unhold()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, err := call(testContext(t), p, "echo", []byte("x"), 0); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := call(testContext(t), p, "spam", nil, 0); err != nil {
		t.Error(err)
	}
	eventually(t, "its output is taken in", func() bool { return strings.Contains(log.String(), "xxxx") })
}

// What the program asks of others while it is handed over is asked once, by the next one.
func TestHandOverHeldCall(t *testing.T) {
	asked := make(chan string, 10)
	accept := func(who string) func(*cellproto.Conn, *cellproto.Frame) {
		return func(c *cellproto.Conn, f *cellproto.Frame) {
			asked <- who
			_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: []byte("pong")})
			c.FlushLater(c)
		}
	}
	p, err := New(testConfig(cellDir(t), "serve"), Deps{Accept: accept("before")})
	if err != nil {
		t.Fatal(err)
	}
	conn := mustConn(t, p)
	if err := p.Hold(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Call(testContext(t), &cellproto.Request{Header: cellproto.Header{Func: "outlater"}}); err != nil {
		t.Fatal(err)
	}
	handOver(t, p, Deps{Accept: accept("after")})
	if who := <-asked; who != "after" {
		t.Errorf("the one %s was asked", who)
	}
	select {
	case who := <-asked:
		t.Errorf("the one %s was asked again", who)
	default:
	}
}

// A program that has ended by the time it is adopted has crashed; the next call starts it.
func TestAdoptEnded(t *testing.T) {
	p, err := New(testConfig(cellDir(t), "serve"), Deps{Accept: refuse})
	if err != nil {
		t.Fatal(err)
	}
	mustConn(t, p)
	pid := pidOf(t, p)
	if err := p.Hold(); err != nil {
		t.Fatal(err)
	}
	h, files, err := p.Suspend(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() bool { return startTime(pid) == 0 })
	next, err := Adopt(p.cfg, Deps{Accept: refuse}, h, files)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close(context.Background())
	eventually(t, "that is noticed", func() bool { return next.State().Crashes == 1 })
	mustConn(t, next)
	if s := next.State(); s.Starts != 2 || s.PID == pid {
		t.Errorf("%+v", s)
	}
}

// What does not fit is refused, and nothing is left open.
func TestAdoptCorrupt(t *testing.T) {
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	f, err := duplicate(far.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	h := &Handover{Run: &HandedRun{PID: 1 << 20}}
	if _, err := Adopt(testConfig(cellDir(t), "serve"), Deps{}, h, []*os.File{f}); cellproto.KindOf(err) != cellproto.Corrupt {
		t.Errorf("%v", err)
	}
	if n, err := near.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes from a descriptor that should be closed", n)
	}
}

// Programs that speak JSON lines are stopped in good order, and started by the next call.
func TestHandOverLines(t *testing.T) {
	p, err := New(testConfig(cellDir(t), "lines"), Deps{Accept: refuse})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(testContext(t), p, "echo", []byte(`1`), cellproto.JSON); err != nil {
		t.Fatal(err)
	}
	pid := pidOf(t, p)
	next := handOver(t, p, Deps{Accept: refuse})
	checkReaped(t, pid)
	if s := next.State(); s.Phase != Idle || s.Starts != 1 || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
	if got, err := call(testContext(t), next, "echo", []byte(`2`), cellproto.JSON); err != nil || string(got) != "2" {
		t.Errorf("%q, %v", got, err)
	}
}

// A confined program, which asks nobody for anything, is stopped in good order as well, also when nobody
// answers what it asks.
func TestHandOverConfined(t *testing.T) {
	p, err := New(confinedConfig(t, "serve"), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(testContext(t), p, "echo", []byte("1"), cellproto.JSON); err != nil {
		t.Fatal(err)
	}
	next := handOver(t, p, Deps{})
	if s := next.State(); s.Phase != Idle || s.Starts != 1 || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
	if got, err := call(testContext(t), next, "echo", []byte("2"), cellproto.JSON); err != nil || string(got) != "2" {
		t.Errorf("%q, %v", got, err)
	}
}

// A process is not gone on with by a nucleus that would have started it another way.
func TestAdoptAnotherWay(t *testing.T) {
	p, err := New(testConfig(cellDir(t), "serve"), Deps{Accept: refuse})
	if err != nil {
		t.Fatal(err)
	}
	mustConn(t, p)
	pid := pidOf(t, p)
	if err := p.Hold(); err != nil {
		t.Fatal(err)
	}
	h, files, err := p.Suspend(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg := p.cfg
	cfg.Sandbox = &Sandbox{Launcher: "/cellbox"}
	if _, err := Adopt(cfg, Deps{}, h, files); cellproto.KindOf(err) != cellproto.Incompatible {
		t.Errorf("%v", err)
	}
	eventually(t, "it ends, since its socket is closed", func() bool { return startTime(pid) == 0 })
}
