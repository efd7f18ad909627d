package node

import (
	"context"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
)

// lookTimeout bounds the resolving of one name under [deps].
const lookTimeout = 5 * time.Second

// ctlDeps lists what is under [deps], and what it stands for.
func (n *nucleus) ctlDeps(ctx context.Context, _ *http.Request, _ *ctl.Writer) (any, error) {
	rows := []ctl.DepRow{}
	for _, name := range slices.Sorted(maps.Keys(n.cfg.Deps)) {
		rows = append(rows, n.depRow(ctx, name))
	}
	return rows, nil
}

// ctlUpdateDeps brings dependencies by git up to date.
func (n *nucleus) ctlUpdateDeps(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	err := n.depends.update(ctx, r.URL.Query()["name"], func(text string) { _ = w.Progress(text) }) // a caller that left has ended ctx
	if err != nil {
		return nil, err
	}
	return n.ctlDeps(ctx, r, w)
}

func (n *nucleus) depRow(ctx context.Context, name string) ctl.DepRow {
	if row, ok := n.depends.row(name); ok {
		row.Target = n.cfg.Deps[name]
		if row.Dir != "" {
			row.State = mirror.State(ctx, row.Dir)
		}
		return row
	}
	row := ctl.DepRow{Name: name, Target: n.cfg.Deps[name], Kind: ctl.DepPublished}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	dir, id, err := n.caller.Where(ctx, name)
	if row.Dir = dir; dir != "" && !id.Defined() {
		row.Kind = ctl.DepDirectory
	}
	if id.Defined() {
		row.CID = id.String()
	}
	if dir != "" {
		row.Dir, row.State = filepath.Clean(dir), mirror.State(ctx, dir)
	}
	if err != nil {
		row.Error, row.Hint = err.Error(), cellproto.HintOf(err)
	}
	return row
}

// row describes a dependency by git; ok is false for what is none.
func (d *depends) row(name string) (row ctl.DepRow, ok bool) {
	dep := d.deps[name]
	if dep == nil {
		return row, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	row = ctl.DepRow{Name: name, Kind: ctl.DepGit, Commit: dep.pin.Commit, Moves: dep.pin.Moves, Dir: d.have(dep, d.now())}
	if !dep.looked.IsZero() {
		looked := dep.looked.UTC()
		row.Looked = &looked
	}
	if dep.job != nil {
		row.Step = "it has begun"
		if n := len(dep.job.steps); n > 0 {
			row.Step = dep.job.steps[n-1]
		}
	}
	if dep.err != nil {
		row.Error, row.Hint = dep.err.Error(), cellproto.HintOf(dep.err)
	}
	return row, true
}
