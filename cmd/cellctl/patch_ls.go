package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) patchLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls [DIR]",
		Short: "List the patches of a cell, and what became of each",
		Long: "List the patches of a cell, and what became of each. One that its nucleus has not looked at yet is waited\n" +
			"for, within --timeout; where none runs, all wait for the next start.",
		Args: args(0, 1),
	}
	timeout := timeoutFlag(cmd, 5*time.Second)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		ctx, cancel, err := deadline(cmd, *timeout)
		if err != nil {
			return err
		}
		defer cancel()
		patches, err := listPatches(ctx, dir)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(append([]ctl.Patch{}, patches...))
		}
		rows := [][]string{{"FILE", "STATE", ""}}
		for _, p := range patches {
			rows = append(rows, []string{p.File, p.State, p.Reason})
		}
		return a.table(rows)
	}
	return cmd
}

// listPatches gives what the nucleus says of the patches, and adds those that it says nothing of yet.
func listPatches(ctx context.Context, dir string) ([]ctl.Patch, error) {
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		status, err := (&ctl.Client{Dir: dir}).Status(ctx)
		if errors.Is(err, ctl.ErrNotRunning) {
			return unseenPatches(dir, nil, "the nucleus does not run: cellctl start "+quoteWord(dir)), nil
		}
		if err != nil {
			return nil, fromControl("ask the nucleus of "+dir, dir, err)
		}
		unseen := unseenPatches(dir, status.Patch, "the nucleus has not looked at it: it does so if it was started with trusted_keys under [patch] in cell.toml")
		if len(unseen) == 0 {
			return status.Patch, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return append(status.Patch, unseen...), nil
		}
	}
}

// unseenPatches gives the patches in a cell's directory of which nothing was said.
func unseenPatches(dir string, said []ctl.Patch, why string) (out []ctl.Patch) {
	files, _ := os.ReadDir(filepath.Join(dir, "patch")) // a cell without has none
	for _, f := range files {
		named := func(p ctl.Patch) bool { return p.File == f.Name() }
		if strings.HasSuffix(f.Name(), patch.Suffix) && !slices.ContainsFunc(said, named) {
			out = append(out, ctl.Patch{File: f.Name(), State: ctl.PatchWaiting, Reason: why})
		}
	}
	return out
}
