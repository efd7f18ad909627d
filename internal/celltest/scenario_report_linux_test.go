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
func (s *scenario) report(calls []made, e *evidence, direct []made) {
	v := judge(calls, e, s.cuts)
	fmt.Fprintf(s.out, "\n%d calls. Of those that may be repeated %d failed; executed twice %d; wrong version or answer %d.\n",
		v.calls, len(v.failed), len(v.twice), len(v.wrong))
	fmt.Fprintf(s.out, "Repeated elsewhere, under their key, as their machine was lost %d, as it was silent %d; pure, and asked of several %d.\n",
		v.repeated, v.silent, v.hedged)
	fmt.Fprintf(s.out, "Answered by a program whose own note of it was lost with its machine %d.\n", v.unnoted)
	fmt.Fprintf(s.out, "Of those that must not be repeated %d may have run, %d were refused.\n", v.mayRun, v.refused)
	s.times(calls, direct)
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
func (s *scenario) times(calls []made, direct []made) {
	slices.SortFunc(calls, func(a, b made) int { return a.end().Compare(b.end()) })
	var far, near, bare []made
	for i := range s.callers {
		var missed, served time.Time
		for _, m := range calls {
			if m.caller != i || m.err != nil {
				continue
			}
			during := m.at.After(s.compared.from) && m.at.Before(s.compared.to)
			if m.direct {
				if !during {
					continue
				}
				bare = append(bare, m)
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
			if during {
				near = append(near, m)
			}
		}
		if !served.IsZero() {
			fmt.Fprintf(s.out, "%s: from the first miss to the first answer of the copy %.1f s (goal 10 s)\n", s.callers[i].name, served.Sub(missed).Seconds())
		}
	}
	s.compareTimes(far, near, bare, direct)
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

// compareTimes prints what calls by the name take beside direct ones under the same load, by the same statistic, and beside
// direct ones while there was none: three callers that share two processors with the donor and the network are not alone.
func (s *scenario) compareTimes(far, near, bare, calm []made) {
	if len(far) == 0 || len(near) == 0 || len(bare) == 0 || len(calm) == 0 {
		fmt.Fprintf(s.out, "p99 near the callers: not measured: %d calls far away, %d near by the name, %d direct ones by turns with them, %d without a load\n", len(far), len(near), len(bare), len(calm))
		return
	}
	after, under := percentile(near, 99), max(percentile(bare, 99), 1)
	fmt.Fprintf(s.out, "p99 near the callers: from %s to %s; direct calls of the same program on the donor, by turns with them and under the same load: %s. That is %.2f of it (goal 1.5)\n",
		ms(percentile(far, 99)), ms(after), ms(under), float64(after)/float64(under))
	fmt.Fprintf(s.out, "p50 near the callers %s, direct %s. Direct calls without a load: p50 %s, p99 %s, so that the p99 near the callers is %.2f and %.2f of these\n",
		ms(percentile(near, 50)), ms(percentile(bare, 50)), ms(percentile(calm, 50)), ms(percentile(calm, 99)),
		float64(after)/float64(max(percentile(calm, 50), 1)), float64(after)/float64(max(percentile(calm, 99), 1)))
}
