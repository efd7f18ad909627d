package give

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	children := childrenOf(proc, fs, roots)
	seen := map[int]bool{}
	for left := slices.Clone(roots); len(left) > 0; {
		pid := left[0]
		left = left[1:]
		p, err := fs.Proc(pid)
		if err != nil || seen[pid] {
			continue
		}
		seen[pid] = true
		s, err := p.Stat()
		if err != nil {
			continue
		}
		left = append(left, children(pid)...)
		u.CPU += time.Duration(s.UTime+s.STime) * tick
		u.RSS += int64(s.RSS) * int64(os.Getpagesize())
		if io, err := p.IO(); err == nil { // of others' processes nobody is told
			u.Disk += int64(io.ReadBytes + io.WriteBytes)
		}
	}
	return u
}

// childrenOf gives what tells the children of a process. Where the kernel does not (CONFIG_PROC_CHILDREN), all
// processes of the machine are asked for their parents.
func childrenOf(proc string, fs procfs.FS, roots []int) func(pid int) []int {
	told := func(pid int) []string {
		id := strconv.Itoa(pid)
		files, _ := filepath.Glob(filepath.Join(proc, id, "task", "*", "children")) // the pattern is good
		return files
	}
	if slices.ContainsFunc(roots, func(pid int) bool { return len(told(pid)) > 0 }) {
		return func(pid int) (list []int) {
			for _, file := range told(pid) {
				text, _ := os.ReadFile(file) // a thread that has just ended has none
				for _, field := range strings.Fields(string(text)) {
					if child, err := strconv.Atoi(field); err == nil {
						list = append(list, child)
					}
				}
			}
			return list
		}
	}
	lists := map[int][]int{}
	all, err := fs.AllProcs()
	if err != nil {
		return func(int) []int { return nil }
	}
	for _, p := range all {
		if s, err := p.Stat(); err == nil {
			lists[s.PPID] = append(lists[s.PPID], p.PID)
		}
	}
	return func(pid int) []int { return lists[pid] }
}

// tick is the unit in which Linux tells processes' times, on every machine.
const tick = 10 * time.Millisecond
