package celltest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/sandbox"
)

// A hosted cell's nucleus and program are within the bounds of who hosts it, whoever starts it.
func TestHostedCellIsBounded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can confine a program")
	}
	t.Parallel()
	n := New(t)
	_, published := n.provide("calculator")
	dir := n.Must(n.root, "mirror", "add", published.CID)
	n.Must(n.root, "stop", dir)
	placed := give.Placement{Home: filepath.Join(n.root, "home"), CPU: 0.2, Memory: 128 << 20, Disk: 5e6}

	// With its share.
	if err := placed.Write(dir); err != nil {
		t.Fatal(err)
	}
	n.Must(n.root, "start", dir)
	n.Must(n.root, "use", published.CID, "add", "3", "4")
	if line := boxOf(t, n.At(dir).Status().ProgramPID); !strings.Contains(line, "--memory 134217728") || !strings.Contains(line, "--cpu 0.2") {
		t.Errorf("its program runs under %s", line)
	}
	if s := n.At(dir).Status(); niceOf(t, s.NucleusPID) != 10 || niceOf(t, s.ProgramPID) != 10 {
		t.Errorf("its nucleus runs at %d, its program at %d", niceOf(t, s.NucleusPID), niceOf(t, s.ProgramPID))
	}
	n.Must(n.root, "stop", dir)

	// In a group.
	pool, err := sandbox.OpenPool(fmt.Sprintf("celltest%d", os.Getpid()))
	if err != nil {
		t.Skip(err)
	}
	defer Eventually(t, "the group is gone", func() bool {
		pool.Close()
		for _, dir := range pool.Groups() {
			if _, err := os.Stat(dir); err == nil {
				return false
			}
		}
		return true
	})
	if err := pool.Set(sandbox.PoolLimits{CPU: 1, Memory: 512 << 20}); err != nil {
		t.Fatal(err)
	}
	pool.GiveWay(false) // on a busy machine it would not come to start
	placed.Groups = pool.Groups()
	if err := placed.Write(dir); err != nil {
		t.Fatal(err)
	}
	n.Must(n.root, "start", dir)
	if got := n.Must(n.root, "use", published.CID, "add", "3", "4"); got != "7" {
		t.Errorf("it answers %s", got)
	}
	s := n.At(dir).Status()
	for name, pid := range map[string]int{"nucleus": s.NucleusPID, "program": s.ProgramPID} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for controller := range pool.Groups() {
			if !inPool(string(text), controller) {
				t.Errorf("the %s is not in the group for %q:\n%s", name, controller, text)
			}
		}
	}
	if u := pool.Used(); u.CPU == 0 || u.RSS == 0 {
		t.Errorf("the group has used %+v", u)
	}
	n.Must(n.root, "stop", dir)

	// Without the group it does not start.
	placed.Groups = map[string]string{"cpu": filepath.Join(n.root, "no-such-group")}
	if err := placed.Write(dir); err != nil {
		t.Fatal(err)
	}
	if r := n.Ctl(n.root, "start", dir); r.Code == 0 || !strings.Contains(r.Stderr, "is no control group any more") {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
}

// niceOf gives the priority of a process.
func niceOf(t *testing.T, pid int) (nice int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third field on; it is the 19th
	if len(fields) < 17 {
		t.Fatalf("process %d says %q", pid, text)
	}
	fmt.Sscan(fields[16], &nice)
	return nice
}

// inPool says whether what /proc/PID/cgroup has for a controller is below a pool.
func inPool(text, controller string) bool {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] == controller && strings.Contains(parts[2], "cellgive-celltest") {
			return true
		}
	}
	return false
}

// boxOf gives the command line of the cellbox that a program runs under.
func boxOf(t *testing.T, pid int) string {
	t.Helper()
	for range 4 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			t.Fatal(err)
		}
		if line := strings.ReplaceAll(string(text), "\x00", " "); strings.Contains(line, "--dir ") {
			return line
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
				fmt.Sscan(rest, &pid)
			}
		}
	}
	t.Fatal("it runs under no cellbox")
	return ""
}
