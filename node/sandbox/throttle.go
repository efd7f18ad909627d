package sandbox

import "time"

// throttle holds a program to its share of the processors by stopping it for a while. It is pure: it
// is told the time and what the program has used, and says whether the program may run. What was
// used too much is paid back in full, so that the average is exact however coarsely it is asked.
type throttle struct {
	Cores float64 // what the program may use

	now     time.Duration
	cpu     time.Duration
	credit  time.Duration // CPU time that it may use now; negative: that it owes
	begun   bool
	stopped bool
}

// throttleBurst is how much unused time is kept, and there is at the beginning: long enough for a
// program to start, and for an answer to come, without a pause.
const throttleBurst = 200 * time.Millisecond

// step takes in that by now the program has used cpu in all.
func (t *throttle) step(now, cpu time.Duration) (run bool) {
	if !t.begun {
		t.begun, t.credit = true, t.burst()
	}
	t.credit += time.Duration(float64(now-t.now)*t.Cores) - (cpu - t.cpu)
	t.now, t.cpu = now, cpu
	t.credit = min(t.credit, t.burst())
	t.stopped = t.credit < 0
	return !t.stopped
}

func (t *throttle) burst() time.Duration { return time.Duration(float64(throttleBurst) * t.Cores) }

// rateLimit lets a log through at a rate, and more at once if it was quiet before. It is pure.
type rateLimit struct {
	Rate  int64 // bytes a second
	Burst int64 // bytes at once

	credit float64
	last   time.Duration
	begun  bool
}

// allow says how many of n bytes may pass at the time now.
func (l *rateLimit) allow(now time.Duration, n int) int {
	if !l.begun {
		l.credit, l.begun = float64(l.Burst), true
	} else if now > l.last {
		l.credit = min(l.credit+(now-l.last).Seconds()*float64(l.Rate), float64(l.Burst))
	}
	l.last = max(l.last, now)
	pass := min(n, int(l.credit))
	l.credit -= float64(pass)
	return pass
}
