package sandbox

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// counter counts across goroutines.
type counter = atomic.Int64

// field gives the nth number of a line of numbers, 0 if there is none.
func field(text []byte, n int) int64 {
	fields := bytes.Fields(text)
	if n >= len(fields) {
		return 0
	}
	return number(fields[n])
}

func number(text []byte) int64 {
	v, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || v < 0 {
		return 0
	}
	return v
}

// threadsOf reads the number of threads, the 20th field of /proc/PID/stat. The second is the
// program's name, in brackets, and may hold brackets and blanks itself.
func threadsOf(stat []byte) int64 {
	_, rest, ok := bytes.Cut(stat, []byte(") "))
	if at := bytes.LastIndex(stat, []byte(") ")); ok && at >= 0 {
		rest = stat[at+2:]
	}
	return field(rest, 17)
}

// headless says that a process goes on without its first thread, by its /proc/PID/stat. The kernel shows no memory of
// it there any more; its other threads, which share it, show it.
func headless(stat []byte) bool {
	at := bytes.LastIndex(stat, []byte(") "))
	return at >= 0 && at+2 < len(stat) && stat[at+2] == 'Z' && threadsOf(stat) > 1
}

// procStat is what a family's meter reads in /proc/PID/stat: the parent, processor time in ticks, threads,
// pages in memory.
type procStat struct {
	parent                      int
	own, waited, threads, pages int64
	headless                    bool
}

// parseStat reads /proc/PID/stat; ok is false if it is cut.
func parseStat(stat []byte) (s procStat, ok bool) {
	at := bytes.LastIndex(stat, []byte(") "))
	if at < 0 {
		return s, false
	}
	fields := bytes.Fields(stat[at+2:])
	if len(fields) < 22 {
		return s, false
	}
	s.parent = int(number(fields[1]))
	s.own = number(fields[11]) + number(fields[12])
	s.waited = number(fields[13]) + number(fields[14])
	s.threads, s.pages = number(fields[17]), number(fields[21])
	s.headless = headless(stat)
	return s, true
}

// descendants gives the children of a process, theirs, and so on, without itself.
func descendants(all map[int]procStat, of int) (list []int) {
	children := map[int][]int{}
	for pid, s := range all {
		children[s.parent] = append(children[s.parent], pid)
	}
	list = append(list, children[of]...)
	seen := map[int]bool{of: true}
	for i := 0; i < len(list); i++ {
		if !seen[list[i]] { // the numbers were not read at one moment: there may be a ring
			seen[list[i]] = true
			list = append(list, children[list[i]]...)
		}
	}
	slices.Sort(list)
	return slices.Compact(slices.DeleteFunc(list, func(pid int) bool { return pid == of }))
}

// tablesOf reads the size of the page tables, in KiB, of /proc/PID/status. A program can fill memory with
// them that counts as nobody's.
func tablesOf(status []byte) int64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmPTE:")); ok {
			return field(rest, 0)
		}
	}
	return 0
}

// takeIO reads /proc/PID/io.
func takeIO(text []byte, s *sample) {
	for line := range bytes.Lines(text) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if !ok {
			continue
		}
		switch v := number(value); string(key) {
		case "rchar":
			s.Received = v
		case "wchar":
			s.Sent = v
		case "read_bytes":
			s.Read = v
		case "write_bytes":
			s.Written = v
		}
	}
}

// parseHighestIDs reads a uid_map, lines of the first number inside, the first outside, and how many,
// and gives the largest inside.
func parseHighestIDs(text string) (highest uint32) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(fields[0], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			highest = max(highest, uint32(min(first+count-1, math.MaxUint32-1)))
		}
	}
	return highest
}
