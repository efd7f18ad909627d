package celltoml

import (
	"reflect"
	"strings"
	"testing"
)

const docs = "../../docs/cell-toml.md"

// TestDocsExample reads the first block of TOML in the reference, and sees that it shows every key.
func TestDocsExample(t *testing.T) {
	_, rest, ok := strings.Cut(string(readFile(t, docs)), "```toml\n")
	block, _, ok2 := strings.Cut(rest, "```\n")
	if !ok || !ok2 {
		t.Fatal("no block of TOML")
	}
	if _, err := Parse([]byte(block)); err != nil {
		t.Fatal(err)
	}
	entries, e := scan([]byte(block), FileName)
	if e != nil {
		t.Fatal(e)
	}
	shown := map[*key]bool{}
	for i := range entries {
		entries[i].resolve()
		shown[entries[i].key] = true
	}
	for i := range keys {
		if !shown[&keys[i]] {
			t.Errorf("the example does not show %s", keys[i].path)
		}
	}
}

// TestDocsDefaults reads the rows "| `key` | type | `default` | ..." of the reference below each
// "## [table]", and sees that every key has one and that the default is the one in the code.
func TestDocsDefaults(t *testing.T) {
	documented := map[string]bool{}
	table := ""
	for line := range strings.Lines(string(readFile(t, docs))) {
		if h, ok := strings.CutPrefix(line, "## ["); ok {
			table, _, _ = strings.Cut(h, "]")
			documented[table] = true
			continue
		}
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) < 4 || table == "" {
			continue
		}
		name := strings.Trim(cells[0], "| `")
		path := table + "." + name
		k := find(path)
		if k == nil {
			t.Errorf("%s is documented, but not a key", path)
			continue
		}
		documented[path] = true
		def := strings.Trim(cells[2], " ")
		if def == "required" {
			continue
		}
		checkDocumentedDefault(t, k, strings.Trim(def, "`"))
	}
	for i := range keys {
		if !documented[keys[i].path] {
			t.Errorf("%s is not documented", keys[i].path)
		}
	}
}

// checkDocumentedDefault sets the key to what the reference calls its default; nothing may change.
func checkDocumentedDefault(t *testing.T, k *key, value string) {
	t.Helper()
	got, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	text := minimal + "[" + k.table() + "]\n" + k.last() + " = " + value + "\n"
	if k.table() == "cell" {
		text = minimal + k.last() + " = " + value + "\n"
	}
	set, err := Parse([]byte(text))
	if err != nil {
		t.Errorf("the default of %s in the reference: %v", k.path, err)
		return
	}
	a, b := k.at(got), k.at(set)
	if l, ok := b.(*[]string); ok && len(*l) == 0 && len(*a.(*[]string)) == 0 {
		return
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("the default of %s is not %s", k.path, value)
	}
}
