package node

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// As strangers' programs have it in their sandbox; and the kernel's class for what reads and writes when nobody
// else does, where its scheduler of disks knows classes.
const (
	hostedNice    = 10
	ioClassIdle   = 3 << 13
	ioWhoOfThread = 1
)

// lower has this process, all of whose threads the kernel treats apart, stand behind what the machine's owner runs. What
// it starts inherits that. Without the right to, it stays as it is.
func lower() {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, hostedNice) // a thread that has just ended
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioWhoOfThread, uintptr(tid), ioClassIdle)
	}
}
