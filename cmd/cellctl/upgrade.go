package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// upgradeTimeout bounds an upgrade: a new program's trial may have to end first, and calls have a few
// seconds to.
const upgradeTimeout = 60 * time.Second

func (a *app) upgradeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade [DIR]",
		Short: "Replace the celld of a running nucleus without dropping a call",
		Long: "Has another celld take over the nucleus of a cell in place, with its sockets, the callers on this machine\n" +
			"and the program, which goes on. Without --celld that is what is now at the path of the one that runs.\n" +
			"Peers on the network reconnect. A file that cannot take over is refused, and nothing changes.",
		Args: args(0, 1),
	}
	file := cmd.Flags().String("celld", "", "the `FILE` that takes over")
	cut := cmd.Flags().Bool("cut", false, "cut calls that do not end in time; they may have run")
	timeout := timeoutFlag(cmd, upgradeTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		path := *file
		if path != "" {
			if path, err = filepath.Abs(path); err != nil {
				return cellproto.Errorf("upgrade "+dir, cellproto.Failed, "%w", err)
			}
		}
		ctx, cancel, err := deadline(cmd, *timeout)
		if err != nil {
			return err
		}
		defer cancel()
		p := a.progress()
		defer p.done()
		out, err := upgrade(ctx, dir, path, *cut, p)
		p.done()
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(out)
		}
		return a.table([][]string{
			{"celld", out.Celld + " (was " + out.From + ")"}, {"file", out.File}, {"nucleus", fmt.Sprintf("pid %d", out.NucleusPID)},
			{"took", fmt.Sprintf("%d ms", out.TookMS)},
		})
	}
	return cmd
}

// upgraded is what the command prints. Its JSON fields are a promise.
type upgraded struct {
	Celld      string `json:"celld"` // the version that runs now
	From       string `json:"from"`
	File       string `json:"file"`
	NucleusPID int    `json:"nucleus_pid"` // the same as before
	ProgramPID int    `json:"program_pid"`
	TookMS     int64  `json:"took_ms"`
}

// upgrade has the other celld take over, and asks it how it is.
func upgrade(ctx context.Context, dir, file string, cut bool, p *progress) (upgraded, error) {
	op, begin := "upgrade "+dir, time.Now()
	client := &ctl.Client{Dir: dir, Progress: p.say}
	begun, err := client.Upgrade(ctx, file, cut)
	if err != nil {
		return upgraded{}, fromControl(op, dir, err)
	}
	p.say("celld " + safe(begun.To) + " takes over")
	status, err := client.Status(ctx) // the connection waits until there is somebody to take it
	if err != nil {
		return upgraded{}, wrapOp(op, fromControl("ask the nucleus of "+dir, dir, err))
	}
	switch u := status.Upgrade; {
	case u == nil || status.CelldStarted.Equal(begun.Started):
		return upgraded{}, cellproto.Errorf(op, cellproto.Failed, "the nucleus was started anew meanwhile").
			WithHint("cellctl logs %s", quoteWord(dir))
	case u.Error != "":
		return upgraded{}, cellproto.Errorf(op, cellproto.Failed, "celld %s goes on: %s", safe(status.Celld), safe(u.Error))
	}
	return upgraded{
		Celld: status.Celld, From: status.Upgrade.From, File: begun.File,
		NucleusPID: status.NucleusPID, ProgramPID: status.ProgramPID, TookMS: time.Since(begin).Milliseconds(),
	}, nil
}
