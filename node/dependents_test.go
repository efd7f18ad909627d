package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

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

// However often a cell says that it has changed, it is asked and compared once in a while, and the last word counts.
func TestChecksAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := cellproto.SchemaHash{1}
		cells := map[string]celllock.Cell{"a": {Target: "a", Cell: "a", Schema: made}}
		var asked atomic.Int64
		c := &checks{
			lock: &locked{}, log: zap.NewNop(), due: make(chan struct{}, 1), wanted: map[string]bool{}, begun: map[string]time.Time{},
			heard: map[[2]cellproto.SchemaHash]bool{}, rows: map[string]ctl.DependencyCheck{},
			schema: func(context.Context, string) (*cellproto.Schema, error) {
				asked.Add(1)
				return nil, errors.New("nobody")
			},
		}
		c.lock.now.Store(&cells)
		c.ctx, c.cancel = context.WithCancel(t.Context())
		c.work.Go(c.run)
		defer func() { c.cancel(); c.work.Wait() }()
		for i := range 100 {
			c.hear(made, cellproto.SchemaHash{2, byte(i)})
			synctest.Wait()
		}
		if asked.Load() != 1 {
			t.Errorf("asked %d times at once", asked.Load())
		}
		time.Sleep(lockCheckEvery)
		synctest.Wait()
		if asked.Load() != 2 {
			t.Errorf("asked %d times, want once more for all that was said since", asked.Load())
		}
		time.Sleep(10 * lockCheckEvery)
		synctest.Wait()
		if asked.Load() != 2 || len(c.begun) > 1 {
			t.Errorf("asked %d times, though nothing was said", asked.Load())
		}
	})
}
