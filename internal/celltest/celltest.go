// Package celltest runs networks of real nuclei for tests: celld processes on loopback, each in a
// directory of its own, on a private network that nothing leaves, driven by the real cellctl.
//
// It owns the processes that it starts and nothing else: it ends them by their id, and says so when
// one of them does not end or leaves something behind. It is for tests only and reports every
// failure of its own to the test.
package celltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// Patience is how long anything may take on a busy machine before it counts as failed.
const Patience = 60 * time.Second

// moduleRoot is this module, seen from a test's working directory.
const moduleRoot = "../.."

var (
	build    sync.Once
	binDir   string
	buildErr error
)

// Bin gives the directory with celld, cellctl, cellbox and the programs of the examples. They are built once
// for each test process.
func Bin(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		if binDir, buildErr = os.MkdirTemp("", "celltest-bin"); buildErr != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", binDir+string(filepath.Separator), "./cmd/celld", "./cmd/cellctl", "./cmd/cellbox",
			"./examples/calculator", "./examples/counter", "./examples/digest", "./examples/guestbook",
			"./internal/celltest/testdata/tally", "./internal/celltest/testdata/asks", "./internal/celltest/testdata/majors", "./internal/celltest/testdata/sums", "./internal/celltest/testdata/badcelld")
		cmd.Dir = moduleRoot
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatalf("cannot build the binaries: %v", buildErr)
	}
	return binDir
}

// Main runs the tests of a package that uses Bin, and removes what it built. Its result is for os.Exit.
func Main(m *testing.M) int {
	code := m.Run()
	if binDir != "" {
		os.RemoveAll(binDir)
	}
	return code
}

var networks atomic.Int64

// Net is one private network. Its cells end with the test.
type Net struct {
	t         testing.TB
	name      string
	root      string
	bootstrap []string
	home      *Cell
	env       []string // besides what Env gives
	cells     atomic.Int64
}

// New makes a network without any cells.
func New(t testing.TB) *Net {
	t.Helper()
	Bin(t)
	n := &Net{t: t, name: fmt.Sprintf("celltest-%d-%d", os.Getpid(), networks.Add(1)), root: t.TempDir()}
	t.Cleanup(n.endLate)
	n.home = n.At("home") // cellctl starts its nucleus when it needs one
	return n
}

// endLate ends the daemons below the network's directory that a cell had begun to start when it was stopped itself: the
// home cell's, above all. It is the last cleanup but for the directory's own.
func (n *Net) endLate() {
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		found := false
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // of a good pattern; elsewhere there are none
		for _, file := range files {
			line, err := os.ReadFile(file)
			pid, perr := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err == nil && perr == nil && pid != os.Getpid() && strings.Contains(string(line), "\x00"+n.root+"/") {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
		if !found {
			return
		}
	}
}

// Bootstrap starts a headless nucleus, as a home router runs it, by which every nucleus that is
// started later finds the others.
func (n *Net) Bootstrap() *Cell {
	n.t.Helper()
	c := n.Headless("router")
	c.Start()
	n.bootstrap = append(n.bootstrap, c.Status().Addrs...)
	return c
}

// Headless makes a cell without a program. It does not run yet.
func (n *Net) Headless(name string) *Cell {
	n.t.Helper()
	c := n.cell(name)
	c.write("cell.toml", fmt.Sprintf("[cell]\nname = %q\n", name), 0o644)
	return c
}

// Example makes a cell of one of the examples, with its program built. It does not run yet.
func (n *Net) Example(name string) *Cell {
	n.t.Helper()
	c := n.cell(name)
	source := filepath.Join(moduleRoot, "examples", name)
	c.copyFile(filepath.Join(source, "cell.toml"), "cell.toml", 0o644)
	if name == "greet" {
		c.copyFile(filepath.Join(source, "greet.sh"), "bin/greet", 0o755)
		c.copyFile(filepath.Join(source, "schema.json"), "schema.json", 0o644)
		return c
	}
	c.copyFile(filepath.Join(Bin(n.t), name), filepath.Join("bin", name), 0o755)
	return c
}

// At makes a cell of what is, or will be, in a directory within the network's own. It does not run yet.
func (n *Net) At(dir string) *Cell {
	n.t.Helper()
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(n.root, dir)
	}
	c := &Cell{Dir: dir, n: n, t: n.t}
	n.t.Cleanup(c.cleanup)
	return c
}

// Copy makes a cell that is a copy of another one's directory, as it would be carried to another
// machine: without its host key.
func (n *Net) Copy(from *Cell) *Cell {
	n.t.Helper()
	c := n.cell(filepath.Base(from.Dir))
	err := filepath.WalkDir(from.Dir, func(path string, d fs.DirEntry, err error) error {
		name, rerr := filepath.Rel(from.Dir, path)
		switch {
		case err != nil || rerr != nil:
			return errors.Join(err, rerr)
		case d.IsDir() && name == ctl.RunDir:
			return filepath.SkipDir
		case !d.Type().IsRegular() || name == filepath.Join("keys", "host.key"):
			return nil
		}
		info, err := d.Info()
		if err == nil {
			c.copyFile(path, name, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *Net) cell(name string) *Cell {
	n.t.Helper()
	dir := filepath.Join(fmt.Sprint(n.cells.Add(1)), name)
	c := n.At(dir)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// place is a machine of its own within the network. A nil one is this machine, on loopback.
type place struct {
	dir    string // has the home cell
	listen string
	start  func(*exec.Cmd) error // starts a process there
}

func (p *place) launch(cmd *exec.Cmd) error {
	if p == nil {
		return cmd.Start()
	}
	return p.start(cmd)
}

// Env is the environment of everything that runs in the network.
func (n *Net) Env() []string { return n.environ(nil) }

func (n *Net) environ(on *place) []string {
	if on == nil {
		on = &place{dir: n.root, listen: "/ip4/127.0.0.1/tcp/0"}
	}
	env := []string{
		"PATH=" + Bin(n.t) + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + on.dir, "NO_COLOR=1",
		cellproto.EnvHome + "=" + filepath.Join(on.dir, "home"), cellproto.EnvNetwork + "=" + n.name,
		cellproto.EnvListen + "=" + on.listen, cellproto.EnvMDNS + "=off", cellproto.EnvFileRepos + "=on",
		// What is built must not need a network, nor what this machine has fetched.
		"GOCACHE=" + goCache(n.t), "GOMODCACHE=" + filepath.Join(n.root, "no-modules"), "GOPROXY=off", "GOTOOLCHAIN=local",
		"GOFLAGS=-trimpath -buildvcs=false", "GOWORK=off",
	}
	if len(n.bootstrap) > 0 {
		env = append(env, cellproto.EnvBootstrap+"="+strings.Join(n.bootstrap, ","))
	}
	return append(env, n.env...)
}

var askGoCache = sync.OnceValues(exec.Command("go", "env", "GOCACHE").Output)

func goCache(t testing.TB) string {
	t.Helper()
	out, err := askGoCache()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// Result is what a run of cellctl has left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Ctl runs cellctl in a directory and gives what came of it, whatever that is.
func (n *Net) Ctl(dir string, args ...string) Result { n.t.Helper(); return n.ctl(nil, dir, args...) }

func (n *Net) ctl(on *place, dir string, args ...string) Result {
	n.t.Helper()
	return n.ctlWithin(Patience, on, dir, args...)
}

func (n *Net) ctlWithin(limit time.Duration, on *place, dir string, args ...string) Result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(Bin(n.t), "cellctl"), args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, n.environ(on), &out, &errs
	err := on.launch(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		n.t.Fatalf("cellctl %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// Must runs cellctl, which has to succeed, and gives its output without the last newline.
func (n *Net) Must(dir string, args ...string) string { n.t.Helper(); return n.must(nil, dir, args...) }

func (n *Net) must(on *place, dir string, args ...string) string {
	n.t.Helper()
	r := n.ctl(on, dir, args...)
	if r.Code != 0 {
		n.t.Fatalf("cellctl %s: exit code %d\n%s", strings.Join(args, " "), r.Code, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Eventually waits until ok is true, for what has no event to wait for. It asks less often the longer it takes, for
// most of what a question costs is taken from what is waited for.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for pause := 10 * time.Millisecond; !ok(); pause = min(pause*5/4, 200*time.Millisecond) {
		select {
		case <-time.After(pause):
		case <-deadline.C:
			t.Fatalf("still not after %v: %s", Patience, what)
		}
	}
}

// Use calls a function on behalf of this cell, through its nucleus, and gives the reply's bytes.
func (c *Cell) Use(ctx context.Context, target, fn string, argv ...string) ([]byte, ctl.UseMeta, error) {
	timeout := Patience
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	req := ctl.UseRequest{Target: target, Func: fn, Argv: append([]string{}, argv...), Timeout: timeout, CallerDir: c.Dir}
	reply, err := (&ctl.Client{Dir: c.Dir}).Use(ctx, req, nil)
	if err != nil {
		return nil, ctl.UseMeta{}, err
	}
	defer reply.Close()
	data, err := io.ReadAll(reply)
	return data, reply.UseMeta, err
}
