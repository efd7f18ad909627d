package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/celldnet/celld/ledger"
)

// energy estimates what processor time has cost, in µWh. It asks the processor's own counter (RAPL) where
// that may be read, which only root may on most systems; else it takes the share of the processor's design
// power; else the reference of the public table. Credit does not follow from it: it is for people.
type energy struct {
	sys, proc string // "/sys", "/proc"; tests have their own
	zones     []zone
	watts     float64 // design power of all packages; 0: not known
	busy      uint64  // ns that all processors have worked, at the last look
	cores     int
	prices    *ledger.PriceTable
}

// zone is one package's counter.
type zone struct {
	dir       string
	last, max uint64 // µJ
}

func newEnergy(sys, proc string, cores int, prices *ledger.PriceTable) *energy {
	e := &energy{sys: sys, proc: proc, cores: cores, prices: prices}
	dirs, _ := filepath.Glob(filepath.Join(sys, "class/powercap/intel-rapl:*")) // the pattern is good
	for _, dir := range dirs {
		if strings.Count(filepath.Base(dir), ":") != 1 { // a part of a package
			continue
		}
		if uw, ok := readNumber(filepath.Join(dir, "constraint_0_max_power_uw")); ok {
			e.watts += float64(uw) / 1e6
		}
		z := zone{dir: dir}
		var ok bool
		if z.last, ok = readNumber(filepath.Join(dir, "energy_uj")); ok {
			z.max, _ = readNumber(filepath.Join(dir, "max_energy_range_uj")) // 0: it does not turn over
			e.zones = append(e.zones, z)
		}
	}
	e.busy = e.busyTime()
	return e
}

// source says how it is estimated, as receipts do.
func (e *energy) source() uint8 {
	switch {
	case len(e.zones) > 0:
		return ledger.EstRAPL
	case e.watts > 0:
		return ledger.EstTDP
	}
	return ledger.EstTable
}

// of gives the µWh for so much processor time since the last look.
func (e *energy) of(cpu uint64) uint64 {
	const joule = 1e6 / 3600 // µWh
	seconds := float64(cpu) / 1e9
	switch e.source() {
	case ledger.EstRAPL:
		uj, busy := e.drawn(), e.busyTime()
		all := busy - min(e.busy, busy)
		e.busy = busy
		if all == 0 {
			return 0
		}
		return uint64(float64(uj) / 1e6 * min(float64(cpu)/float64(all), 1) * joule)
	case ledger.EstTDP:
		return uint64(e.watts / float64(max(e.cores, 1)) * seconds * joule)
	}
	uwh, err := e.prices.Credit(&ledger.Meter{CPU: cpu})
	if err != nil {
		return 0 // cannot be: it is the time of one tick
	}
	return uwh
}

// drawn gives what all packages have drawn since the last look, in µJ.
func (e *energy) drawn() (uj uint64) {
	for i := range e.zones {
		z := &e.zones[i]
		now, ok := readNumber(filepath.Join(z.dir, "energy_uj"))
		switch {
		case !ok:
			continue
		case now >= z.last:
			uj += now - z.last
		case z.max > z.last: // it has turned over
			uj += z.max - z.last + now
		}
		z.last = now
	}
	return uj
}

// busyTime gives how long all processors have worked, in ns.
func (e *energy) busyTime() uint64 {
	if len(e.zones) == 0 {
		return 0
	}
	stat, err := os.ReadFile(filepath.Join(e.proc, "stat"))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	var ticks uint64
	for i, field := range strings.Fields(string(line)) {
		const user, idle, iowait, steal = 1, 4, 5, 8 // of proc(5)
		if n, err := strconv.ParseUint(field, 10, 64); err == nil && i >= user && i <= steal && i != idle && i != iowait {
			ticks += n
		}
	}
	return ticks * 10_000_000
}

func readNumber(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
