package program

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// clockTick is what procfs counts in: 1/100 s on every Linux.
const clockTick = 10_000_000

// usedBy asks the kernel what a process has used: its own time to the nanosecond, that of children that it
// has waited for in clock ticks.
func usedBy(pid int) (cpu, rssKiB uint64) {
	var ts unix.Timespec
	const sched = 2                                                                         // CPUCLOCK_SCHED, of the whole process; see clock_getcpuclockid(3)
	if unix.ClockGettime(int32(^pid)<<3|sched, &ts) == nil && (ts.Sec > 0 || ts.Nsec > 0) { // 0: not there, or not known
		cpu = uint64(ts.Nano())
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return cpu, 0
	}
	// The name, in brackets, may contain anything.
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const utime, stime, cutime, cstime, rss = 11, 12, 13, 14, 21 // fields of proc(5), from the third on
	if len(f) <= rss {
		return cpu, 0
	}
	n := func(i int) uint64 {
		v, _ := strconv.ParseUint(string(f[i]), 10, 64) // negative: a child's never is
		return v
	}
	if cpu == 0 {
		cpu = (n(utime) + n(stime)) * clockTick
	}
	return cpu + (n(cutime)+n(cstime))*clockTick, n(rss) * uint64(os.Getpagesize()) / 1024
}
