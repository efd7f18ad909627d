package cellproto

import (
	"fmt"
	"strings"
	"testing"
)

func TestSchemaWithOlderVersions(t *testing.T) {
	parse := func(text string) *Schema {
		t.Helper()
		s, err := ParseSchema([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	fn := func(arg string) string {
		return `{"input": {"type": "object", "properties": {"` + arg + `": {"type": "integer"}}, "required": ["` + arg + `"], "additionalProperties": false}}`
	}
	one := `{"cell": "maths", "functions": {"mul": ` + fn("a") + `}}`
	zero := `{"cell": "maths", "functions": {"mul": ` + fn("z") + `}}`
	old, plain := parse(one), parse(`{"cell": "maths", "functions": {"mul": `+fn("left")+`}}`)
	both := parse(`{"cell": "maths", "functions": {"mul": ` + fn("left") + `}, "older": [` + one + `, ` + zero + `]}`)

	if both.Hash() == plain.Hash() || parse(string(both.Canonical())).Hash() != both.Hash() {
		t.Error("the older versions are no part of it, or not written as they were read")
	}
	if got := both.Version(old.Hash()); got == nil || got.Hash() != old.Hash() {
		t.Errorf("its older version is %v", got)
	}
	if both.Version(both.Hash()) != both || both.Version(plain.Hash()) != nil {
		t.Error("what is a version of it, and what is not")
	}
	if len(Compatible(old, plain)) == 0 {
		t.Fatal("the new one does not break the old one's callers")
	}
	for _, tc := range []struct {
		name     string
		old, now *Schema
		fits     bool
	}{
		{"the older version's callers", old, both, true},
		{"the oldest version's callers", parse(zero), both, true},
		{"its own", both, both, true},
		{"when the older ones are gone", both, plain, true},
		{"the older version's, then", old, plain, false},
		{"of what is both, at the old one", both, old, false},
	} {
		if got := Compatible(tc.old, tc.now); (len(got) == 0) != tc.fits {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	if as, _ := both.VersionFor(parse(zero)); as != both.Older[1] {
		t.Errorf("the callers of the oldest one are served as %v", as)
	}
	if c := Compare(old, both); c.Verdict != ForCallersOnly {
		t.Errorf("it is %v", c)
	}

	many := strings.Repeat(","+one, MaxOlder+1)[1:]
	deep := one
	for range 100 {
		deep = `{"cell": "maths", "functions": {}, "older": [` + deep + `]}`
	}
	for name, text := range map[string]string{
		"none":             `[]`,
		"null":             `null`,
		"too many":         `[` + many + `]`,
		"another cell's":   `[{"cell": "other", "functions": {}}]`,
		"older than older": `[` + string(both.Canonical()) + `]`,
		"deep":             `[` + deep + `]`,
		"not a schema":     `[1]`,
		"a bad name":       `[{"cell": "maths", "functions": {"cell.x": {}}}]`,
	} {
		if s, err := ParseSchema(fmt.Appendf(nil, `{"cell": "maths", "functions": {}, "older": %s}`, text)); err == nil {
			t.Errorf("%s: %s", name, s.Canonical())
		}
	}
}
