package program

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

func TestStartOnFirstCall(t *testing.T) {
	t.Setenv("CELL_SECRET_KEY", "hunter2")
	p := start(t, "serve")
	if s := p.State(); s.Phase != Idle || p.Ready() != nil {
		t.Fatalf("before the first call: %+v", s)
	}
	if _, ok := p.Hello(); ok {
		t.Error("a hello before the first start")
	}
	env, err := call(testContext(t), p, "env", nil, cellproto.Raw)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(env), "\n")
	if lines[0] != p.cfg.Dir {
		t.Errorf("working directory %q, want %q", lines[0], p.cfg.Dir)
	}
	for _, want := range []string{"CELL_DIR=" + p.cfg.Dir, "CELL_NAME=cell", "CELL_FD=3"} {
		if !strings.Contains(string(env), want+"\n") && !strings.HasSuffix(string(env), want) {
			t.Errorf("environment without %s:\n%s", want, env)
		}
	}
	if strings.Contains(string(env), "hunter2") {
		t.Error("the nucleus's environment leaks")
	}
	s := p.State()
	if s.Phase != Running || s.PID == 0 || s.Starts != 1 || s.Counters.Served != 1 || s.InFlight != 0 {
		t.Errorf("after the call: %+v", s)
	}
	if h, ok := p.Hello(); !ok || h.Cell != "cell" || len(h.Functions) != 2 {
		t.Errorf("hello %+v", h)
	}
	if c := mustConn(t, p); c != p.Ready() {
		t.Error("Conn and Ready differ")
	}
}

func TestConcurrentCallersShareOneStart(t *testing.T) {
	p := start(t, "late")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := fmt.Sprint(i)
			if got, err := call(testContext(t), p, "echo", []byte(want), cellproto.Raw); err != nil || string(got) != want {
				t.Errorf("call %d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if s := p.State(); s.Starts != 1 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWaitingIsBounded(t *testing.T) {
	cfg := testConfig(cellDir(t), "nohello")
	p := newProgram(t, cfg, Deps{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range cellproto.MaxWaiting {
		wg.Go(func() {
			_, err := p.Conn(ctx)
			wantError(t, err, cellproto.Canceled, "waited for the program", "")
		})
	}
	eventually(t, "all wait", func() bool { return p.State().Waiting == cellproto.MaxWaiting })
	_, err := p.Conn(testContext(t))
	wantError(t, err, cellproto.Overloaded, "wait for the program", "")
	if cellproto.RetryAfterOf(err) <= 0 {
		t.Error("no retry-after")
	}
	cancel()
	wg.Wait()
	if s := p.State(); s.Waiting != 0 || s.Phase != Starting {
		t.Errorf("the start goes on without those who gave up: %+v", s)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	cfg := testConfig(cellDir(t), "serve")
	cfg.Concurrency = 2
	p := newProgram(t, cfg, Deps{})
	for range 2 {
		if err := p.Begin(); err != nil {
			t.Fatal(err)
		}
	}
	err := p.Begin()
	wantError(t, err, cellproto.Overloaded, "2 calls are in flight", "")
	if cellproto.RetryAfterOf(err) <= 0 {
		t.Error("no retry-after")
	}
	p.End()
	if err := p.Begin(); err != nil {
		t.Fatal(err)
	}
	p.End()
	p.End()
	if s := p.State(); s.InFlight != 0 || s.Counters.Refused != 1 || s.Counters.Served != 3 {
		t.Errorf("%+v", s)
	}
}

func TestIdleStop(t *testing.T) {
	cfg := testConfig(cellDir(t), "serve")
	cfg.IdleTimeout = 30 * time.Millisecond
	p := newProgram(t, cfg, Deps{})
	var ms [4]byte
	binary.BigEndian.PutUint32(ms[:], 200) // a call that is longer than the idle time
	if _, err := call(testContext(t), p, "sleep", ms[:], cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	pid := p.State().PID
	eventually(t, "the program idles away", func() bool { return p.State().Phase == Idle })
	checkReaped(t, pid)
	if s := p.State(); s.LastExit != "exit status 0" || s.Crashes != 0 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "run", pidFile)); !os.IsNotExist(err) {
		t.Errorf("the pid file is left: %v", err)
	}
	if _, err := call(testContext(t), p, "echo", nil, cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	if s := p.State(); s.Starts != 2 {
		t.Errorf("%+v", s)
	}
}

// TestNoCallIsLostToIdling has callers that pause about as long as the program's idle time.
func TestNoCallIsLostToIdling(t *testing.T) {
	cfg := testConfig(cellDir(t), "serve")
	cfg.IdleTimeout = time.Millisecond
	p := newProgram(t, cfg, Deps{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for j := range 15 {
				if _, err := call(testContext(t), p, "echo", nil, cellproto.Raw); err != nil {
					t.Errorf("call %d/%d: %v", i, j, err)
					return
				}
				<-time.After(time.Duration(j%4) * 700 * time.Microsecond)
			}
		})
	}
	wg.Wait()
	if s := p.State(); s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestStopDrainsAndStartsAgain(t *testing.T) {
	p := start(t, "serve")
	ctx := testContext(t)
	c := mustConn(t, p)
	var ms [4]byte
	binary.BigEndian.PutUint32(ms[:], 200)
	slow := make(chan error, 1)
	go func() {
		_, err := call(ctx, p, "sleep", ms[:], cellproto.Raw)
		slow <- err
	}()
	eventually(t, "the call is in flight", func() bool { _, out := c.InFlight(); return out == 1 })
	pid := p.State().PID
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	checkReaped(t, pid)
	if s := p.State(); s.Phase != Idle || p.Ready() != nil {
		t.Errorf("%+v", s)
	}
	if err := p.Stop(ctx); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
	if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
		t.Errorf("after the stop: %v", err)
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := p.Conn(ctx)
	wantError(t, err, cellproto.Unavailable, "stopping", "")
	if s := p.State(); s.Phase != Closed {
		t.Errorf("%+v", s)
	}
}

func TestStopIsHurriedByItsContext(t *testing.T) {
	cfg := testConfig(cellDir(t), "stubborn")
	cfg.StopTimeout = time.Minute
	p := newProgram(t, cfg, Deps{})
	mustConn(t, p)
	pid := p.State().PID
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	wantError(t, p.Stop(ctx), cellproto.Timeout, "was killed", "")
	checkReaped(t, pid)
}

func TestIgnoresSIGTERM(t *testing.T) {
	cfg := testConfig(cellDir(t), "stubborn")
	cfg.StopTimeout = 50 * time.Millisecond
	p := newProgram(t, cfg, Deps{})
	mustConn(t, p)
	pid := p.State().PID
	if err := p.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkReaped(t, pid)
	if s := p.State(); s.LastExit != "signal: killed" {
		t.Errorf("%+v", s)
	}
}

func TestStopWhileStarting(t *testing.T) {
	p := start(t, "nohello")
	waiter := make(chan error, 1)
	go func() { _, err := p.Conn(context.Background()); waiter <- err }()
	eventually(t, "it starts", func() bool { return p.State().Phase == Starting && p.State().Waiting == 1 })
	if err := p.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-waiter, cellproto.Unavailable, "stopped while it started", "")
	if s := p.State(); s.Phase != Idle {
		t.Errorf("%+v", s)
	}
}

func TestKilledWithCallsInFlight(t *testing.T) {
	p := start(t, "serve")
	ctx := testContext(t)
	for round := range 3 {
		c := mustConn(t, p)
		const calls = 20
		errs := make(chan error, calls)
		for range calls {
			go func() { _, err := call(ctx, p, "hang", nil, cellproto.Raw); errs <- err }()
		}
		eventually(t, "all are in flight", func() bool { _, out := c.InFlight(); return out == calls })
		if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil { // it comes after them
			t.Fatal(err)
		}
		pid := p.State().PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for range calls {
			wantError(t, <-errs, cellproto.MayHaveRun, "connection lost", "")
		}
		if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
			t.Fatalf("after crash %d: %v", round, err)
		}
		checkReaped(t, pid)
		if s := p.State(); s.Crashes != uint64(round+1) || s.LastExit != "signal: killed" || s.LastError != "" {
			t.Errorf("%+v", s)
		}
	}
}

func TestExitInACall(t *testing.T) {
	p := start(t, "serve")
	ctx := testContext(t)
	_, err := call(ctx, p, "exit", nil, cellproto.Raw)
	wantError(t, err, cellproto.MayHaveRun, "connection lost", "")
	eventually(t, "the crash is seen", func() bool { return p.State().Phase == Failed })
	s := p.State()
	if s.LastExit != "exit status 7" || !strings.Contains(s.LastError, "exit status 7") {
		t.Errorf("%+v", s)
	}
	if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
		t.Error(err)
	}
}

func TestProgramSaysGoaway(t *testing.T) {
	p := start(t, "goaway")
	for range 3 {
		if _, err := call(testContext(t), p, "echo", nil, cellproto.Raw); err != nil {
			t.Fatal(err)
		}
		c := p.Ready()
		eventually(t, "goaway", func() bool { return c == nil || c.Leaving() })
	}
	if s := p.State(); s.Starts != 3 {
		t.Errorf("%+v", s)
	}
}

func TestChildrenDieWithTheProgram(t *testing.T) {
	var out testOutput
	p := newProgram(t, testConfig(cellDir(t), "forkserve"), Deps{Output: &out})
	mustConn(t, p)
	eventually(t, "the child is named", func() bool { return strings.Contains(out.String(), "child ") })
	child := childOf(t, out.String())
	if startTime(child) == 0 {
		t.Fatal("the child does not run")
	}
	syscall.Kill(p.State().PID, syscall.SIGKILL)
	eventually(t, "the child is gone", func() bool { return startTime(child) == 0 })
	eventually(t, "the crash is seen", func() bool { return p.State().Phase == Failed })
}

func childOf(t *testing.T, log string) (pid int) {
	t.Helper()
	_, rest, _ := strings.Cut(log, "child ")
	if _, err := fmt.Sscan(rest, &pid); err != nil {
		t.Fatalf("%v in %q", err, log)
	}
	return pid
}

func TestOutputIsBounded(t *testing.T) {
	var out testOutput
	p := newProgram(t, testConfig(cellDir(t), "serve"), Deps{Output: &out})
	if _, err := call(testContext(t), p, "spam", nil, cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cut is told", func() bool { return strings.Contains(out.String(), " bytes cut: ") })
	if n := len(out.String()); n > 4*outputRate {
		t.Errorf("%d bytes in the log", n)
	}
	if cut := p.State().Counters.LogCut; cut < 500<<10 {
		t.Errorf("%d bytes cut of 1 MiB", cut)
	}
}

func TestProgramCallsOut(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "serve"), Deps{Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: []byte(f.Header.To + "." + f.Header.Func)})
		c.FlushLater(c)
	}})
	if got, err := call(testContext(t), p, "out", nil, cellproto.Raw); err != nil || string(got) != "other.f" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestStopUnderLoad stops the program again and again under callers that send again what never left.
func TestStopUnderLoad(t *testing.T) {
	p := start(t, "serve")
	ctx := testContext(t)
	mustConn(t, p)
	var over atomic.Bool
	var calls atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !over.Load() {
				if _, err := call(ctx, p, "echo", nil, cellproto.Raw); err != nil {
					t.Errorf("call: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for range 10 {
		before := calls.Load()
		eventually(t, "calls go on", func() bool { return calls.Load() > before+100 || t.Failed() })
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	over.Store(true)
	wg.Wait()
}

func TestValidate(t *testing.T) {
	good := Config{Dir: "/cell", Name: "cell", Binary: "bin/cell"}
	if err := good.Validate(); err != nil {
		t.Errorf("good config: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"relative dir":    func(c *Config) { c.Dir = "cell" },
		"no name":         func(c *Config) { c.Name = "" },
		"no binary":       func(c *Config) { c.Binary = "" },
		"dot":             func(c *Config) { c.Binary = "." },
		"binary outside":  func(c *Config) { c.Binary = "../cell" },
		"absolute binary": func(c *Config) { c.Binary = "/bin/sh" },
		"speaks":          func(c *Config) { c.Speaks = "http" },
		"negative start":  func(c *Config) { c.StartTimeout = -1 },
		"long stop":       func(c *Config) { c.StopTimeout = time.Hour },
		"negative idle":   func(c *Config) { c.IdleTimeout = -1 },
		"concurrency":     func(c *Config) { c.Concurrency = cellproto.MaxStreams + 1 },
		"env key":         func(c *Config) { c.Env = map[string]string{"A=B": ""} },
		"env fd":          func(c *Config) { c.Env = map[string]string{"CELL_FD": "5"} },
	} {
		c := good
		change(&c)
		err := c.Validate()
		if k := cellproto.KindOf(err); k != cellproto.BadInput && k != cellproto.Unsupported {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := New(c, Deps{}); err == nil {
			t.Errorf("%s: New takes it", name)
		}
	}
	good.Speaks = celltoml.JSONL
	if _, err := New(good, Deps{}); err != nil {
		t.Error(err)
	}
}
