package program

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// stopped reports that a process is stopped by a signal.
func stopped(t testing.TB, pid int) bool {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("this system does not say: %v", err)
	}
	_, rest, _ := bytes.Cut(data, []byte(") "))
	return len(rest) > 0 && rest[0] == 'T'
}

func frozenConfig(t testing.TB, mode string) Config {
	cfg := testConfig(cellDir(t), mode)
	cfg.FreezeAfter = 30 * time.Millisecond
	return cfg
}

func awaitPhase(t testing.TB, p *Program, phase Phase) {
	t.Helper()
	eventually(t, "it is "+string(phase), func() bool { return p.State().Phase == phase })
}

func TestFreeze(t *testing.T) {
	for _, mode := range []string{"serve", "lines"} {
		t.Run(mode, func(t *testing.T) {
			p := newProgram(t, frozenConfig(t, mode), Deps{})
			for range 3 {
				got, err := call(testContext(t), p, "echo", []byte(`1`), cellproto.JSON)
				if err != nil || string(got) != "1" {
					t.Fatalf("%s, %v", got, err)
				}
				awaitPhase(t, p, Frozen)
				eventually(t, "its process is stopped", func() bool { return stopped(t, p.State().PID) })
				if p.Ready() != nil {
					t.Error("a frozen program is ready")
				}
			}
			if s := p.State(); s.Starts != 1 || s.Crashes != 0 {
				t.Errorf("%+v", s)
			}
			pid := p.State().PID
			if err := p.Stop(testContext(t)); err != nil {
				t.Error(err)
			}
			checkReaped(t, pid)
			if s := p.State(); s.LastExit != "exit status 0" {
				t.Errorf("a frozen program did not end in good order: %+v", s)
			}
		})
	}
}

// TestFreezeStopsChildren has a program with a child of its own.
func TestFreezeStopsChildren(t *testing.T) {
	var out testOutput
	p := newProgram(t, frozenConfig(t, "forkserve"), Deps{Output: &out})
	mustConn(t, p)
	eventually(t, "the child is named", func() bool { return strings.Contains(out.String(), "child ") })
	child := childOf(t, out.String())
	eventually(t, "the child is stopped", func() bool { return stopped(t, child) })
	mustConn(t, p)
	eventually(t, "the child goes on, and is stopped again", func() bool { return stopped(t, child) })
}

func TestFrozenThenStoppedWhenIdle(t *testing.T) {
	cfg := frozenConfig(t, "serve")
	cfg.IdleTimeout = 120 * time.Millisecond
	p := newProgram(t, cfg, Deps{})
	mustConn(t, p)
	pid := p.State().PID
	awaitPhase(t, p, Frozen)
	awaitPhase(t, p, Idle)
	checkReaped(t, pid)
	if s := p.State(); s.LastExit != "exit status 0" || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestFrozenAndKilled(t *testing.T) {
	p := newProgram(t, frozenConfig(t, "serve"), Deps{})
	mustConn(t, p)
	awaitPhase(t, p, Frozen)
	syscall.Kill(p.State().PID, syscall.SIGKILL)
	awaitPhase(t, p, Failed)
	if _, err := call(testContext(t), p, "echo", nil, cellproto.Raw); err != nil {
		t.Error(err)
	}
}

// TestNoCallIsLostToFreezing has callers that pause about as long as it takes to be frozen.
func TestNoCallIsLostToFreezing(t *testing.T) {
	cfg := testConfig(cellDir(t), "serve")
	cfg.FreezeAfter = 500 * time.Microsecond
	p := newProgram(t, cfg, Deps{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for j := range 200 {
				if _, err := call(testContext(t), p, "echo", nil, cellproto.Raw); err != nil {
					t.Errorf("call %d/%d: %v", i, j, err)
					return
				}
				<-time.After(time.Duration(j%7) * 200 * time.Microsecond)
			}
		})
	}
	wg.Wait()
	if s := p.State(); s.Crashes != 0 || s.Starts != 1 {
		t.Errorf("%+v", s)
	}
}

// TestCallingProgramIsNotFrozen has a program that waits for another cell's answer.
func TestCallingProgramIsNotFrozen(t *testing.T) {
	calls := make(chan *cellproto.Inbound, 1)
	p := newProgram(t, frozenConfig(t, "serve"), Deps{Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		calls <- c.Inbound(context.Background(), f)
	}})
	if _, err := call(testContext(t), p, "outlater", nil, cellproto.Raw); err != nil {
		t.Fatal(err)
	}
	in := <-calls
	<-time.After(100 * time.Millisecond) // thrice the time after which it would be frozen
	if s := p.State(); s.Phase != Running {
		t.Errorf("%+v", s)
	}
	in.Reply(cellproto.Header{}, nil)
	awaitPhase(t, p, Frozen)
	p.unfreeze(p.cur) // as a call does that it began just before
	if s := p.State(); s.Phase != Running {
		t.Errorf("%+v", s)
	}
	awaitPhase(t, p, Frozen)
}

func TestBackgroundIsNotFrozen(t *testing.T) {
	cfg := frozenConfig(t, "background")
	cfg.IdleTimeout = 150 * time.Millisecond
	p := newProgram(t, cfg, Deps{})
	mustConn(t, p)
	for p.State().Phase != Idle {
		if p.State().Phase == Frozen {
			t.Fatal("frozen")
		}
		<-time.After(time.Millisecond)
	}
}

func BenchmarkThaw(b *testing.B) {
	cfg := testConfig(cellDir(b), "serve")
	cfg.FreezeAfter = time.Millisecond
	p := newProgram(b, cfg, Deps{})
	mustConn(b, p)
	for range b.N {
		b.StopTimer()
		awaitPhase(b, p, Frozen)
		b.StartTimer()
		if _, err := call(context.Background(), p, "echo", nil, cellproto.Raw); err != nil {
			b.Fatal(err)
		}
	}
}
