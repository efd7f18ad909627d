package give

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/procfs"
)

func TestTreeUsage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc here")
	}
	if u := TreeUsage("/proc", nil); u != (Usage{}) {
		t.Errorf("nobody has used %+v", u)
	}
	cmd := exec.Command("sh", "-c", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read x'; true")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // its child has counted
		t.Fatal(err)
	}
	u := TreeUsage("/proc", []int{cmd.Process.Pid})
	if u.CPU < tick || u.CPU > time.Minute || u.RSS < 100<<10 {
		t.Errorf("a child that has counted to 100000 has used %+v", u)
	}
	if twice := TreeUsage("/proc", []int{cmd.Process.Pid, cmd.Process.Pid}); twice.RSS > u.RSS*3/2 {
		t.Errorf("counted twice: %+v", twice)
	}
	in.Close()
	cmd.Wait()
	if u := TreeUsage("/proc", []int{cmd.Process.Pid, os.Getpid() + 1<<22}); u != (Usage{}) {
		t.Errorf("who has ended has used %+v", u)
	}
}

// Where the kernel tells the children of each thread nobody else is asked.
func TestChildrenAreTold(t *testing.T) {
	proc := t.TempDir()
	for name, text := range map[string]string{"7/task/7/children": "8 9 ", "7/task/12/children": "10 ", "8/task/8/children": ""} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := procfs.NewFS(proc)
	if err != nil {
		t.Fatal(err)
	}
	children := childrenOf(proc, fs, []int{6, 7})
	if got := slices.Sorted(slices.Values(children(7))); !slices.Equal(got, []int{8, 9, 10}) {
		t.Errorf("7 has %v", got)
	}
	if got := append(children(8), children(6)...); len(got) > 0 {
		t.Errorf("8 and 6, which has ended, have %v", got)
	}
}
