package celltest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// where says on which machine a call was answered.
func (s *scenario) where(m *made) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.evidence == nil || s.evidence.machine[m.meta.Provider] == "" {
		e, err := gather(s.all)
		if err != nil {
			return "?"
		}
		s.evidence = e
	}
	if at := s.evidence.machine[m.meta.Provider]; at != "" {
		return at
	}
	return "?"
}

// isNear says that a call was answered near the callers.
func (s *scenario) isNear(m *made) bool {
	at := s.where(m)
	return at == "donor" || strings.HasPrefix(at, "caller")
}

// show prints the timeline up to now.
func (s *scenario) show(now time.Time) {
	calls := s.load.between(s.shown, now)
	s.shown = now
	if len(calls) == 0 {
		return
	}
	by := map[string]int{}
	failed := 0
	for _, m := range calls {
		if m.err != nil {
			failed++
			continue
		}
		at := s.where(&m)
		if strings.HasPrefix(at, "caller") {
			at = "itself"
		}
		by[at+" v"+m.reply.Version[:1]]++
	}
	var who []string
	for name, n := range by {
		who = append(who, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(who)
	s.say("%5d calls  p50 %7s  p99 %7s  longest %7s  (late %s)  errors %d  by %s", len(calls), ms(percentile(calls, 50)), ms(percentile(calls, 99)),
		ms(percentile(calls, 100)), ms(s.load.lateness()), failed, strings.Join(who, ", "))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// report prints the figures, and fails the test if the counts do not hold.
func (s *scenario) report(calls []made, e *evidence, direct []made, nearBy time.Time) {
	v := judge(calls, e, s.cuts)
	fmt.Fprintf(s.out, "\n%d calls. Of those that may be repeated %d failed; executed twice %d; wrong version or answer %d.\n",
		v.calls, len(v.failed), len(v.twice), len(v.wrong))
	fmt.Fprintf(s.out, "Repeated elsewhere, under their key, as their machine was lost %d, as it was silent %d; pure, and asked of several %d.\n",
		v.repeated, v.silent, v.hedged)
	fmt.Fprintf(s.out, "Answered by a program whose own note of it was lost with its machine %d.\n", v.unnoted)
	fmt.Fprintf(s.out, "Of those that must not be repeated %d may have run, %d were refused.\n", v.mayRun, v.refused)
	s.times(calls, direct, nearBy)
	for _, list := range []struct {
		what string
		of   []string
	}{{"failed", v.failed}, {"twice", v.twice}, {"wrong", v.wrong}} {
		for _, text := range list.of[:min(len(list.of), 10)] {
			s.t.Errorf("%s: %s", list.what, text)
		}
		if more := len(list.of) - 10; more > 0 {
			s.t.Errorf("%s: %d more", list.what, more)
		}
	}
}

// times prints what the goals say about times.
func (s *scenario) times(calls []made, direct []made, nearBy time.Time) {
	slices.SortFunc(calls, func(a, b made) int { return a.end().Compare(b.end()) })
	var far, near []made
	for i := range s.callers {
		var missed, served time.Time
		for _, m := range calls {
			if m.caller != i || m.err != nil {
				continue
			}
			isNear := s.isNear(&m)
			if missed.IsZero() && m.took > wished*time.Millisecond {
				missed = m.end()
			}
			if isNear && served.IsZero() {
				served = m.end()
			}
			if !isNear && served.IsZero() {
				far = append(far, m)
			}
			if isNear && m.at.After(nearBy.Add(-5*time.Second)) && m.at.Before(nearBy) {
				near = append(near, m)
			}
		}
		if !served.IsZero() {
			fmt.Fprintf(s.out, "%s: from the first miss to the first answer of the copy %.1f s (goal 10 s)\n", s.callers[i].name, served.Sub(missed).Seconds())
		}
	}
	before, after := percentile(far, 99), percentile(near, 99)
	p50, p99 := max(percentile(direct, 50), 1), max(percentile(direct, 99), 1)
	fmt.Fprintf(s.out, "p99 near the callers: from %s to %s (goal 1.5 direct near round trips), which is %.2f of the p50 of these, %s, and %.2f of their p99, %s\n",
		ms(before), ms(after), float64(after)/float64(p50), ms(p50), float64(after)/float64(p99), ms(p99))
	for _, c := range s.cuts {
		fmt.Fprintf(s.out, "after the loss of %s the longest stall of each caller: %s (goal 150 ms); of what must not be repeated: %s\n",
			c.machine, s.stalls(calls, c.at, true), s.stalls(calls, c.at, false))
	}
}

// stalls gives the longest call of each caller in the 5 s after something was lost, and the median of these.
func (s *scenario) stalls(calls []made, at time.Time, repeatable bool) string {
	var longest []time.Duration
	for i := range s.callers {
		var most time.Duration
		for _, m := range calls {
			if m.caller == i && m.repeatable() == repeatable && m.end().After(at) && m.at.Before(at.Add(5*time.Second)) {
				most = max(most, m.took)
			}
		}
		longest = append(longest, most)
	}
	slices.Sort(longest)
	var text []string
	for _, d := range longest {
		text = append(text, ms(d))
	}
	return fmt.Sprintf("%s, p50 %s", strings.Join(text, ", "), ms(longest[len(longest)/2]))
}
