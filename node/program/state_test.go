package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

func TestBackoff(t *testing.T) {
	want := []time.Duration{0, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000}
	for n, ms := range want {
		if got := backoff(n); got != ms*time.Millisecond {
			t.Errorf("backoff(%d) = %v", n, got)
		}
	}
	if backoff(-1) != 0 || backoff(1<<30) != maxBackoff {
		t.Error("ends")
	}
}

func TestHealth(t *testing.T) {
	now := time.Unix(1000, 0)
	fail := func() *cellproto.Error { return cellproto.Errorf("start", cellproto.Unavailable, "broken") }
	var h health
	check := func(step string, wantPause time.Duration, wantErr bool) {
		t.Helper()
		pause, err := h.mayStart(now)
		if pause != wantPause || (err != nil) != wantErr {
			t.Errorf("%s: %v, %v", step, pause, err)
		}
	}
	check("new", 0, false)

	h.startFailed(now, fail())
	check("failed", 0, true)
	if _, err := h.mayStart(now.Add(60 * time.Millisecond)); cellproto.RetryAfterOf(err) != 40*time.Millisecond {
		t.Errorf("retry after %v", cellproto.RetryAfterOf(err))
	}
	now = now.Add(100 * time.Millisecond)
	check("after the pause", 0, false)
	h.startFailed(now, fail())
	now = now.Add(100 * time.Millisecond)
	check("the second pause is longer", 0, true)
	h.succeeded()
	check("after a success", 0, false)

	h.crashed(now, time.Second, fail())
	check("the first crash costs no pause", 0, false)
	h.crashed(now, time.Second, fail())
	check("the second one does, and requests wait", 100*time.Millisecond, false)
	for range 5 {
		h.crashed(now, time.Second, fail())
	}
	check("but not for long", 0, true)
	h.crashed(now, time.Minute, fail())
	check("a long life makes up for it", 0, false)
}

func TestEnviron(t *testing.T) {
	getenv := func(key string) (string, bool) {
		v, ok := map[string]string{"HOME": "/home/u", "LANG": "", "CELL_KEY": "x", "AWS_SECRET": "y", "TZ": "UTC"}[key]
		return v, ok
	}
	cfg := Config{Dir: "/cell", Name: "c", Env: map[string]string{"TZ": "CET", "A": "b"}}
	got := strings.Join(environ(cfg, getenv, 1), " ")
	if want := "A=b CELL_DIR=/cell CELL_FD=3 CELL_NAME=c HOME=/home/u PATH=" + defaultPath + " TZ=CET"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := environ(cfg, getenv, 0); strings.Contains(strings.Join(got, " "), cellproto.EnvFD) {
		t.Error("a socket that is not there")
	}
}

// TestLeftover has a program that outlived its nucleus.
func TestLeftover(t *testing.T) {
	if !canIdentify {
		t.Skip("this system does not identify processes")
	}
	dir := cellDir(t)
	leftover := func(procDir, env string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(dir, "bin", "prog"))
		cmd.Dir = procDir
		cmd.Env = []string{envMode + "=block", cellproto.EnvDir + "=" + env}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	path := filepath.Join(dir, "run", pidFile)
	alive := func(cmd *exec.Cmd) bool { return startTime(cmd.Process.Pid) != 0 }

	for name, cmd := range map[string]*exec.Cmd{"by directory": leftover(dir, ""), "by environment": leftover("/", dir)} {
		newPIDs(dir, zap.NewNop()).record(cmd.Process.Pid)
		newPIDs(dir, zap.NewNop()).killLeftovers()
		if alive(cmd) {
			t.Errorf("%s: it lives", name)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: the file stays: %v", name, err)
		}
	}
	other := leftover("/", "/elsewhere")
	newPIDs(dir, zap.NewNop()).record(other.Process.Pid)
	newPIDs(dir, zap.NewNop()).killLeftovers()
	if !alive(other) {
		t.Error("a process of somebody else was killed")
	}
	mine := leftover(dir, dir)
	for _, content := range []string{"", "x", "1 1\n", "-5 3\n", "99999999999999999999 1\n", "0 0\n",
		strings.Repeat("9", 100)} {
		os.WriteFile(path, []byte(content), 0o600)
		newPIDs(dir, zap.NewNop()).killLeftovers()
	}
	// The number was given to another process of the cell, which began later.
	os.WriteFile(path, []byte(fmt.Sprintf("%d 1\n", mine.Process.Pid)), 0o600)
	newPIDs(dir, zap.NewNop()).killLeftovers()
	if !alive(mine) {
		t.Error("a process with another start time was killed")
	}

	second := leftover(dir, dir)
	both := newPIDs(dir, zap.NewNop())
	both.record(mine.Process.Pid)
	both.record(second.Process.Pid)
	p := newProgram(t, testConfig(dir, "serve"), Deps{})
	mustConn(t, p)
	if alive(mine) || alive(second) {
		t.Error("the next start leaves one of them")
	}
}

func FuzzParsePID(f *testing.F) {
	f.Add([]byte("12 345\n"))
	f.Add([]byte("12 345"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, start, ok := parsePID(data); ok && start == 0 {
			t.Fatal("no start time")
		}
	})
}
