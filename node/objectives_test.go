package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto/celltoml"
)

// What does not count of a caller's objectives is told, file by file.
func TestObjectives(t *testing.T) {
	dir := t.TempDir()
	n := &nucleus{cfg: &celltoml.Config{Dir: dir}}
	if c := n.checkObjectives(); !c.OK || !strings.Contains(c.Detail, "none") {
		t.Errorf("without any: %+v", c)
	}
	write := func(name, text string) {
		path := filepath.Join(dir, ".cell-cache", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("slo.json", `{"max_p99_ms": 50, "clone_on_violation": true}`)
	write("bafyone/slo.json", `{"max_p99_ms": 50}`)
	write("bafyone/winner.json", `{}`)
	if c := n.checkObjectives(); !c.OK || !strings.Contains(c.Detail, "2 of its own") {
		t.Errorf("two: %+v", c)
	}
	write("bafytwo/slo.json", `{"max_p99": 50}`)
	write("bafylong/slo.json", `{}`+strings.Repeat(" ", 5<<10))
	if err := os.MkdirAll(filepath.Join(dir, ".cell-cache", "bafydir", "slo.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, faults := objectives(dir)
	text := strings.Join(faults, "\n")
	for _, want := range []string{
		`.cell-cache/bafytwo/slo.json does not count: json: unknown field "max_p99"`,
		".cell-cache/bafylong/slo.json does not count: 5122 bytes",
		".cell-cache/bafydir/slo.json does not count: it is no regular file",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
	if c := n.checkObjectives(); len(faults) != 3 || c.OK || !strings.Contains(c.Fix, "max_p99_ms") {
		t.Errorf("%d faults: %+v", len(faults), c)
	}
}
