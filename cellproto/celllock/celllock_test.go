package celllock

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func TestParseLock(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	cell := func(target, file, client string) string {
		return fmt.Sprintf(`{"target":%q,"cell":"a","schema":%q,"file":%q,"clients":[{"lang":"go","file":%q}]}`, target, hash, file, client)
	}
	good := `{"version":1,"cells":[` + cell("a", "a.schema.json", "c/a.go") + `]}`
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		text string
		kind cellproto.Kind
	}{
		{``, cellproto.BadInput},
		{`[]`, cellproto.BadInput},
		{good + `{}`, cellproto.BadInput},
		{`{"version":1,"cells":[],"more":1}`, cellproto.BadInput},
		{`{"version":2,"cells":[]}`, cellproto.Unsupported},
		{`{"version":1,"cells":[` + cell("", "a", "b") + `]}`, cellproto.BadInput},
		{`{"version":1,"cells":[` + cell("a", "a", "b") + `,` + cell("a", "c", "d") + `]}`, cellproto.BadInput},
		{`{"version":1,"cells":[` + cell("a", "/etc/passwd", "b") + `]}`, cellproto.BadInput},
		{`{"version":1,"cells":[` + cell("a", "a", "../b") + `]}`, cellproto.BadInput},
		{strings.Replace(good, hash, "ab", 1), cellproto.BadInput},
		{strings.Replace(good, `"cell":"a"`, `"cell":"../a"`, 1), cellproto.BadInput},
		{strings.Repeat(" ", maxSize+1), cellproto.TooLarge},
		{`{"version":1,"cells":[` + strings.Repeat("{},", MaxCells) + `{}]}`, cellproto.TooLarge},
	} {
		if _, err := Parse([]byte(tc.text)); cellproto.KindOf(err) != tc.kind {
			t.Errorf("%.80q: %v, want %v", tc.text, err, tc.kind)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte(`{"version":1,"cells":[{"target":"a","cell":"a","schema":"` + strings.Repeat("ab", 32) + `","file":"a","clients":[]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		for _, c := range l.Cells {
			if !filepath.IsLocal(c.File) {
				t.Fatalf("%q is taken", c.File)
			}
		}
	})
}

// The schema of a cell is known by its bytes if they are canonical, with or without the line feed of a file; another one, or the
// same one written otherwise, is not.
func TestHad(t *testing.T) {
	s := &cellproto.Schema{Cell: "c", Functions: map[string]cellproto.Function{"f": {Pure: true}}}
	c := Cell{Schema: s.Hash()}
	for data, want := range map[string]bool{
		string(s.Canonical()): true, string(s.Canonical()) + "\n": true, string(s.Canonical()) + "\n\n": false, " " + string(s.Canonical()): false, "": false,
	} {
		if got := c.Had([]byte(data)); got != want {
			t.Errorf("%q: %v", data, got)
		}
	}
}
