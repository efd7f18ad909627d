package program

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const canIdentify = true

// startTime gives when process pid began, in clock ticks since the machine did, or 0 when it is not
// there or has ended (field 22 of proc(5)'s stat).
func startTime(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is a name in parentheses that may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0
	}
	ticks, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return ticks
}

// isProgram reports that pid is the process that began at start and belongs to the cell in dir.
func isProgram(dir string, pid int, start uint64) bool {
	if startTime(pid) != start {
		return false
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && cwd == dir {
		return true
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(append([]byte{0}, env...), []byte("\x00"+cellproto.EnvDir+"="+dir+"\x00"))
}

// killOther kills the process that began at start, with its group if it leads one, and reports that it
// is gone. It is not this one's child, so it cannot be waited for.
func killOther(pid int, start uint64) bool {
	if pgid, err := syscall.Getpgid(pid); err == nil && pgid == pid {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	} else {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(leftoverGrace); time.Now().Before(deadline); <-tick.C {
		if startTime(pid) != start {
			return true
		}
	}
	return false
}
