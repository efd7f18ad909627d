package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// someFacts are those of an ordinary machine and a static program of a cell.
func someFacts() facts {
	return facts{
		UID: 1000, GID: 1000, LastCap: 40, ABI: 7, Dir: "/cells/calc", Program: "/cells/calc/bin/calc", CellDir: true,
		Own: []root{{Path: "/cells/calc/bin"}, {Path: "/cells/calc/cell.toml", Kind: fileRoot}},
		System: []root{{Path: "/usr"}, {Path: "/bin", Kind: linkRoot, Target: "usr/bin"}, {Path: "/lib", Kind: linkRoot, Target: "usr/lib"},
			{Path: "/etc/ld.so.cache", Kind: fileRoot}},
		Devices: []root{{Path: "/dev/null", Kind: deviceRoot}, {Path: "/dev/urandom", Kind: deviceRoot}},
		Locale:  []string{"LANG=C.UTF-8"},
	}
}

func asRoot(f facts) facts {
	f.Root, f.UID, f.GID = true, 0x70000001, 0x70000001
	return f
}

func asScript(f facts) facts {
	f.Scripted, f.Dynamic = true, true
	return f
}

// TestPlans compares the plans of a few programs and machines with testdata/plans.
func TestPlans(t *testing.T) {
	base := Config{Dir: "/cells/calc", Program: "bin/calc", Memory: 64 << 20, CPU: 0.2, Env: []string{"CELL_NAME=calc"}}
	with := func(change func(*Config)) Config { c := base; change(&c); return c }
	for name, c := range map[string]struct {
		config Config
		facts  facts
		tier   Tier
	}{
		"t1-user":         {base, someFacts(), T1},
		"t1-root":         {base, asRoot(someFacts()), T1},
		"t1-script":       {base, asScript(someFacts()), T1},
		"t1-read":         {with(func(c *Config) { c.Nice = NiceNone }), extra(someFacts(), "/data/model", "/usr/share/x"), T1},
		"t1-program-away": {base, away(someFacts()), T1},
		"t1-build":        {with(func(c *Config) { c.Build = &Build{Output: []string{"bin/calc"}} }), plainDir(someFacts()), T1},
		"t2-user":         {base, someFacts(), T2},
		"t2-root-joins":   {base, joins(asRoot(someFacts())), T2},
		"t2-old-landlock": {base, abi(someFacts(), 1), T2},
		"t3-root":         {base, asRoot(someFacts()), T3},
		"t3-plain-dir":    {base, plainDir(asRoot(someFacts())), T3},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := makePlan(c.config.WithDefaults(), c.facts, c.tier, false)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join("testdata", "plans", name+".txt"), p.String())
		})
	}
}

func extra(f facts, paths ...string) facts {
	for _, p := range paths {
		f.Extra = append(f.Extra, root{Path: p})
	}
	return f
}
func away(f facts) facts       { f.Program = "/opt/x/run"; return f }
func joins(f facts) facts      { f.Join = 2; return f }
func abi(f facts, v int) facts { f.ABI = v; return f }
func plainDir(f facts) facts   { f.CellDir, f.Own = false, []root{{Path: f.Dir}}; return f }
func withPath(f facts) facts   { return extra(f, "/data") }
func withoutABI(f facts) facts { return abi(f, 0) }
func programUp(f facts) facts  { f.Program = "/cells/other"; return f }
func sameFacts(f facts) facts  { return f }
func unchanged(*Config)        {}
func allSystem(c *Config)      { c.System = SystemAll }

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update to accept)\n--- got\n%s\n--- want\n%s", file, got, want)
	}
}

// What a tier cannot do it refuses before anything is tried.
func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		facts  func(facts) facts
		config func(*Config)
		tier   Tier
	}{
		"T1 without Landlock":         {withoutABI, unchanged, T1},
		"T2 without Landlock":         {withoutABI, unchanged, T2},
		"a build in T2":               {sameFacts, func(c *Config) { c.Build = &Build{} }, T2},
		"a build in T3":               {asRoot, func(c *Config) { c.Build = &Build{} }, T3},
		"T3 as a user":                {sameFacts, unchanged, T3},
		"T3 of a script":              {func(f facts) facts { return asScript(asRoot(f)) }, unchanged, T3},
		"T3 with the system":          {asRoot, allSystem, T3},
		"T3 with more to read":        {func(f facts) facts { return withPath(asRoot(f)) }, unchanged, T3},
		"T3 of the user's own":        {func(f facts) facts { f = asRoot(f); f.Owners = []int{0, f.UID}; return f }, unchanged, T3},
		"T3 of a program outside":     {func(f facts) facts { return programUp(asRoot(f)) }, unchanged, T3},
		"T3 of a program in the cell": {func(f facts) facts { f.Program = "/cells/calc/calc"; return asRoot(f) }, unchanged, T3},
	} {
		config := Config{Dir: "/cells/calc", Program: "x"}
		c.config(&config)
		if _, err := makePlan(config.WithDefaults(), c.facts(someFacts()), c.tier, false); cellproto.KindOf(err) != cellproto.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOrder holds what the order of the steps is for: each of these must come before the next.
func TestOrder(t *testing.T) {
	for _, tier := range tiers() {
		p, err := makePlan(Config{Dir: "/cells/calc", Program: "bin/calc"}.WithDefaults(), asRoot(someFacts()), tier, false)
		if err != nil {
			t.Fatal(err)
		}
		var order []verb
		for _, s := range append(p.Guard, p.Program...) {
			order = append(order, s.Do)
			if s.Soft && slices.Contains([]verb{doNoNewPrivs, doLandlock, doSeccomp, doChroot, doPivot, doSeal, doDropCaps, doSetUID, doInherit}, s.Do) {
				t.Errorf("%v: %v may fail", tier, s)
			}
		}
		last := -1
		for _, want := range []verb{doPivot, doInherit, doRlimit, doChroot, doNoNewPrivs, doDropBound, doDropCaps, doLandlock, doSignals, doSeccomp, doExec} {
			at := slices.Index(order, want)
			if at < 0 && (tier == T3 && (want == doPivot || want == doLandlock) || tier == T2 && (want == doPivot || want == doChroot) || tier == T1 && want == doChroot) {
				continue
			}
			if at <= last {
				t.Errorf("%v: %s is step %d, after %d", tier, want, at, last)
			}
			last = at
		}
		if order[len(order)-1] != doExec || order[len(order)-2] != doSeccomp {
			t.Errorf("%v ends with %v", tier, order[len(order)-2:])
		}
	}
}

func TestFilterTranscript(t *testing.T) {
	var text strings.Builder
	for _, c := range []struct {
		tier Tier
		abi  int
	}{{T1, 7}, {T2, 1}, {T2, 7}, {T3, 0}} {
		fmt.Fprintf(&text, "%v, Landlock ABI %d\n", c.tier, c.abi)
		for _, r := range filterRules(c.tier, c.abi, false) {
			if len(r.When) > 0 || r.NoCall || c.tier == T1 || r.Name == "tkill" {
				fmt.Fprintf(&text, "  %v\n", r)
			}
		}
	}
	fmt.Fprintf(&text, "a build\n")
	plain := filterRules(T1, 7, false)
	for _, r := range filterRules(T1, 7, true) {
		if !slices.ContainsFunc(plain, func(p callRule) bool { return p.String() == r.String() }) {
			fmt.Fprintf(&text, "  %v\n", r)
		}
	}
	compare(t, filepath.Join("testdata", "plans", "filter.txt"), text.String())
}

// A rule without conditions would make those of the same call void, and a name twice would be refused
// by the assembler only on the machines that have the call.
func TestFilterRules(t *testing.T) {
	for _, tier := range tiers() {
		for n := range 2 * (abiNewest + 1) {
			plain := map[string]bool{}
			rules := filterRules(tier, n/2, n%2 == 1)
			for _, r := range rules {
				if len(r.When) == 0 {
					if plain[r.Name] {
						t.Errorf("%s stands twice", r.Name)
					}
					plain[r.Name] = true
				}
			}
			for _, r := range rules {
				if len(r.When) > 0 && plain[r.Name] {
					t.Errorf("%s has conditions that are void", r.Name)
				}
			}
		}
	}
}

// A build's copy of its directory is seen even where that lies in what may be read, and nothing of the
// directory itself.
func TestVisibleWork(t *testing.T) {
	f := plainDir(someFacts())
	f = extra(f, "/cells", "/cells/calc/sub")
	c := Config{System: SystemNone, Build: &Build{}}
	var got []string
	for _, r := range visible(f, c) {
		got = append(got, kindWords[r.Kind]+" "+r.Path)
	}
	if want := []string{"dir /cells", "work /cells/calc", "device /dev/null", "device /dev/urandom"}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	if rules := makeRuleset(visible(f, c), 7).Rules; slices.ContainsFunc(rules, func(r pathRule) bool { return r.Path == f.Dir }) {
		t.Errorf("a rule for the directory itself: %v", rules)
	}
}

func TestVisible(t *testing.T) {
	f := someFacts()
	f.Own = []root{{Path: "/usr/cells/calc"}}
	f.Program = "/usr/cells/calc/bin/calc"
	f.Extra = []root{{Path: "/usr"}, {Path: "/usr-local"}}
	var got []string
	for _, r := range visible(f, Config{System: SystemNone}) {
		got = append(got, r.Path)
	}
	if want := []string{"/dev/null", "/dev/urandom", "/usr", "/usr-local"}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}
