package sandbox

import (
	"math"
	"strconv"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// maxBytes bounds what a size may say: 1 PiB, so that sums of a few cannot overflow.
const maxBytes = 1 << 50

// sizeUnits are the endings of a size, longest first.
var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseSize reads a number of bytes: "65536", "64MiB", "1.5 GB". It refuses what is negative or past
// 1 PiB. Its errors are of kind BadInput.
func ParseSize(s string) (int64, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if !plainNumber(number) {
		return 0, badUnit("size", s, "A size is a number with KiB, MiB, GiB, kB, MB or GB, such as 64MiB.")
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n <= maxBytes/unit {
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f*float64(unit) > maxBytes {
		return 0, badUnit("size", s, "The largest size is 1024TiB.")
	}
	return int64(f * float64(unit)), nil
}

// ParseCPU reads a share of the processors and gives it in cores: "10%" is a tenth of all ncpu cores,
// "1.5" is one core and a half. It refuses 0 and more than there is. Its errors are of kind BadInput.
func ParseCPU(s string, ncpu int) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	number = strings.TrimSpace(number)
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !plainNumber(number) {
		return 0, badUnit("CPU share", s, "Say 10% for a tenth of the machine or 1.5 for one core and a half.")
	}
	if percent {
		f = f / 100 * float64(ncpu)
	}
	if f < minCPU || f > float64(ncpu)*(1+1e-9) {
		return 0, badUnit("CPU share", s, "This machine has "+strconv.Itoa(ncpu)+" cores; the least is a hundredth of one.")
	}
	return math.Min(f, float64(ncpu)), nil
}

// plainNumber says that s is digits with at most one point in it: no sign, exponent, hex or infinity.
func plainNumber(s string) bool {
	return s != "" && s != "." && strings.Trim(s, "0123456789.") == "" && strings.Count(s, ".") <= 1 && len(s) <= 30
}

func badUnit(what, s, hint string) error {
	return cellproto.Errorf("read "+what, cellproto.BadInput, "%.40q is no %s", s, what).WithHint("%s", hint)
}
