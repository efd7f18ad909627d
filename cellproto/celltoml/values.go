package celltoml

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// set puts a decoded value where it belongs. Its TOML type has been checked by resolve; what
// remains is the text of durations and sizes and the elements of lists. The path of a fault is what
// follows the key's own.
func (k *key) set(c *Config, v any) *fault {
	switch p := k.at(c).(type) {
	case *string:
		s, _ := v.(string)
		*p = strings.ReplaceAll(s, "\r\n", "\n") // a text over several lines, saved by a Windows editor
	case *bool:
		*p, _ = v.(bool)
	case *int:
		n, _ := v.(int64)
		// An int has 32 bits on some routers; what does not fit is out of every range here too.
		*p = int(max(math.MinInt32, min(math.MaxInt32, n)))
	case *float64:
		if n, ok := v.(int64); ok {
			v = float64(n)
		}
		*p, _ = v.(float64)
	case *time.Duration:
		d, f := parseDuration(v, k.max)
		*p = d
		return f
	case *int64:
		n, f := parseSize(v)
		*p = n
		return f
	case *[]string:
		return setList(p, v)
	case *map[string]string:
		pair, _ := v.([2]any)
		name, _ := pair[0].(string)
		(*p)[name], _ = pair[1].(string)
	}
	return nil
}

func setList(p *[]string, v any) *fault {
	all, _ := v.([]any)
	*p = make([]string, len(all)) // not nil: an empty list is not the same as none
	for i, v := range all {
		s, ok := v.(string)
		if !ok {
			f := faultf("Put it in quotes.", "must be %s", kindNames[text])
			f.path = fmt.Sprintf("[%d]", i)
			return f
		}
		(*p)[i] = s
	}
	return nil
}

const durationHint = `Write "90s", "10m", "1h30m" or a number of seconds.`

// parseDuration takes a text as time.ParseDuration does, or a number of seconds, from 0 to most s.
func parseDuration(v any, most float64) (time.Duration, *fault) {
	var s float64
	switch v := v.(type) {
	case int64:
		s = float64(v)
	case float64:
		s = v
	case string:
		d, err := time.ParseDuration(v)
		if err != nil {
			return 0, faultf(durationHint, "is not a duration: %s", quote(v))
		}
		if d < 0 {
			return 0, faultf(durationHint, "must not be negative: %s", quote(v))
		}
		return d, nil
	}
	switch {
	case s < 0:
		return 0, faultf(durationHint, "must not be negative: %s", plain(s))
	case !(s <= most): // NaN as well; and past this the conversion below would overflow
		return 0, faultf(fmt.Sprintf("Choose a value up to %s s.", plain(most)), "is %s s, the limit is %s s", plain(s), plain(most))
	}
	return time.Duration(math.Round(s * float64(time.Second))), nil
}

const sizeHint = `Write "512KiB", "256MiB", "2GiB" or a number of bytes.`

var units = [...]struct {
	name  string
	shift uint
}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"B", 0}} // B last: the others end in it too

// parseSize takes a whole number with a unit, or a number of bytes.
func parseSize(v any) (int64, *fault) {
	s, ok := v.(string)
	if !ok {
		n, _ := v.(int64)
		return n, nil
	}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || digits[0] == '+' || n > math.MaxInt64>>u.shift {
			break
		}
		return int64(n) << u.shift, nil
	}
	return 0, faultf(sizeHint, "is not a size: %s", quote(s))
}

// plain prints a number as a person would write it: 1048576, not 1.048576e+06.
func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
