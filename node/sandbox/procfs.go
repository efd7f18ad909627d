package sandbox

import (
	"bytes"
	"math"
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
