package sandbox

import (
	"strconv"
	"strings"
)

// Limits of the pool in files of the kernel's, by controller. devices are the disks, as "8:0".

func poolFilesV1(controller string, l PoolLimits, devices []string) []groupFile {
	switch controller {
	case "cpu":
		return []groupFile{{"cpu.cfs_period_us", strconv.Itoa(cpuPeriod), true}, {"cpu.cfs_quota_us", quotaOf(l.CPU), true}}
	case "memory":
		bytes := strconv.FormatInt(l.Memory, 10)
		// Both ways round: which of the two may be changed first depends on whether they rise.
		return []groupFile{
			{"memory.memsw.limit_in_bytes", bytes, false}, {"memory.limit_in_bytes", bytes, true},
			{"memory.memsw.limit_in_bytes", bytes, false}, {"memory.swappiness", "0", false},
		}
	case "blkio":
		var files []groupFile
		for _, d := range devices {
			bps := d + " " + strconv.FormatInt(l.Disk, 10) // 0 takes the bound away
			files = append(files, groupFile{"blkio.throttle.read_bps_device", bps, true}, groupFile{"blkio.throttle.write_bps_device", bps, true})
		}
		return files
	}
	return nil
}

func poolFilesV2(controller string, l PoolLimits, devices []string) []groupFile {
	switch controller {
	case "cpu":
		return []groupFile{{"cpu.max", quotaOf(l.CPU) + " " + strconv.Itoa(cpuPeriod), true}}
	case "memory":
		return []groupFile{{"memory.max", strconv.FormatInt(l.Memory, 10), true}, {"memory.swap.max", "0", false}}
	case "io":
		bps := "max"
		if l.Disk > 0 {
			bps = strconv.FormatInt(l.Disk, 10)
		}
		var files []groupFile
		for _, d := range devices {
			files = append(files, groupFile{"io.max", d + " rbps=" + bps + " wbps=" + bps, true})
		}
		return files
	}
	return nil
}

func quotaOf(cores float64) string { return strconv.Itoa(max(minCPUQuota, int(cores*cpuPeriod))) }

// keyed gives the number after a word at the beginning of a line, such as "usage_usec 5".
func keyed(text, key string) int64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, _ := strconv.ParseInt(f[1], 10, 64) // the kernel writes numbers
			return n
		}
	}
	return 0
}

// diskOfV1 adds up "8:0 Read 5" and "8:0 Write 6", diskOfV2 "8:0 rbytes=5 wbytes=6 rios=...".
func diskOfV1(text string) (bytes int64) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && (f[1] == "Read" || f[1] == "Write") {
			n, _ := strconv.ParseInt(f[2], 10, 64)
			bytes += n
		}
	}
	return bytes
}

func diskOfV2(text string) (bytes int64) {
	for word := range strings.FieldsSeq(text) {
		for _, key := range []string{"rbytes=", "wbytes="} {
			if s, ok := strings.CutPrefix(word, key); ok {
				n, _ := strconv.ParseInt(s, 10, 64)
				bytes += n
			}
		}
	}
	return bytes
}
