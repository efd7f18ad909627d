package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Marks of the matrix.
const (
	markSucceeds  = "succeeds" // without the sandbox, as it has to
	markNot       = "n/a"      // not possible here in the first place
	markStopped   = "-"
	markVain      = "(-)" // it fails inside, and outside too
	markMay       = "may" // a build may
	markSeen      = "seen"
	markEscape    = "ESCAPE"
	markNotEnded  = "NOT ENDED"
	markUnstarted = "NO START"
)

// verdict gives the mark of an attack in a column, and why the test fails; "" if it does not. possible says that it succeeds
// without the sandbox.
func verdict(c column, name string, o outcome, possible bool) (mark, failure string) {
	switch {
	case o.exit == notEnded:
		return markNotEnded, fmt.Sprintf("%s shows nothing as %v, neither that it is stopped nor that it is not: %s", name, c, o.reason)
	case c.tier == Auto && o.open():
		return markSucceeds, ""
	case c.tier == Auto:
		return markNot, ""
	case o.open() && c.build && builds[name]:
		return markMay, ""
	case o.open() && slices.Contains(seen[name], c.tier):
		return markSeen, ""
	case o.open():
		return markEscape, fmt.Sprintf("%s succeeds as %v", name, c)
	case o.exit == 125 || o.exit == 126 || o.exit == 127:
		return markUnstarted, fmt.Sprintf("%s was not started as %v: %s", name, c, o.reason)
	case !possible:
		return markVain, ""
	}
	return markStopped, ""
}

// judge prints the matrix and fails the test for every escape, and for all that shows nothing.
func judge(t *testing.T, columns []column, names []string, results [][]outcome) {
	var text strings.Builder
	fmt.Fprintf(&text, "%-44s", "")
	for _, c := range columns {
		fmt.Fprintf(&text, " %-10s", c)
	}
	text.WriteString("\n")
	marks, impossible, shown := map[string]int{}, map[string]int{}, map[string]int{}
	stopped := make([]int, len(columns)) // that succeed without the sandbox
	var reasons []string
	for a, name := range names {
		fmt.Fprintf(&text, "%-44s", name)
		possible := false
		for i, c := range columns {
			o := results[a][i]
			mark, failure := verdict(c, name, o, possible)
			if failure != "" {
				t.Error(failure)
			}
			marks[mark]++
			switch mark {
			case markSucceeds:
				possible = true
				shown[c.name]++
			case markNot:
				possible = false
				impossible[c.name]++
				reasons = append(reasons, fmt.Sprintf("%s, %s: %s", c.name, name, o.reason))
			case markStopped:
				stopped[i]++
			}
			fmt.Fprintf(&text, " %-10s", mark)
		}
		text.WriteString("\n")
	}
	for who, n := range shown {
		fmt.Fprintf(&text, "%s: %d attacks succeed without the sandbox, %d are not possible here in the first place\n", who, n, impossible[who])
		if n < fewestShown {
			t.Errorf("only %d attacks are shown to succeed as %s", n, who)
		}
	}
	for i, c := range columns {
		if c.tier == Auto {
			continue
		}
		fmt.Fprintf(&text, "%v: stops %d of them\n", c, stopped[i])
		if stopped[i] < fewestShown {
			t.Errorf("only %d attacks are shown to succeed without the sandbox and to fail as %v", stopped[i], c)
		}
	}
	fmt.Fprintf(&text, "escapes: %d; not ended: %d; known and documented: %d\n", marks[markEscape], marks[markNotEnded], marks[markSeen])
	t.Logf("succeeds: without the sandbox; -: fails inside; (-): fails inside, and outside too; may: a build may; seen: known\n%s", &text)
	t.Logf("not possible here:\n%s", strings.Join(reasons, "\n"))
}

// summarize prints, for each class of attacks, how many there are and how many succeed in each column.
func summarize(t *testing.T, columns []column, classes []string, results [][]outcome) {
	var text strings.Builder
	fmt.Fprintf(&text, "%-28s %7s", "succeed, of a class", "attacks")
	for _, c := range columns {
		fmt.Fprintf(&text, " %-10s", c)
	}
	for i, class := range classes {
		if i > 0 && classes[i-1] == class {
			continue
		}
		all, open := 0, make([]int, len(columns))
		for a := i; a < len(classes) && classes[a] == class; a++ {
			all++
			for c := range columns {
				if results[a][c].open() {
					open[c]++
				}
			}
		}
		fmt.Fprintf(&text, "\n%-28s %7d", class, all)
		for _, n := range open {
			fmt.Fprintf(&text, " %-10d", n)
		}
	}
	t.Logf("\n%s", &text)
}

// allColumns are those of a machine where everything works, by their names; a test that is not run by root has no root's.
func allColumns() (names []string) {
	for _, who := range []string{"root", "user"} {
		names = append(names, column{name: who}.String())
		for _, tier := range tiers() {
			names = append(names, column{name: who, tier: tier}.String())
			if tier == T1 {
				names = append(names, column{name: who, tier: tier, build: true}.String())
			}
		}
	}
	return names
}

// untried gives which columns of all there are not, each with the reason, from why by the beginning of its name.
func untried(columns []column, why map[string]string) (lines []string) {
	for _, name := range allColumns() {
		if slices.ContainsFunc(columns, func(c column) bool { return c.String() == name }) {
			continue
		}
		who, tier, _ := strings.Cut(name, " ")
		if tier == "build" {
			tier = T1.String()
		}
		reason := cmp.Or(why[who], why[who+" "+tier], "for no reason that is known")
		lines = append(lines, name+": "+reason)
	}
	if lines == nil {
		lines = []string{"nothing; all tiers work here"}
	}
	return lines
}

// TestUntried: what is not shown is not left out in silence.
func TestUntried(t *testing.T) {
	here := []column{{name: "user", uid: 1}, {name: "user", uid: 1, tier: T2}}
	got := untried(here, map[string]string{"root": "no root", "user T1": "no namespaces", "user T3": "root only"})
	want := []string{
		"root: no root", "root T1: no root", "root build: no root", "root T2: no root", "root T3: no root",
		"user T1: no namespaces", "user build: no namespaces", "user T3: root only",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestVerdict: what did not end, or was never started, is neither an escape nor stopped.
func TestVerdict(t *testing.T) {
	inside, build, outside := column{name: "user", tier: T1}, column{name: "user", tier: T1, build: true}, column{name: "user"}
	for _, c := range []struct {
		column
		name     string
		exit     int
		possible bool
		mark     string
		fails    bool
	}{
		{outside, "x", 0, false, markSucceeds, false},
		{outside, "x", 1, false, markNot, false},
		{outside, "x", notEnded, false, markNotEnded, true},
		{inside, "x", 0, true, markEscape, true},
		{inside, "x", notEnded, true, markNotEnded, true},
		{inside, "x", 126, true, markUnstarted, true},
		{inside, "x", 1, true, markStopped, false},
		{inside, "x", 1, false, markVain, false},
		{inside, "fork", 0, true, markEscape, true},
		{build, "fork", 0, true, markMay, false},
		{build, "fork", notEnded, true, markNotEnded, true},
		{column{name: "user", tier: T2}, "look up a file outside", 0, true, markSeen, false},
	} {
		mark, failure := verdict(c.column, c.name, outcome{c.exit, "why"}, c.possible)
		if mark != c.mark || (failure != "") != c.fails {
			t.Errorf("%s with exit %d as %v: %s, %q; want %s", c.name, c.exit, c.column, mark, failure, c.mark)
		}
		if mark == markNotEnded && strings.Contains(failure, "succeeds") {
			t.Errorf("what did not end is called an escape: %s", failure)
		}
	}
}
