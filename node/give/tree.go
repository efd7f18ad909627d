package give

import (
	"os"
	"time"

	"github.com/prometheus/procfs"
)

// TreeUsage gives what the processes with the numbers roots, and all that they have started, have used. What
// has ended counts with its parent, or no more.
func TreeUsage(proc string, roots []int) (u Usage) {
	if len(roots) == 0 {
		return u
	}
	fs, err := procfs.NewFS(proc)
	if err != nil {
		return u
	}
	all, err := fs.AllProcs()
	if err != nil {
		return u
	}
	stats, children := map[int]procfs.ProcStat{}, map[int][]int{}
	for _, p := range all {
		if s, err := p.Stat(); err == nil {
			stats[p.PID] = s
			children[s.PPID] = append(children[s.PPID], p.PID)
		}
	}
	seen := map[int]bool{}
	for left := roots; len(left) > 0; {
		pid := left[0]
		left = left[1:]
		s, ok := stats[pid]
		if !ok || seen[pid] {
			continue
		}
		seen[pid] = true
		left = append(left, children[pid]...)
		u.CPU += time.Duration(s.UTime+s.STime) * tick
		u.RSS += int64(s.RSS) * int64(os.Getpagesize())
		if p, err := fs.Proc(pid); err == nil {
			if io, err := p.IO(); err == nil { // of others' processes nobody is told
				u.Disk += int64(io.ReadBytes + io.WriteBytes)
			}
		}
	}
	return u
}

// tick is the unit in which Linux tells processes' times, on every machine.
const tick = 10 * time.Millisecond
