package celltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// sums makes a cell that adds, unless it is to lie: "wrong" or "silent". It does not run yet.
func (n *Net) sums(lie string) *Cell {
	n.t.Helper()
	c := n.cell("sums")
	c.write("cell.toml", "[cell]\nname = \"sums\"\nversion = \"1.0.0\"\nbinary = \"bin/sums\"\n[resources]\nconcurrency = 200\n", 0o644)
	c.copyFile(filepath.Join(Bin(n.t), "sums"), "bin/sums", 0o755)
	c.write("data/lie", lie, 0o600)
	return c
}

// A call's deadline, and that nobody waits for it any more, reach the program at another machine: whether its caller
// changes their mind, is killed, or their nucleus is, or hangs.
func TestDeadlineAndCancelReachTheProgram(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	provider := n.sums("")
	provider.Start()
	cell := provider.Publish().CID
	const canceled, exceeded = "context canceled", "context deadline exceeded"
	for _, c := range []struct {
		key     string
		timeout time.Duration
		end     func(caller *Cell, command *os.Process) error
		want    string
	}{
		{"interrupted", 10 * Patience, func(_ *Cell, p *os.Process) error { return p.Signal(syscall.SIGINT) }, canceled},
		{"command-killed", 10 * Patience, func(_ *Cell, p *os.Process) error { return p.Kill() }, canceled},
		{"nucleus-killed", 10 * Patience, func(c *Cell, _ *os.Process) error { c.Kill(); return nil }, canceled},
		// So only the deadline that came with the call can end it. There is enough of it to stop the caller before. It is
		// the last, since who hangs delays those who look for the next provider.
		{"nucleus-hangs", 6 * time.Second, func(c *Cell, _ *os.Process) error { c.Signal(syscall.SIGSTOP); return nil }, exceeded},
	} {
		t.Run(c.key, func(t *testing.T) {
			caller := n.Headless("caller")
			caller.Start()
			caller.AwaitProviders(cell, 1)
			command := exec.Command(filepath.Join(Bin(t), "cellctl"), "use", cell, "wait", c.key, "--timeout", c.timeout.String())
			command.Dir, command.Env = caller.Dir, n.Env()
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() }) // it may have ended
			left, err := strconv.Atoi(provider.awaitNote(t, c.key+".begun"))
			if given := time.Duration(left) * time.Millisecond; err != nil || given <= 0 || given > c.timeout {
				t.Errorf("the program has %v (%v), its caller gave %v", given, err, c.timeout)
			}
			if err := c.end(caller, command.Process); err != nil {
				t.Fatal(err)
			}
			if why := provider.awaitNote(t, c.key+".ended"); why != c.want {
				t.Errorf("it ended with %q, want %q", why, c.want)
			}
			Eventually(t, "the provider is done with it", func() bool { return provider.Status().InFlight == 0 })
		})
	}
}

// awaitNote waits for what the program of a cell of sums notes under a name.
func (c *Cell) awaitNote(t *testing.T, name string) (text string) {
	t.Helper()
	Eventually(t, "the program notes "+name, func() bool {
		data, err := os.ReadFile(filepath.Join(c.Dir, "data", name))
		text = string(data)
		return err == nil
	})
	return text
}
