package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) startCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start [DIR]",
		Short: "Start the nucleus of a cell",
		Long:  "Start the nucleus of a cell, and wait until it is ready. Starting it twice does nothing.",
		Args:  args(0, 1),
	}
	timeout := timeoutFlag(cmd, startTimeout)
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
		p := a.progress()
		defer p.done()
		started, err := a.ensure(ctx, dir, p)
		p.done()
		if err != nil {
			return err
		}
		status, err := (&ctl.Client{Dir: dir}).Status(ctx)
		if err != nil {
			return fromControl("ask the nucleus of "+dir, dir, err)
		}
		if a.json {
			return a.printJSON(status)
		}
		word := "already running"
		if started {
			word = "started"
		}
		return a.print(fmt.Appendf(nil, "%s %s (pid %d)\n", safe(status.Name), word, status.NucleusPID))
	}
	return cmd
}
