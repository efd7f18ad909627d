package program

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// The kernel's clock of a process is what the process itself has at its end.
func TestUsedBy(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", `i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read x`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cpu, rss := usedBy(cmd.Process.Pid)
	in.Close()
	_ = cmd.Wait()
	real := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if got := time.Duration(cpu); got < real*9/10 || got > real+time.Millisecond {
		t.Errorf("the clock says %v, the process has used %v", got, real)
	}
	if rss < 100 || rss > 1<<20 {
		t.Errorf("RSS is %d KiB", rss)
	}
	if cpu, _ := usedBy(cmd.Process.Pid); cpu != 0 {
		t.Errorf("a process that is gone has used %d ns", cpu)
	}
	if own, _ := usedBy(os.Getpid()); own == 0 {
		t.Error("this process has used nothing")
	}
}
