package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/sandbox"
)

// What a stranger's build may do, and what it may not, in the real sandbox.
func TestBuild(t *testing.T) {
	box := filepath.Join(t.TempDir(), "cellbox")
	cmd := exec.Command("go", "build", "-o", box, "../cmd/cellbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv(sandbox.EnvLauncher, box)
	support, err := sandbox.ProbeThrough(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	if best, ok := support.Best(); !ok || best != sandbox.T1 {
		t.Skipf("builds need T1: %v", support)
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	put := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(home, "secret"), "of the owner")
	b := builder{&nucleus{cfg: &celltoml.Config{Dir: t.TempDir()}}}
	for _, c := range []struct {
		name, command string
		kind          cellproto.Kind // 0: it is built
		says          string
	}{
		{"a build", "echo built > bin/x", 0, ""},
		{"make", "make", 0, ""},
		{"a build that fails", "echo no compiler >&2; exit 3", cellproto.Failed, "status 3: no compiler"},
		{"a build that leaves nothing", "true", cellproto.Failed, ""},
		{"a link instead of a program", "ln -s " + home + "/secret bin/x", cellproto.Failed, ""},
		{"a build that reads $HOME", "cat " + home + "/secret > bin/x", cellproto.Failed, "No such file"},
		{"a build that writes elsewhere", "echo x > " + home + "/x && echo x > bin/x", cellproto.Failed, ""},
		{"a build that forks without end", "f() { f | f & }; f; wait; sleep 0.2; exit 5", cellproto.Failed, ""},
		{"terminal escapes", "printf 'a\\033[2Jb\\n' >&2; exit 1", cellproto.Failed, "a?[2Jb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(filepath.Join(dir, "Makefile"), "all:\n\techo made > bin/x\n")
			err := b.Build(t.Context(), mirror.Job{Dir: dir, Command: c.command, Output: "bin/x"})
			if c.kind == 0 && err != nil || c.kind != 0 && cellproto.KindOf(err) != c.kind || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			_, serr := os.Lstat(filepath.Join(dir, "bin", "x"))
			if (serr == nil) != (c.kind == 0) {
				t.Errorf("the output: %v", serr)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(home, "x")); err == nil {
		t.Error("a build has written to the owner's home")
	}
	t.Run("a build that needs the network", func(t *testing.T) {
		dir := t.TempDir()
		// Without a network there is no address to speak from, not even loopback.
		put(filepath.Join(dir, "net.sh"), "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/1 && echo x > bin/x\n")
		if err := b.Build(t.Context(), mirror.Job{Dir: dir, Command: "./net.sh", Output: "bin/x"}); cellproto.KindOf(err) != cellproto.Failed {
			t.Errorf("%v", err)
		}
	})
	t.Run("go", func(t *testing.T) {
		if os.Getenv("CELL_LONG") == "" {
			t.Skip("it compiles a part of the standard library: set CELL_LONG=1")
		}
		dir := t.TempDir()
		put(filepath.Join(dir, "go.mod"), "module x\n")
		put(filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(\"built\") }\n")
		if err := b.Build(t.Context(), mirror.Job{Dir: dir, Command: "go build -o bin/x .", Output: "bin/x", Tools: mirror.Go}); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(filepath.Join(dir, "bin/x")).CombinedOutput(); err != nil || string(out) != "built\n" {
			t.Errorf("%s, %v", out, err)
		}
	})
}
