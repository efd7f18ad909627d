package program

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoThreadWaits: no thread waits for the program's end, which would be woken when the program is frozen or thawed. Its end is
// noticed all the same, from whatever it is in.
func TestNoThreadWaits(t *testing.T) {
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Skipf("this system has no descriptors of processes that do not block: %v", err)
	}
	unix.Close(fd)
	p := start(t, "serve")
	mustConn(t, p)
	pid := p.State().PID
	eventually(t, "no thread waits", func() bool {
		calls, err := filepath.Glob("/proc/self/task/*/syscall")
		if err != nil || len(calls) == 0 {
			t.Skipf("this system does not say what threads are in: %v", err)
		}
		for _, path := range calls {
			if now, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(now), fmt.Sprintf("%d ", syscall.SYS_WAITID)) {
				return false
			}
		}
		return true
	})
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		if err := syscall.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "its end is noticed", func() bool { s := p.State(); return s.Crashes == 1 && s.LastExit == "signal: killed" })
}
