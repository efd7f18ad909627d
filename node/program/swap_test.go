package program

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// script is a program that behaves as mode does. v tells versions apart.
func script(t testing.TB, mode string, v int) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("#!/bin/sh\n%s=%s V=%d exec %q\n", envMode, mode, v, self)
}

// install puts a program into bin/, as a careful owner does.
func install(t testing.TB, dir, content string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, "bin", "prog")
	tmp := path + ".tmp"
	err := os.WriteFile(tmp, []byte(content), mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// swapCell is a cell with version 1 in it.
func swapCell(t testing.TB, mode string) Config {
	t.Helper()
	cfg := testConfig(t.TempDir(), mode)
	if err := os.Mkdir(filepath.Join(cfg.Dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	install(t, cfg.Dir, script(t, mode, 1), 0o755)
	return cfg
}

// version asks which version answers.
func version(t testing.TB, p *Program) (v int) {
	t.Helper()
	env, err := call(testContext(t), p, "env", nil, cellproto.JSON)
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, cellproto.HintOf(err))
	}
	_, rest, _ := strings.Cut(string(env), "V=")
	if _, err := fmt.Sscan(rest, &v); err != nil {
		t.Fatalf("%v in %q", err, env)
	}
	return v
}

func TestSwap(t *testing.T) {
	for _, mode := range []string{"serve", "lines"} {
		t.Run(mode, func(t *testing.T) {
			p := newProgram(t, swapCell(t, mode), Deps{})
			p.trialTime = 300 * time.Millisecond
			ctx := testContext(t)
			if v := version(t, p); v != 1 {
				t.Fatalf("version %d", v)
			}
			old, conn := p.State().PID, p.Ready()
			slow := make(chan error, 1)
			go func() {
				var ms [4]byte
				binary.BigEndian.PutUint32(ms[:], 150)
				_, err := call(ctx, p, "sleep", ms[:], cellproto.Raw)
				slow <- err
			}()
			if mode == "serve" {
				eventually(t, "the call is in flight", func() bool { _, out := conn.InFlight(); return out == 1 })
			}
			install(t, p.cfg.Dir, script(t, mode, 2), 0o755)
			var moved *cellproto.Conn
			if err := p.Swap(ctx, Candidate{Moved: func(c *cellproto.Conn) { moved = c }}); err != nil {
				t.Fatal(err)
			}
			if s := p.State(); s.Swap.Phase != SwapTrial || s.PID == old || s.Phase != Running || moved != p.Ready() {
				t.Errorf("%+v", s)
			}
			if v := version(t, p); v != 2 {
				t.Errorf("version %d answers", v)
			}
			if err := <-slow; mode == "serve" && err != nil {
				t.Errorf("the call in flight: %v", err)
			}
			eventually(t, "it is proven", func() bool { return p.State().Swap.Phase == SwapDone })
			eventually(t, "the old one is gone", func() bool { return syscall.Kill(old, 0) == syscall.ESRCH })
			if kept, err := os.ReadFile(p.files.kept()); err != nil || !strings.Contains(string(kept), "V=2") {
				t.Errorf("kept is %q, %v", kept, err)
			}
			if s := p.State(); s.Crashes != 0 || s.Starts != 2 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestBadSwaps has new programs that are no good. Each leaves the old one as it was, and says why.
func TestBadSwaps(t *testing.T) {
	self, _ := os.Executable()
	test, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	foreign, arch := byte(elfARM64), "linux/arm64"
	if runtime.GOARCH == "arm64" {
		foreign, arch = elfAMD64, "linux/amd64"
	}
	strange := bytes.Clone(test)
	strange[18] = foreign // e_machine
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		phase   SwapPhase
		text    string
	}{
		"half":       {string(test[:len(test)/2]), 0o755, SwapWaiting, "half-written"},
		"empty":      {"", 0o755, SwapWaiting, "is empty"},
		"other arch": {string(strange), 0o755, SwapRefused, "a program for " + arch},
		"no x bit":   {script(t, "serve", 2), 0o644, SwapRefused, "not executable"},
		"no hello":   {script(t, "nohello", 2), 0o755, SwapRefused, "has not said hello"},
		"exit 0":     {script(t, "exit0", 2), 0o755, SwapRefused, "ended before it said hello (exit status 0)"},
		"exit 3":     {script(t, "exit3", 2), 0o755, SwapRefused, "exit status 3"},
		"panic":      {script(t, "panic", 2), 0o755, SwapRefused, "no such table"},
		"garbage":    {script(t, "garbage", 2), 0o755, SwapRefused, "does not speak frames"},
		"fork":       {script(t, "fork", 2), 0o755, SwapRefused, "ended before it said hello"},
		"close":      {script(t, "close", 2), 0o755, SwapRefused, "without a hello"},
		"jsonl":      {script(t, "lines", 2), 0o755, SwapRefused, "ended before it said hello"},
		"misfit":     {script(t, "serve", 2), 0o755, SwapRefused, "does not fit"},
		"dies":       {script(t, "quick", 2), 0o755, SwapRolledBack, "exit status 4"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := swapCell(t, "serve")
			cfg.StartTimeout, cfg.StopTimeout = 2*time.Second, 100*time.Millisecond
			var told atomic.Int64
			p := newProgram(t, cfg, Deps{RolledBack: func(c *cellproto.Conn, why error) {
				if c == nil || !strings.Contains(why.Error(), "exit status 4") {
					t.Errorf("%v rolled back because of %v", c, why)
				}
				told.Add(1)
			}})
			if version(t, p) != 1 {
				t.Fatal("version 1 does not run")
			}
			old := p.State().PID
			install(t, cfg.Dir, c.content, c.mode)
			err := p.Swap(testContext(t), Candidate{Fit: func(context.Context, *cellproto.Conn) error {
				if name == "misfit" {
					return cellproto.Errorf("swap", cellproto.Incompatible, "it does not fit").WithHint("Make it fit.")
				}
				return nil
			}})
			if err == nil && c.phase != SwapRolledBack {
				t.Error("it is taken")
			}
			eventually(t, "it is "+string(c.phase), func() bool {
				s := p.State().Swap // one that dies at once may not even take over
				return s.Phase == c.phase && s.Reason != "" || c.phase == SwapRolledBack && s.Phase == SwapRefused
			})
			s := p.State()
			if !strings.Contains(s.Swap.Reason, c.text) || s.Swap.Hint == "" || s.Swap.Since.IsZero() {
				t.Errorf("%+v", s.Swap)
			}
			if s.PID != old || s.Phase != Running || version(t, p) != 1 {
				t.Errorf("the old one does not serve: %+v", s)
			}
			if rolledBack := s.Swap.Phase == SwapRolledBack; rolledBack {
				eventually(t, "it is told", func() bool { return told.Load() == 1 })
			}
			if err := p.Stop(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if c.phase == SwapWaiting {
				return // nobody has refused it
			}
			// It goes on to serve after a stop, and with the next nucleus.
			if v := version(t, p); v != 1 {
				t.Errorf("version %d after a stop", v)
			}
			next := newProgram(t, cfg, Deps{})
			if v := version(t, next); v != 1 {
				t.Errorf("version %d of the next nucleus", v)
			}
			if s := next.State().Swap; s.Phase != SwapRefused || !strings.Contains(s.Reason, c.text) {
				t.Errorf("the next nucleus says %+v", s)
			}
			// A good one is taken up without being asked for.
			install(t, cfg.Dir, script(t, "serve", 3), 0o755)
			if err := next.Stop(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if v := version(t, next); v != 3 {
				t.Errorf("version %d after a good one came", v)
			}
		})
	}
}

// TestReplacedWhileStopped has a program that is replaced by a bad one while nothing runs.
func TestReplacedWhileStopped(t *testing.T) {
	for _, mode := range []string{"exit3", "quick"} {
		t.Run(mode, func(t *testing.T) {
			cfg := swapCell(t, "serve")
			p := newProgram(t, cfg, Deps{})
			version(t, p)
			if err := p.Stop(testContext(t)); err != nil {
				t.Fatal(err)
			}
			install(t, cfg.Dir, script(t, mode, 2), 0o755)
			eventually(t, "version 1 answers", func() bool {
				_, err := call(testContext(t), p, "echo", nil, cellproto.Raw)
				if err != nil && mode == "exit3" { // it has never spoken: nobody may notice
					t.Fatal(err)
				}
				return err == nil
			})
			if v := version(t, p); v != 1 {
				t.Errorf("version %d", v)
			}
			if s := p.State(); s.Swap.Phase != SwapRolledBack || s.Swap.Reason == "" || !strings.HasSuffix(p.Binary(), keptFile) {
				t.Errorf("%+v, %s", s.Swap, p.Binary())
			}
		})
	}
}

// TestRollBackUnderLoad has a new program that serves for a while and dies.
func TestRollBackUnderLoad(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	version(t, p)
	old := p.State().PID
	install(t, p.cfg.Dir, script(t, "serve", 2), 0o755)
	if err := p.Swap(testContext(t), Candidate{}); err != nil {
		t.Fatal(err)
	}
	if v := version(t, p); v != 2 {
		t.Fatalf("version %d", v)
	}
	_, err := call(testContext(t), p, "exit", nil, cellproto.Raw)
	wantError(t, err, cellproto.MayHaveRun, "", "")
	if v := version(t, p); v != 1 {
		t.Errorf("version %d", v)
	}
	eventually(t, "the reason is known", func() bool { return p.State().Swap.Reason != "" })
	if s := p.State(); s.PID != old || s.Swap.Phase != SwapRolledBack || !strings.Contains(s.Swap.Reason, "exit status 7") {
		t.Errorf("%+v", s)
	}
	// Asked for, it is tried again.
	if err := p.Swap(testContext(t), Candidate{}); err != nil || version(t, p) != 2 {
		t.Errorf("again: %v", err)
	}
}

func TestSwapFrozen(t *testing.T) {
	cfg := swapCell(t, "serve")
	cfg.FreezeAfter = 20 * time.Millisecond
	p := newProgram(t, cfg, Deps{})
	version(t, p)
	old := p.State().PID
	awaitPhase(t, p, Frozen)
	install(t, cfg.Dir, script(t, "serve", 2), 0o755)
	if err := p.Swap(testContext(t), Candidate{}); err != nil || version(t, p) != 2 {
		t.Fatal(err)
	}
	if !stopped(t, old) {
		t.Error("who stands by is thawed")
	}
	_, _ = call(testContext(t), p, "exit", nil, cellproto.Raw)
	if v := version(t, p); v != 1 || p.State().PID != old {
		t.Errorf("version %d", v)
	}
	awaitPhase(t, p, Frozen)
}

// TestSwapUnderLoad swaps again and again under callers, some of which take their time. None of their
// calls may be lost or run twice.
func TestSwapUnderLoad(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	p.trialTime = 20 * time.Millisecond
	ctx := testContext(t)
	version(t, p)
	var over atomic.Bool
	var calls atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := 0; !over.Load(); n++ {
				fn, args := "echo", make([]byte, 4)
				if n%8 == i%8 {
					fn = "sleep"
					binary.BigEndian.PutUint32(args, 5)
				}
				if _, err := call(ctx, p, fn, args, cellproto.Raw); err != nil {
					t.Errorf("%s: %v", fn, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for v := 2; v < 10; v++ {
		before := calls.Load()
		eventually(t, "calls go on", func() bool { return calls.Load() > before+50 || t.Failed() })
		install(t, p.cfg.Dir, script(t, "serve", v), 0o755)
		if err := p.Swap(ctx, Candidate{}); err != nil {
			t.Error(err)
		}
		if got := version(t, p); got != v {
			t.Errorf("version %d, want %d", got, v)
		}
	}
	over.Store(true)
	wg.Wait()
	if s := p.State(); s.Crashes != 0 || s.Starts != 9 {
		t.Errorf("%+v", s)
	}
	eventually(t, "only the last one is left", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.all) == 1 })
}

func TestSwapWhenNothingRuns(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	if err := p.Swap(testContext(t), Candidate{}); err != nil {
		t.Fatal(err)
	}
	if s := p.State(); s.Phase != Running || version(t, p) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestSwapGivenUp(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	version(t, p)
	old := p.State().PID
	install(t, p.cfg.Dir, script(t, "nohello", 2), 0o755)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	wantError(t, p.Swap(ctx, Candidate{}), cellproto.Timeout, "before the new program was ready", "")
	if s := p.State(); s.PID != old || s.Swap.Phase != SwapNone || version(t, p) != 1 {
		t.Errorf("%+v", s)
	}
	install(t, p.cfg.Dir, script(t, "serve", 3), 0o755)
	if err := p.Swap(testContext(t), Candidate{}); err != nil || version(t, p) != 3 {
		t.Errorf("after it: %v", err)
	}
	if err := p.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wantError(t, p.Swap(testContext(t), Candidate{}), cellproto.Unavailable, "stopping", "")
}

// What the look at a program has found is nothing once nobody waits for it any more.
func TestSwapGivenUpWhileLookedAt(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	version(t, p)
	old := p.State().PID
	install(t, p.cfg.Dir, script(t, "serve", 2), 0o755)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	err := p.Swap(ctx, Candidate{
		Fit:   func(context.Context, *cellproto.Conn) error { cancel(); return nil },
		Moved: func(*cellproto.Conn) { t.Error("it has taken over") },
	})
	wantError(t, err, cellproto.Canceled, "before the new program was ready", "")
	if s := p.State(); s.PID != old || s.Swap.Phase != SwapNone || version(t, p) != 1 {
		t.Errorf("%+v", s)
	}
}

// TestStopDuringSwap stops everything while the new one starts, which is no fault of it.
func TestStopDuringSwap(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	version(t, p)
	install(t, p.cfg.Dir, script(t, "serve", 2), 0o755)
	swapped := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		swapped <- p.Swap(context.Background(), Candidate{Fit: func(_ context.Context, c *cellproto.Conn) error {
			close(begun)
			<-c.Done()
			return cellproto.Errorf("fit", cellproto.Failed, "it is gone")
		}})
	}()
	<-begun
	if err := p.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-swapped, cellproto.Unavailable, "stopped while it started", "")
	if s := p.State().Swap; s.Phase != SwapNone {
		t.Errorf("%+v", s)
	}
	if v := version(t, p); v != 2 {
		t.Errorf("version %d", v)
	}
}

func FuzzWholeELF(f *testing.F) {
	f.Add(elfHead(elfAMD64))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		wholeELF(bytes.NewReader(data), int64(len(data)))
	})
}

// TestStopDuringTrial stops everything while the old one stands by.
func TestStopDuringTrial(t *testing.T) {
	p := newProgram(t, swapCell(t, "serve"), Deps{})
	version(t, p)
	old := p.State().PID
	install(t, p.cfg.Dir, script(t, "serve", 2), 0o755)
	if err := p.Swap(testContext(t), Candidate{}); err != nil {
		t.Fatal(err)
	}
	young := p.State().PID
	if err := p.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkReaped(t, old)
	checkReaped(t, young)
	if v := version(t, p); v != 2 {
		t.Errorf("version %d", v)
	}
	if s := p.State(); s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
}

// TestKeptBesideABrokenCache has a cache that cannot be written, or that holds nonsense.
func TestKeptBesideABrokenCache(t *testing.T) {
	cfg := swapCell(t, "serve")
	if err := os.WriteFile(filepath.Join(cfg.Dir, "cache"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, cfg, Deps{})
	if v := version(t, p); v != 1 || p.Binary() != filepath.Join(cfg.Dir, cfg.Binary) {
		t.Errorf("version %d, %s", v, p.Binary())
	}
	cfg = swapCell(t, "serve")
	os.MkdirAll(filepath.Join(cfg.Dir, keptDir), 0o700)
	for name, content := range map[string]string{refusedFile: "{", nextPrefix + "7": "old"} {
		os.WriteFile(filepath.Join(cfg.Dir, keptDir, name), []byte(content), 0o600)
	}
	p = newProgram(t, cfg, Deps{})
	if v := version(t, p); v != 1 {
		t.Errorf("version %d", v)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, keptDir, nextPrefix+"7")); err == nil {
		t.Error("a left-over stays")
	}
}

func TestKeptAcrossFileSystems(t *testing.T) { // where there are no links there are copies
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	os.WriteFile(from, []byte("program"), 0o755)
	if other, err := os.MkdirTemp("/dev/shm", "celld"); err == nil {
		t.Cleanup(func() { os.RemoveAll(other) })
		to = filepath.Join(other, "b")
	}
	if err := linkOrCopy(from, to); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(to)
	if err != nil || info.Size() != 7 || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("%v, %v", info, err)
	}
	a, _ := Digest(from)
	if b, err := Digest(to); err != nil || a != b {
		t.Errorf("%x, %x, %v", a, b, err)
	}
}
