package program

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

// launcher builds cellbox and this package's tests, once: the race detector needs more memory than a sandbox gives,
// so that this very process cannot be the program. It gives their directory.
var launcher = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cellbox-test")
	if err != nil {
		return "", err
	}
	built = append(built, dir)
	for _, args := range [][]string{{"build", "-o", dir + "/", "../../cmd/cellbox"}, {"test", "-c", "-o", dir + "/prog", "."}} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return string(out), err
		}
	}
	return dir, nil
})

// confinedConfig is a cell whose program, this package's tests, runs in a sandbox; the test is skipped where
// none works.
func confinedConfig(t *testing.T, mode string) Config {
	t.Helper()
	bin, err := launcher()
	if err != nil {
		t.Fatalf("cannot build cellbox and the program: %v\n%s", err, bin)
	}
	path := filepath.Join(bin, "cellbox")
	support, err := sandbox.ProbeThrough(testContext(t), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := support.Best(); !ok {
		t.Skipf("no sandbox works here: %v", support)
	}
	dir := t.TempDir()
	self, err := os.ReadFile(filepath.Join(bin, "prog"))
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "bin"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin", "prog"), self, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cell.toml"), []byte("[cell]\nname = \"cell\"\n"), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "schema.json"), []byte(`{"cell":"cell","functions":{"echo":{},"env":{}}}`), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(dir, mode)
	delete(cfg.Env, "GOCOVERDIR")
	cfg.Sandbox = &Sandbox{Launcher: path}
	return cfg
}

// A confined program serves as any other does, knows nothing of the owner's environment, and is gone with
// its nucleus's word.
func TestConfined(t *testing.T) {
	t.Setenv("SECRET", "of the owner")
	for _, mode := range []string{"serve", "lines", "sdk"} {
		t.Run(mode, func(t *testing.T) {
			p := newProgram(t, confinedConfig(t, mode), Deps{Accept: func(*cellproto.Conn, *cellproto.Frame) { t.Error("it calls others") }})
			got, err := call(testContext(t), p, "echo", []byte(`1`), cellproto.JSON)
			if err != nil || string(got) != "1" {
				t.Fatalf("%s, %v (%s)", got, err, cellproto.HintOf(err))
			}
			s := p.State()
			if !strings.HasPrefix(s.Tier, "T") {
				t.Errorf("its tier is %q", s.Tier)
			}
			status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.PID), "status"))
			if err != nil || !strings.Contains(string(status), "Seccomp:\t2") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
				t.Errorf("process %d is not confined: %v\n%s", s.PID, err, status)
			}
			if mode == "sdk" {
				return
			}
			env, err := call(testContext(t), p, "env", []byte(`{}`), cellproto.JSON)
			if err != nil || strings.Contains(string(env), "SECRET") || strings.Contains(string(env), cellproto.EnvHandoff+"=") {
				t.Errorf("its environment is %s: %v", env, err)
			}
			if g := p.Granted(); g.Conns != 0 {
				t.Errorf("it was granted %d connections", g.Conns)
			}
		})
	}
}

// A confined program is frozen and thawed through its sandbox, and so is one that will not end.
func TestConfinedFreezes(t *testing.T) {
	cfg := confinedConfig(t, "stubborn")
	cfg.FreezeAfter = 30e6
	cfg.StopTimeout = 100e6
	p := newProgram(t, cfg, Deps{})
	for range 2 {
		if got, err := call(testContext(t), p, "echo", []byte(`1`), cellproto.JSON); err != nil || string(got) != "1" {
			t.Fatalf("%s, %v", got, err)
		}
		awaitPhase(t, p, Frozen)
		eventually(t, "its process is stopped", func() bool { return stopped(t, p.State().PID) })
	}
	pid := p.State().PID
	if err := p.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	checkReaped(t, pid)
	if s := p.State(); s.Starts != 1 || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
}

// A program that ends by itself is started again, and how it ended is said.
func TestConfinedCrash(t *testing.T) {
	p := newProgram(t, confinedConfig(t, "serve"), Deps{})
	if _, err := call(testContext(t), p, "exit", nil, cellproto.JSON); err == nil {
		t.Error("a program that has exited has answered")
	}
	eventually(t, "its end is noted", func() bool { return p.State().LastExit == "exit status 7" })
	if got, err := call(testContext(t), p, "echo", []byte(`1`), cellproto.JSON); err != nil || string(got) != "1" {
		t.Fatalf("%s, %v", got, err)
	}
	pid := p.State().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end is noted", func() bool { return strings.Contains(p.State().LastExit, "killed") })
}

// What cannot be confined is not run.
func TestNotConfined(t *testing.T) {
	for name, path := range map[string]string{"no launcher": "/nonexistent/cellbox", "another program": "/bin/true"} {
		cfg := confinedConfig(t, "serve")
		cfg.Sandbox.Launcher = path
		core, logs := observer.New(zap.WarnLevel)
		p := newProgram(t, cfg, Deps{Log: zap.New(core)})
		_, err := p.Conn(testContext(t))
		if cellproto.KindOf(err) != cellproto.Unavailable || p.State().PID != 0 {
			t.Errorf("%s: %v, process %d", name, err, p.State().PID)
		}
		if logs.Len() == 0 {
			t.Errorf("%s: nothing is said", name)
		}
	}
	cfg := confinedConfig(t, "serve")
	cfg.Sandbox.Launcher = "cellbox"
	if _, err := New(cfg, Deps{}); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("a launcher from wherever PATH leads: %v", err)
	}
}

// A start that nobody wants any more ends.
func TestConfinedStopped(t *testing.T) {
	p := newProgram(t, confinedConfig(t, "nohello"), Deps{})
	ctx, cancel := context.WithCancel(testContext(t))
	failed := make(chan error, 1)
	go func() { _, err := p.Conn(ctx); failed <- err }()
	eventually(t, "it starts", func() bool { return p.State().Phase == Starting })
	if err := p.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-failed; err == nil {
		t.Error("it has started")
	}
}
