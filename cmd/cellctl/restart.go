package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) restartCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restart [DIR]",
		Short: "Stop the nucleus of a cell, if it runs, and start it",
		Args:  args(0, 1),
	}
	timeout := timeoutFlag(cmd, stopTimeout+startTimeout)
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
		if err := a.restart(ctx, dir); err != nil {
			return err
		}
		status, err := (&ctl.Client{Dir: dir}).Status(ctx)
		if err != nil {
			return fromControl("ask the nucleus of "+dir, dir, err)
		}
		if a.json {
			return a.printJSON(status)
		}
		return a.print(fmt.Appendf(nil, "%s restarted (pid %d)\n", safe(status.Name), status.NucleusPID))
	}
	return cmd
}

// restart ends the nucleus of a cell, if it runs, and starts it.
func (a *app) restart(ctx context.Context, dir string) error {
	if _, err := a.stop(ctx, dir); err != nil {
		return err
	}
	p := a.progress()
	defer p.done()
	_, err := a.ensure(ctx, dir, p)
	return err
}
