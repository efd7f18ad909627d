package give

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
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
