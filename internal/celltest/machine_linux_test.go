package celltest

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/celltest/netdelay"
	"github.com/celldnet/celld/internal/ctl"
)

// machine is one of a network of machines, with the cells that are on it.
type machine struct {
	*netdelay.Machine
	name string
	at   *place
	n    *Net
	has  []*Cell
}

// machines makes networks of machines. Who may not make namespaces skips the test.
func machines(t *testing.T) *netdelay.Net {
	t.Helper()
	net, err := netdelay.New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	return net
}

// Machine adds a machine to a network; its home cell is its own.
func (n *Net) machine(net *netdelay.Net, name, addr string) *machine {
	n.t.Helper()
	ns, err := net.Machine(netip.MustParseAddr(addr))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EPERM) || errors.Is(err, os.ErrNotExist) {
		n.t.Skipf("no network of machines can be made here: %v", err)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	m := &machine{Machine: ns, name: name, n: n}
	m.at = &place{
		dir: filepath.Join(n.root, name), start: ns.Start,
		listen: "/ip4/" + addr + "/tcp/0,/ip4/" + addr + "/udp/0/quic-v1",
	}
	if err := os.MkdirAll(m.at.dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if n.t.Failed() {
			m.logs()
		}
		m.stopAll()
		if err := m.Kill(); err != nil {
			n.t.Error(err)
		}
	})
	return m
}

// stopAll stops mirrors and home cells in good order, whatever cells have started them: what is killed leaves
// its control groups.
func (m *machine) stopAll() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	for _, of := range []string{"home", "foreign/*"} {
		dirs, _ := filepath.Glob(filepath.Join(m.at.dir, of)) // the pattern is good
		for _, dir := range dirs {
			_ = (&ctl.Client{Dir: dir}).Stop(ctx) // it may not run
		}
	}
	for ctx.Err() == nil {
		if pids, err := m.Processes(); err != nil || len(pids) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// logs has the test say what the nuclei of the machine have logged that it did not start itself, and how the
// last races of its callers went.
func (m *machine) logs() {
	for _, of := range []string{"home", "foreign/*"} {
		paths, _ := filepath.Glob(filepath.Join(m.at.dir, of, "log", "nucleus.log")) // the pattern is good
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err == nil {
				m.n.t.Logf("%s:\n%s", path, data)
			}
		}
	}
	races, _ := filepath.Glob(filepath.Join(m.at.dir, "*", ".cell-cache", "*", "race.log"))
	for _, path := range races {
		data, err := os.ReadFile(path)
		if err == nil {
			m.n.t.Logf("the end of %s:\n%s", path, data[max(0, len(data)-4000):])
		}
	}
}

// cell makes a cell on the machine, of an own directory's name.
func (m *machine) cell(name, toml string) *Cell {
	m.n.t.Helper()
	c := m.n.At(filepath.Join(m.at.dir, name))
	c.on = m.at
	m.has = append(m.has, c)
	if toml != "" {
		c.write("cell.toml", toml, 0o644)
	}
	return c
}

// powerCut ends everything on the machine at once.
func (m *machine) powerCut() time.Time {
	m.n.t.Helper()
	began := time.Now()
	if err := m.Kill(); err != nil {
		m.n.t.Fatal(err)
	}
	for _, c := range m.has {
		if c.proc != nil {
			<-c.proc.ended
			c.proc = nil
		}
	}
	return began
}

// goBuild builds a program of this module.
func goBuild(t *testing.T, out, pkg string, flags ...string) {
	t.Helper()
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), pkg)...)
	cmd.Dir = moduleRoot
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", pkg, err, text)
	}
}
