package sandbox

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

// The calculator of the examples answers calls, confined, over the socket that it inherits; it ends as
// it would without the sandbox, when that closes.
func TestCalculator(t *testing.T) {
	dir := cellDir(t, "../../examples/calculator")
	for _, tier := range working(t) {
		t.Run(tier.String(), func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
			conn, err := net.FileConn(ours)
			ours.Close()
			if err != nil {
				t.Fatal(err)
			}
			c := Config{
				Dir: dir, Program: "bin/program", Tier: tier, Memory: 64 << 20, CPU: 0.5,
				Env: []string{cellproto.EnvFD + "=3", cellproto.EnvName + "=calculator"},
			}
			p := tell(t, c, map[int]*os.File{3: theirs})
			theirs.Close()
			frames, err := cellproto.NewConn(conn, cellproto.Config{Opener: true})
			if err != nil {
				t.Fatal(err)
			}
			ran := make(chan struct{})
			go func() { _ = frames.Run(); close(ran) }()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for n := range int64(100) {
				reply, err := cell.NewClient(frames).Do(ctx, &cell.Request{Func: "add", Args: map[string]int64{"a": n, "b": 2}})
				if err != nil {
					t.Fatalf("%v; it said %s", err, p.said())
				}
				var sum int64
				if err := reply.Decode(&sum); err != nil || sum != n+2 {
					t.Fatalf("%d + 2 = %d, %v", n, sum, err)
				}
			}
			frames.Close()
			<-ran
			if r, said := p.end(); r.Why != "" || r.Sent == 0 || r.Received == 0 {
				t.Errorf("%+v; it said %s", r, said)
			}
		})
	}
}

// cellDir lays out a cell of an example's program, where everybody may read it.
func cellDir(t *testing.T, example string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox-cell-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "keys")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(example, "cell.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cell.toml"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "bin", "program"), example)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}
