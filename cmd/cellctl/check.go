package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cmd/cellctl/gen"
)

// checked is what cellctl check found of one cell.
type checked struct {
	Target   string             `json:"target"`
	Cell     string             `json:"cell"`
	State    string             `json:"state"`
	Locked   string             `json:"locked"`         // hash of the schema that the clients are made for
	Live     string             `json:"live,omitempty"` // and of the one that the cell has now
	CID      string             `json:"cid,omitempty"`
	Changes  []cellproto.Change `json:"changes,omitempty"` // that break the clients
	Affected []string           `json:"affected,omitempty"`
	Source   string             `json:"source,omitempty"` // where Live is known from; "": the cell itself
	Error    string             `json:"error,omitempty"`

	locked celllock.Cell
	live   *described
}

// The states of a checked cell.
const (
	stateSame       = "same"
	stateCompatible = "compatible" // another schema, which serves the clients
	stateBreaking   = "breaking"
	stateUnknown    = "unknown" // nobody could be asked
	stateUpdated    = "updated"
)

func (a *app) checkCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check that the generated clients still fit their cells",
		Long: `Compares the schema of each cell in cell.lock with the one that its clients were generated from. Exit 1 when one does
not serve its clients any more, with what has changed. For "go generate" and for continuous integration.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	offline := cmd.Flags().Bool("offline", false, "ask nobody: go by what is known here from earlier calls")
	update := cmd.Flags().Bool("update", false, "generate the clients of cells with a compatible change again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := readLock()
		if err != nil {
			return err
		}
		if len(l.Cells) == 0 {
			return cellproto.Errorf("check", cellproto.NotFound, "there is no %s in %s", celllock.FileName, l.dir).WithHint("cellctl gen TARGET writes a client, and the lock.")
		}
		rows := []*checked{}
		for i := range l.Cells {
			row := a.checkOne(cmd, l, l.Cells[i], *offline, *timeout)
			if *update && row.State == stateCompatible {
				if err := l.renew(row); err != nil {
					return err
				}
			}
			rows = append(rows, row)
		}
		return a.showChecked(rows)
	}
	return cmd
}

// checkOne compares one cell with its lock.
func (a *app) checkOne(cmd *cobra.Command, l *lock, c celllock.Cell, offline bool, timeout time.Duration) *checked {
	row := &checked{Target: c.Target, Cell: c.Cell, State: stateUnknown, Locked: c.Schema.String(), locked: c}
	t, err := l.target(&c)
	if err == nil {
		if !offline {
			row.live, err = a.describe(cmd, t, timeout)
		}
		if offline || unreachable(err) {
			if known, kerr := a.known(l, t, &c); kerr == nil {
				row.live, err = known, nil
			} else if offline {
				err = kerr
			}
		}
	}
	if err != nil {
		row.Error = err.Error()
		return row
	}
	row.Live, row.CID, row.Source = row.live.schema.Hash().String(), row.live.CID, row.live.source
	if row.Live == row.Locked {
		row.State = stateSame
		return row
	}
	was, err := c.ReadSchema(l.dir)
	if err != nil {
		row.Error = err.Error()
		return row
	}
	row.State = stateCompatible
	if row.Changes = cellproto.Compatible(was, row.live.schema); len(row.Changes) > 0 {
		row.State, row.Affected = stateBreaking, c.Files()
	}
	return row
}

func unreachable(err error) bool {
	kind := cellproto.KindOf(err)
	return kind == cellproto.Unavailable || kind == cellproto.Timeout || kind == cellproto.NotFound
}

// known gives what was seen last of a cell, without asking anybody: a directory's own cache, or what the
// calling cell keeps of others.
func (a *app) known(l *lock, t target, c *celllock.Cell) (*described, error) {
	caller, err := a.callerDir()
	if err != nil {
		return nil, err
	}
	dir := t.dir
	if toml, err := celltoml.Load(caller); dir == "" && err == nil {
		if dep := toml.Deps[t.text]; strings.HasPrefix(dep, ".") || filepath.IsAbs(dep) {
			if dir = dep; !filepath.IsAbs(dep) {
				dir = toml.Path(dep)
			}
		}
	}
	path, source := filepath.Join(caller, ".cell-cache", c.CID, "schema.json"), "what was seen last"
	if dir != "" {
		path, source = filepath.Join(dir, "cache", "schema.json"), "the cache of "+dir
	} else if c.CID == "" {
		return nil, cellproto.Errorf("check "+c.Target, cellproto.NotFound, "nothing is known of it here")
	}
	data, err := celllock.ReadSmall(path, cellproto.MaxSchema)
	if err != nil {
		return nil, cellproto.Errorf("check "+c.Target, cellproto.KindOf(err), "nothing is known of it here: %w", err).
			WithHint("Without --offline the cell is asked.")
	}
	s, err := cellproto.ParseSchema(data)
	if err != nil {
		return nil, err
	}
	live := &described{schema: s, source: source}
	live.CID, live.Version = c.CID, c.Release
	return live, nil
}

// renew generates the clients of a cell again.
func (l *lock) renew(row *checked) error {
	t, err := l.target(&row.locked)
	if err != nil {
		return err
	}
	var langs []gen.Language
	for _, client := range row.locked.Clients {
		more, err := languages([]string{client.Lang})
		if err != nil {
			return err
		}
		langs = append(langs, more...)
	}
	if _, err := l.generate(t, row.live, filepath.Dir(row.locked.File), langs); err != nil {
		return err
	}
	row.State = stateUpdated
	return l.write()
}

func (a *app) showChecked(rows []*checked) error {
	breaking, unknown := 0, 0
	for _, r := range rows {
		switch r.State {
		case stateBreaking:
			breaking++
		case stateUnknown:
			unknown++
		}
	}
	if a.json {
		if err := a.printJSON(rows); err != nil {
			return err
		}
	} else if err := a.print(checkText(rows)); err != nil {
		return err
	}
	switch {
	case breaking > 0:
		return cellproto.Errorf("check", cellproto.Failed, "%d of %d cells do not fit their clients any more", breaking, len(rows)).
			WithHint("Generate them again (cellctl gen), and mend what does not compile then; or pin the version before by its CID.")
	case unknown > 0:
		return cellproto.Errorf("check", cellproto.Unavailable, "%d of %d cells could not be checked", unknown, len(rows))
	}
	return nil
}

func checkText(rows []*checked) []byte {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%s: %s", safe(r.Target), r.State)
		if r.Source != "" {
			fmt.Fprintf(&b, ", by %s", safe(r.Source))
		}
		if r.Error != "" {
			fmt.Fprintf(&b, ": %s", safe(r.Error))
		}
		b.WriteString("\n")
		for _, c := range r.Changes {
			fmt.Fprintf(&b, "  - %s\n", safe(c.String()))
		}
		if len(r.Affected) > 0 {
			fmt.Fprintf(&b, "  affected: %s\n", safe(strings.Join(r.Affected, ", ")))
		}
		if r.State == stateCompatible {
			b.WriteString("  its schema has changed; cellctl check --update makes the clients know\n")
		}
	}
	return []byte(b.String())
}
