package give

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Schedule is when in the week, by the clock on the wall: "mon-fri 22:00-07:00, sat,sun 00:00-24:00".
// The zero value is always.
type Schedule struct {
	spans []span
}

// span is a time of some days. One that ends before it begins ends on the next day.
type span struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes of the day; to at most 24:00
}

const (
	dayMinutes  = 24 * 60
	maxSpans    = 32
	maxSchedule = 1 << 10 // bytes of its text
)

func dayNames() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// ParseSchedule reads a schedule: spans of the form DAYS HH:MM-HH:MM, or one of both, with commas between
// them. DAYS are names, or ranges of names. "" and "always" are always. Its errors are of kind BadInput.
func ParseSchedule(text string) (Schedule, error) {
	var s Schedule
	bad := func(format string, args ...any) (Schedule, error) {
		return Schedule{}, cellproto.Errorf("read schedule", cellproto.BadInput, format, args...).
			WithHint(`--schedule "mon-fri 22:00-07:00, sat,sun"`)
	}
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "" || text == "always" {
		return s, nil
	}
	if len(text) > maxSchedule {
		return bad("it has %d bytes, at most %d", len(text), maxSchedule)
	}
	var days [7]bool // named so far, for the next time
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		if len(words) == 0 || len(words) > 2 {
			return bad("%.40q is not days and a time", part)
		}
		if !strings.ContainsRune(words[0], ':') {
			if !addDays(&days, words[0]) {
				return bad("%.20q names no days: mon, or mon-fri", words[0])
			}
			if words = words[1:]; len(words) == 0 {
				continue
			}
		}
		from, to, ok := parseTimes(words[0])
		if !ok || len(words) > 1 {
			return bad("%.40q is no time: 22:00-07:00", strings.Join(words, " "))
		}
		s.spans = append(s.spans, span{allIfNone(days), from, to})
		days = [7]bool{}
	}
	if days != ([7]bool{}) { // days without a time are whole ones
		s.spans = append(s.spans, span{days, 0, dayMinutes})
	}
	if len(s.spans) > maxSpans {
		return bad("it has %d times, at most %d", len(s.spans), maxSpans)
	}
	return s, nil
}

func allIfNone(days [7]bool) [7]bool {
	if days == ([7]bool{}) {
		return [7]bool{true, true, true, true, true, true, true}
	}
	return days
}

func addDays(days *[7]bool, word string) bool {
	first, last, ranged := strings.Cut(word, "-")
	from := slices.Index(dayNames(), first)
	to := from
	if ranged {
		to = slices.Index(dayNames(), last)
	}
	if from < 0 || to < 0 {
		return false
	}
	for d := from; ; d = (d + 1) % 7 {
		if days[d] = true; d == to {
			return true
		}
	}
}

func parseTimes(word string) (from, to int, ok bool) {
	a, b, both := strings.Cut(word, "-")
	from, okA := parseMinute(a)
	to, okB := parseMinute(b)
	return from, to, both && okA && okB && from < dayMinutes && from != to
}

// parseMinute reads HH:MM as minutes of the day, 00:00 to 24:00.
func parseMinute(text string) (int, bool) {
	h, m, ok := strings.Cut(text, ":")
	if !ok || len(h) < 1 || len(h) > 2 || len(m) != 2 {
		return 0, false
	}
	hours, errH := strconv.ParseUint(h, 10, 8)
	minutes, errM := strconv.ParseUint(m, 10, 8)
	at := int(hours*60 + minutes)
	return at, errH == nil && errM == nil && minutes < 60 && at <= dayMinutes
}

// IsZero says that it is always.
func (s Schedule) IsZero() bool { return len(s.spans) == 0 }

// String gives the form that ParseSchedule reads.
func (s Schedule) String() string {
	if s.IsZero() {
		return "always"
	}
	var out []string
	for _, sp := range s.spans {
		var days []string
		for d := range 7 {
			if day := (d + 1) % 7; sp.days[day] { // a week begins on Monday
				days = append(days, dayNames()[day])
			}
		}
		out = append(out, strings.Join(days, ",")+" "+clock(sp.from)+"-"+clock(sp.to))
	}
	return strings.Join(out, ", ")
}

func clock(minute int) string {
	two := func(n int) string { return string([]byte{byte('0' + n/10), byte('0' + n%10)}) }
	return two(minute/60) + ":" + two(minute%60)
}

// MarshalText is for JSON.
func (s Schedule) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is for JSON.
func (s *Schedule) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSchedule(string(text))
	return err
}

// At says whether now is in the schedule, by the clock of now's place, and when that changes next; zero:
// it never does.
func (s Schedule) At(now time.Time) (in bool, change time.Time) {
	if s.IsZero() {
		return true, time.Time{}
	}
	in = s.contains(now)
	// All changes are at a beginning or an end within the eight days around now.
	for day := -1; day <= 8; day++ {
		date := dateOf(now, day)
		for _, sp := range s.spans {
			if !sp.days[date.Weekday()] {
				continue
			}
			begin, end := sp.times(date)
			for _, t := range []time.Time{begin, end} {
				if t.After(now) && (change.IsZero() || t.Before(change)) && s.contains(t) != in {
					change = t
				}
			}
		}
	}
	return in, change
}

func (s Schedule) contains(t time.Time) bool {
	for _, sp := range s.spans {
		for _, day := range []int{-1, 0} {
			date := dateOf(t, day)
			if !sp.days[date.Weekday()] {
				continue
			}
			if begin, end := sp.times(date); !t.Before(begin) && t.Before(end) {
				return true
			}
		}
	}
	return false
}

// dateOf gives the date that is so many days after that of a time: its noon, since summer time may begin at midnight.
func dateOf(t time.Time, days int) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+days, 12, 0, 0, 0, t.Location())
}

// times gives the span of a date, whatever summer time does to it.
func (sp span) times(date time.Time) (begin, end time.Time) {
	at := func(minute int) time.Time {
		return time.Date(date.Year(), date.Month(), date.Day(), minute/60, minute%60, 0, 0, date.Location())
	}
	to := sp.to
	if to <= sp.from {
		to += dayMinutes
	}
	return at(sp.from), at(to)
}
