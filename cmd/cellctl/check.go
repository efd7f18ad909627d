package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
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
	stateStale      = "stale"   // a client is not there, or was made from another schema than the lock says
	stateUnknown    = "unknown" // nobody could be asked
	stateUpdated    = "updated"
)

func (a *app) checkCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check that the generated clients still fit their cells",
		Long: `Compares the schema of each cell in cell.lock with the one that its clients were generated from. Exit 1 when one does
not serve its clients any more, with what has changed, or when a client is not the one in cell.lock. For "go generate" and
for continuous integration.`,
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
		rows := checkAll(l, *offline, func(c celllock.Cell) *checked { return a.checkOne(cmd, l, c, *offline, *timeout) })
		for _, row := range rows {
			if *update && row.State == stateCompatible {
				if err := l.renew(row); err != nil {
					return err
				}
			}
		}
		return a.showChecked(rows)
	}
	return cmd
}

// checkAll checks each cell, those of which nobody is asked at the same time: they only cost processor time.
func checkAll(l *lock, offline bool, one func(celllock.Cell) *checked) []*checked {
	rows := make([]*checked, len(l.Cells))
	workers := 1
	if offline {
		workers = runtime.GOMAXPROCS(0)
		defer debug.SetGCPercent(debug.SetGCPercent(500)) // a few MB of schemas: collecting them 15 times took a third of it all
	}
	var next atomic.Int32
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(rows); i = int(next.Add(1)) - 1 {
				rows[i] = one(l.Cells[i])
			}
		})
	}
	all.Wait()
	return rows
}

// checkOne compares one cell with its lock.
func (a *app) checkOne(cmd *cobra.Command, l *lock, c celllock.Cell, offline bool, timeout time.Duration) *checked {
	row := &checked{Target: c.Target, Cell: c.Cell, State: stateUnknown, Locked: c.Schema.String(), locked: c}
	if stale := l.stale(&c); len(stale) > 0 {
		row.State, row.Affected = stateStale, stale
		return row
	}
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
	row.Live, row.CID, row.Source = row.Locked, row.live.CID, row.live.source
	if row.live.schema != nil {
		row.Live = row.live.schema.Hash().String()
	}
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

// stale gives the clients of a cell that are not there, or were not made from the schema in the lock: they have its hash.
func (l *lock) stale(c *celllock.Cell) (files []string) {
	for _, file := range c.Files() {
		code, err := celllock.ReadSmall(filepath.Join(l.dir, file), maxClient)
		if err != nil || !bytes.Contains(code, []byte(c.Schema.String())) {
			files = append(files, file)
		}
	}
	return files
}

const maxClient = 16 << 20 // bytes of a client

func unreachable(err error) bool {
	kind := cellproto.KindOf(err)
	return kind == cellproto.Unavailable || kind == cellproto.Timeout
}

// known gives what was seen last of a cell, without asking anybody: a directory's own cache, or what the
// calling cell keeps of others.
func (a *app) known(l *lock, t target, c *celllock.Cell) (*described, error) {
	caller, err := a.callerDir()
	if err != nil {
		return nil, err
	}
	dir, id := t.dir, ""
	if dir == "" {
		dir, id = stoodFor(caller, t.text)
	}
	live := &described{}
	live.CID = id
	switch {
	case dir != "":
		live.source = "the cache of " + dir
		live.schema, err = readCached(filepath.Join(dir, "cache", "schema.json"), c)
	case id == "":
		return nil, cellproto.Errorf("check "+c.Target, cellproto.NotFound, "it is not known here what it stands for").WithHint("Without --offline it is asked for.")
	case id == c.CID: // of which there is one version only
		live.source, live.Version = "its CID", c.Release
		live.schema, err = readCached(filepath.Join(l.dir, c.File), c)
	default:
		live.source = "what was seen last"
		live.schema, err = readCached(filepath.Join(caller, ".cell-cache", id, "schema.json"), c)
	}
	if err != nil {
		return nil, cellproto.Errorf("check "+c.Target, cellproto.KindOf(err), "its schema is not known here: %w", err).
			WithHint("Without --offline the cell is asked.")
	}
	return live, nil
}

// stoodFor gives the directory or the CID for which a target stands, as far as that is known without a network; "" for
// both if it is not.
func stoodFor(caller, target string) (dir, id string) {
	if toml, err := celltoml.Load(caller); err == nil {
		if to, ok := toml.Deps[target]; ok {
			if strings.HasPrefix(to, ".") {
				return toml.Path(to), ""
			}
			target = to
		}
	}
	if filepath.IsAbs(target) {
		return target, ""
	}
	if strings.HasPrefix(target, "bafyrei") && filepath.IsLocal(target) { // a dag-cbor block, as publish writes it
		return "", target
	}
	data, err := celllock.ReadSmall(filepath.Join(caller, ".cell-cache", "names.json"), cellproto.MaxSchema)
	names := map[string]string{}
	if err != nil || json.Unmarshal(data, &names) != nil || !filepath.IsLocal(names[target]) {
		return "", ""
	}
	return "", names[target]
}

// readCached reads a schema; nil if it is the one that a cell of the lock had. Most are, and that is seen without reading
// them.
func readCached(path string, c *celllock.Cell) (*cellproto.Schema, error) {
	data, err := celllock.ReadSmall(path, cellproto.MaxSchema)
	if err != nil || c.Had(data) {
		return nil, err
	}
	return cellproto.ParseSchema(data)
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
	return nil
}

func (a *app) showChecked(rows []*checked) error {
	breaking, stale, unknown := 0, 0, 0
	for _, r := range rows {
		switch r.State {
		case stateBreaking:
			breaking++
		case stateStale:
			stale++
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
	case stale > 0:
		return cellproto.Errorf("check", cellproto.Failed, "the clients of %d of %d cells are not those of %s", stale, len(rows), celllock.FileName).
			WithHint("Take them from version control again, or write them again: cellctl gen TARGET.")
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
