package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) patchLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls [DIR]",
		Short: "List the patches of a running cell, and what became of each",
		Args:  args(0, 1),
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
		status, err := (&ctl.Client{Dir: dir}).Status(ctx)
		if err != nil {
			return fromControl("ask the nucleus of "+dir, dir, err)
		}
		if a.json {
			return a.printJSON(append([]ctl.Patch{}, status.Patch...))
		}
		rows := [][]string{{"FILE", "STATE", ""}}
		for _, p := range status.Patch {
			rows = append(rows, []string{p.File, p.State, p.Reason})
		}
		return a.table(rows)
	}
	return cmd
}
