package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// judge prints the matrix and fails the test for every escape.
func judge(t *testing.T, columns []column, names []string, results [][]outcome) {
	var text strings.Builder
	fmt.Fprintf(&text, "%-44s", "")
	for _, c := range columns {
		fmt.Fprintf(&text, " %-10s", c)
	}
	text.WriteString("\n")
	escapes, known, impossible, shown := 0, 0, map[string]int{}, map[string]int{}
	stopped := make([]int, len(columns)) // that succeed without the sandbox
	var reasons []string
	for a, name := range names {
		fmt.Fprintf(&text, "%-44s", name)
		possible := false
		for i, c := range columns {
			o, mark := results[a][i], "-"
			switch {
			case o.exit == hung:
				mark = "HUNG"
				t.Errorf("%s did not end as %v", name, c)
			case c.tier == Auto && o.open():
				mark, possible = "succeeds", true
				shown[c.name]++
			case c.tier == Auto:
				mark, possible = "n/a", false
				impossible[c.name]++
				reasons = append(reasons, fmt.Sprintf("%s, %s: %s", c.name, name, o.reason))
			case o.open() && c.build && builds[name]:
				mark = "may"
			case o.open() && slices.Contains(seen[name], c.tier):
				mark = "seen"
				known++
			case o.open():
				mark = "ESCAPE"
				escapes++
				t.Errorf("%s succeeds as %v", name, c)
			case o.exit == 125 || o.exit == 126 || o.exit == 127:
				t.Errorf("%s was not started as %v: %s", name, c, o.reason)
			case !possible:
				mark = "(-)"
			default:
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
	fmt.Fprintf(&text, "escapes: %d; known and documented: %d\n", escapes, known)
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
