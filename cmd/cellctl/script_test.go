package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/celldnet/celld/internal/ctl"
)

// binDir has the real binaries, built once for all scripts.
var binDir string

// haveCelld is true where cmd/celld exists; the scripts e2e_*.txt need it.
var haveCelld bool

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	var err error
	if binDir, err = os.MkdirTemp("", "cellctl-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binDir)
	if err := buildBinaries(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code := m.Run(); code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// buildBinaries builds cellctl, and celld and cellbox where there is one.
func buildBinaries() error {
	packages := []string{"."}
	if _, err := os.Stat("../celld"); err == nil {
		haveCelld = true
		packages = append(packages, "../celld", "../cellbox")
	}
	for _, p := range packages {
		build := exec.Command("go", "build", "-o", binDir+string(filepath.Separator), p)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", p, err, out)
		}
	}
	return nil
}

func TestScripts(t *testing.T) { runScripts(t, false) }

func TestScriptsEndToEnd(t *testing.T) {
	if !haveCelld {
		t.Skip("there is no cmd/celld")
	}
	runScripts(t, true)
}

func runScripts(t *testing.T, endToEnd bool) {
	all, err := filepath.Glob("testdata/script/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range all {
		if strings.HasPrefix(filepath.Base(f), "e2e_long_") && os.Getenv("CELL_LONG") == "" {
			continue // it needs a machine that nobody else uses
		}
		if strings.HasPrefix(filepath.Base(f), "e2e_") == endToEnd {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		t.Skip("no such scripts")
	}
	goCache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files:               files,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", binDir+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("BIN", binDir)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CELL_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("CELL_NETWORK", "cellctl-test") // and nothing leaves this machine
			e.Setenv("CELL_LISTEN", "/ip4/127.0.0.1/tcp/0")
			e.Setenv("CELL_MDNS", "off")
			// What is built in a script must not need a network, nor what this machine has fetched.
			e.Setenv("GOCACHE", strings.TrimSpace(string(goCache)))
			e.Setenv("GOMODCACHE", filepath.Join(e.WorkDir, "no-modules"))
			e.Setenv("GOPROXY", "off")
			e.Setenv("GOTOOLCHAIN", "local")
			e.Setenv("GOFLAGS", "-trimpath -buildvcs=false") // so that the SDK is compiled once, wherever it lies
			e.Setenv("CGO_ENABLED", "0")
			e.Setenv("GOWORK", "off")
			e.Defer(func() { stopAll(t, e.WorkDir) })
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":   exits,
			"await":   await,
			"replace": replace,
		},
	})
}

// stopAll stops the nuclei that a script has left running in its directory.
func stopAll(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != string(ctl.ControlSocket) {
			return err
		}
		cell := filepath.Dir(filepath.Dir(path))
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := (&ctl.Client{Dir: cell}).Stop(ctx); err != nil {
			return nil // it has stopped, or it does so now
		}
		return awaitStop(ctx, cell)
	})
	if err != nil {
		t.Errorf("cannot stop what runs in %s: %v", dir, err)
	}
}

// exits runs a command and checks its exit code: exits CODE COMMAND ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// await runs a command until it prints what is wanted: await PATTERN COMMAND ARGS...
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await PATTERN COMMAND ARGS...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(startTimeout); ; <-tick.C {
		_ = ts.Exec(args[1], args[2:]...) // it may fail until it succeeds
		if out := ts.ReadFile("stdout"); want.MatchString(out) {
			return
		} else if time.Now().After(deadline) {
			ts.Fatalf("%s never came; last:\n%s", args[0], out)
		}
	}
}

// replace writes a copy of a file with a text replaced: replace FILE OLD NEW TO.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: replace FILE OLD NEW TO")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o644))
}
