package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/internal/ctl"
)

func TestDependencyRow(t *testing.T) {
	const pair = `{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`
	was := schemaOfText(t, `"add":{"input":`+pair+`}`)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.json"), was.Canonical(), 0o600); err != nil {
		t.Fatal(err)
	}
	cell := &celllock.Cell{Target: "a", Cell: "a", Schema: was.Hash(), File: "a.json"}
	lost := &celllock.Cell{Target: "a", Cell: "a", Schema: cellproto.SchemaHash{1}, File: "a.json"}
	for _, tc := range []struct {
		name    string
		cell    *celllock.Cell
		live    *cellproto.Schema
		err     error
		state   string
		changes string
	}{
		{"the same", cell, was, nil, ctl.DependencySame, ""},
		{"a function more", cell, schemaOfText(t, `"add":{"input":`+pair+`},"sub":{}`), nil, ctl.DependencyCompatible, "sub: it is new"},
		{"an argument more", cell, schemaOfText(t, `"add":{"input":`+strings.Replace(pair, `"properties":{`, `"properties":{"b":{"type":"string"},`, 1)+`}`),
			nil, ctl.DependencyCompatible, "add: it takes or gives more"},
		{"a function less", cell, schemaOfText(t, `"sub":{}`), nil, ctl.DependencyBreaking, "add: the function is gone"},
		{"nobody answers", cell, nil, errors.New("nobody"), ctl.DependencyUnknown, ""},
		{"the lock's schema is another one", lost, was, nil, ctl.DependencyUnknown, ""},
	} {
		row := dependencyRow(tc.cell, dir, tc.live, tc.err)
		if got := strings.Join(row.Changes, "; "); row.State != tc.state || got != tc.changes || (row.Error != "") != (tc.state == ctl.DependencyUnknown) {
			t.Errorf("%s: %+v, want %s and %q", tc.name, row, tc.state, tc.changes)
		}
	}
}
