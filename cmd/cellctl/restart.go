package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
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

// restart ends the nucleus of a cell, if it runs, and starts it. One that serves goes on if it could not be started again.
func (a *app) restart(ctx context.Context, dir string) error {
	if err := a.startable(ctx, dir); err != nil {
		return err
	}
	if _, err := a.stop(ctx, dir); err != nil {
		return err
	}
	p := a.progress()
	defer p.done()
	_, err := a.ensure(ctx, dir, p)
	return err
}

// startable is nil if a celld could run the cell in dir as it is now, or none runs it.
func (a *app) startable(ctx context.Context, dir string) error {
	if running, err := isRunning(ctx, dir); !running {
		return err
	}
	op := "restart " + dir
	const goesOn = "The nucleus that runs goes on as it is. "
	if _, err := celltoml.Load(dir); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s%s", goesOn, cellproto.HintOf(err))
	}
	celld, err := a.celld(dir)
	if err != nil {
		return err
	}
	check := exec.CommandContext(ctx, celld.Path, "--handover-check", dir)
	check.Dir, check.Env = celld.Dir, celld.Env
	var said bytes.Buffer
	check.Stderr = &said
	if err := check.Run(); err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%s (%w)", strings.TrimSpace(said.String()), err).
			WithHint("%sMend it, and restart again.", goesOn)
	}
	return nil
}
