package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/cmd/cellctl/gen"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) genCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gen TARGET...",
		Short: "Write typed clients of cells",
		Long: `Reads the schema of each cell and writes a typed client of it: a package of its own in Go, one file that needs
nothing but the standard library in Python and TypeScript. What it was made from is pinned in cell.lock, beside the
nearest cell.toml; "cellctl check" says when a cell does not fit any more.`,
		Args:              args(1, celllock.MaxCells),
		ValidArgsFunction: completeTarget,
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	out := cmd.Flags().StringP("output", "o", "clients", "directory of the clients")
	langs := cmd.Flags().StringSlice("lang", []string{"go"}, "languages: go, python, typescript")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		chosen, err := languages(*langs)
		if err != nil {
			return err
		}
		l, err := readLock()
		if err != nil {
			return err
		}
		dir, err := l.below(*out)
		if err != nil {
			return err
		}
		var written []celllock.Cell
		for _, word := range args {
			t, err := parseTarget(word)
			if err != nil {
				return err
			}
			live, err := a.describe(cmd, t, *timeout)
			if err != nil {
				return err
			}
			c, err := l.generate(t, live, dir, chosen)
			if err != nil {
				return err
			}
			written = append(written, c)
		}
		return a.showGenerated(written)
	}
	return cmd
}

func languages(names []string) (chosen []gen.Language, err error) {
	var known []string
	for _, lang := range gen.Languages {
		known = append(known, lang.Name)
	}
next:
	for _, name := range names {
		for _, lang := range gen.Languages {
			if lang.Name == name {
				chosen = append(chosen, lang)
				continue next
			}
		}
		return nil, usageError{cellproto.Errorf("generate a client", cellproto.BadInput, "there is no language %.40q", name).
			WithHint("There are: %s.", strings.Join(known, ", "))}
	}
	return chosen, nil
}

// below gives a directory relative to the lock, in which it has to lie: the lock names what is in it.
func (l *lock) below(out string) (string, error) {
	abs, err := filepath.Abs(out)
	if err != nil {
		return "", cellproto.Errorf("find "+out, cellproto.Failed, "%w", err)
	}
	rel, err := filepath.Rel(l.dir, abs)
	if err != nil || !filepath.IsLocal(rel) {
		return "", usageError{cellproto.Errorf("generate a client", cellproto.BadInput, "%s does not lie below %s, where %s is", abs, l.dir, celllock.FileName)}
	}
	return rel, nil
}

// described is what a cell is now.
type described struct {
	ctl.Description
	schema *cellproto.Schema // nil: the one in the lock
	source string            // where that is known from, for people; "": the cell itself
}

// describe asks a nucleus what a target is now.
func (a *app) describe(cmd *cobra.Command, t target, timeout time.Duration) (*described, error) {
	dir := t.dir
	if dir == "" {
		var err error
		if dir, err = a.callerDir(); err != nil {
			return nil, err
		}
	}
	live := &described{}
	err := a.askNucleus(cmd, t, dir, timeout, func(q question) (err error) {
		if live.Description, err = q.client.Describe(q.ctx, t.text); err != nil {
			return q.failed(err)
		}
		live.schema, err = cellproto.ParseSchema(live.Schema)
		return err
	})
	return live, err
}

// generate writes the clients of one cell, and puts it into the lock. Clients in other languages, in the same directory,
// are written again: all of one cell are made from one schema.
func (l *lock) generate(t target, live *described, dir string, langs []gen.Language) (celllock.Cell, error) {
	s := live.schema
	c := celllock.Cell{
		Target: l.name(t), Cell: s.Cell, CID: live.CID, Release: live.Version, Schema: s.Hash(),
		File: filepath.ToSlash(filepath.Join(dir, s.Cell+".schema.json")),
	}
	for _, lang := range gen.Languages {
		if !slices.ContainsFunc(langs, func(l gen.Language) bool { return l.Name == lang.Name }) && l.has(&c, lang.Name) {
			langs = append(slices.Clip(langs), lang)
		}
	}
	files := []gen.Client{{File: s.Cell + ".schema.json", Code: append(s.Canonical(), '\n')}}
	for _, lang := range langs {
		client, err := lang.Generate(s)
		if err != nil {
			return c, err
		}
		files = append(files, client)
		c.Clients = append(c.Clients, celllock.Client{Lang: lang.Name, File: filepath.ToSlash(filepath.Join(dir, client.Dir, client.File))})
	}
	if err := l.free(&c); err != nil {
		return c, err
	}
	for _, f := range files {
		path := filepath.Join(l.dir, dir, f.Dir, f.File)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = renameio.WriteFile(path, f.Code, 0o644)
		}
		if err != nil {
			return c, cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
		}
	}
	return c, l.put(c) // what is done is done, whatever comes next
}

// has says whether the lock has a client in a language of the same cell in the same directory.
func (l *lock) has(c *celllock.Cell, lang string) bool {
	return slices.ContainsFunc(l.Cells, func(o celllock.Cell) bool {
		return o.Target == c.Target && o.File == c.File && slices.ContainsFunc(o.Clients, func(client celllock.Client) bool { return client.Lang == lang })
	})
}

// free says whether none of a cell's files is that of another cell.
func (l *lock) free(c *celllock.Cell) error {
	for _, other := range l.Cells {
		if other.Target == c.Target {
			continue
		}
		theirs := append(other.Files(), other.File)
		for _, file := range append(c.Files(), c.File) {
			if slices.Contains(theirs, file) {
				return cellproto.Errorf("generate a client of "+c.Target, cellproto.BadInput, "%s was generated from %s, another cell of such a name", file, other.Target).
					WithHint("Give it a directory of its own: cellctl gen %s -o DIR", c.Target)
			}
		}
	}
	return nil
}

func (a *app) showGenerated(cells []celllock.Cell) error {
	if a.json {
		return a.printJSON(cells)
	}
	table := [][]string{{"CELL", "RELEASE", "SCHEMA", "LANGUAGE", "FILE"}}
	for _, c := range cells {
		for _, client := range c.Clients {
			table = append(table, []string{safe(c.Cell), safe(c.Release), c.Schema.String()[:12], client.Lang, safe(client.File)})
		}
	}
	return a.table(table)
}
