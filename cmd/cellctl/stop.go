package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// stopTimeout leaves the nucleus time to drain its calls and to say goodbye.
const stopTimeout = cellproto.DrainTimeout + 15*time.Second

func (a *app) stopCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stop [DIR]",
		Short: "Stop the nucleus of a cell and its program",
		Long:  "Stop the nucleus of a cell and its program, once the calls in flight are done, and wait for it.",
		Args:  args(0, 1),
	}
	timeout := timeoutFlag(cmd, stopTimeout)
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
		stopped, err := a.stop(ctx, dir)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]any{"dir": dir, "stopped": stopped})
		}
		if !stopped {
			return a.print([]byte("not running\n"))
		}
		return a.print([]byte("stopped\n"))
	}
	return cmd
}

// stop stops the nucleus of dir and waits for its end; stopped is false if there was none.
func (a *app) stop(ctx context.Context, dir string) (stopped bool, err error) {
	p := a.progress()
	defer p.done()
	p.say("stopping " + dir)
	err = (&ctl.Client{Dir: dir, Progress: p.say}).Stop(ctx)
	switch {
	case err == nil, errors.Is(err, ctl.ErrLost):
		// It may end before its answer is through.
	case errors.Is(err, ctl.ErrNotRunning):
		if lockFree(dir) {
			return false, nil
		}
		if err := terminate(dir); err != nil {
			return false, err
		}
	default:
		return false, fromControl("stop "+dir, dir, err)
	}
	return true, awaitStop(ctx, dir)
}

// terminate asks a nucleus to stop that does not answer on its socket: it is about to start or to
// stop, or its socket was deleted.
func terminate(dir string) error {
	pid := readPID(dir)
	if pid == 0 {
		return nil // it has only just begun, or it is all but gone: the lock tells
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return cellproto.Errorf("stop "+dir, cellproto.KindOf(err), "cannot end process %d: %w", pid, err).
			WithHint("%s", fmt.Sprintf("the user who started it, or: kill %d", pid))
	}
	return nil
}
