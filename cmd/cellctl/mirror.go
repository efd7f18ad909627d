package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) mirrorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mirror",
		Short: "Copy somebody else's cell to this machine",
		Long: "A mirror is a copy of a published cell on this machine: fetched and verified, with a daemon of its own.\n" +
			"Its program is a stranger's, and runs confined or not at all. Calls of the cell's CID go to it.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.mirrorAddCmd(), a.mirrorLsCmd(), a.mirrorRmCmd())
	return cmd
}

// mirrors asks the nucleus of the calling cell, which knows the mirrors of this machine's user.
func (a *app) mirrors(cmd *cobra.Command, p *progress, timeout time.Duration, op string, do func(context.Context, *ctl.Client) ([]ctl.MirrorRow, error)) ([]ctl.MirrorRow, error) {
	defer p.done()
	caller, err := a.callerDir()
	if err != nil {
		return nil, err
	}
	ctx, cancel, err := deadline(cmd, timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	client, err := a.client(ctx, caller, p)
	if err != nil {
		return nil, err
	}
	rows, err := do(ctx, client)
	if err != nil {
		return nil, badTarget(fromControl(op, caller, err))
	}
	return rows, nil
}

func (a *app) mirrorAddCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add TARGET",
		Short: "Fetch, verify and start a copy of a published cell",
		Long: "Fetch a published cell, check its signature and its program's hash, and start it. An interrupted copy\n" +
			"goes on with the next attempt. Prints the directory of the mirror.\n\n" +
			"A mirror listens on its Unix socket only; with --public it is announced, and serves whoever finds it.",
		Example:           "  cellctl mirror add bafyrei...",
		Args:              args(1, 1),
		ValidArgsFunction: completeTarget,
	}
	public := cmd.Flags().Bool("public", false, "announce it, and serve everybody")
	timeout := timeoutFlag(cmd, 10*time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		rows, err := a.mirrors(cmd, a.steps(), *timeout, "mirror "+args[0], func(ctx context.Context, c *ctl.Client) ([]ctl.MirrorRow, error) {
			row, err := c.AddMirror(ctx, t.text, *public)
			return []ctl.MirrorRow{row}, err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(rows[0])
		}
		return a.print(fmt.Appendf(nil, "%s\n", safe(rows[0].Dir)))
	}
	return cmd
}

func (a *app) mirrorLsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the mirrors on this machine", Args: args(0, 0)}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		rows, err := a.mirrors(cmd, a.progress(), *timeout, "list mirrors", func(ctx context.Context, c *ctl.Client) ([]ctl.MirrorRow, error) {
			return c.Mirrors(ctx)
		})
		if err != nil {
			return err
		}
		return a.showMirrors(rows)
	}
	return cmd
}

func (a *app) showMirrors(rows []ctl.MirrorRow) error {
	if a.json {
		return a.printJSON(rows)
	}
	table := [][]string{{"NAME", "VERSION", "STATE", "LAST USED", "CID", "DIR"}}
	for _, r := range rows {
		state := r.State
		switch {
		case r.Hosted:
			state += ", hosted"
		case r.Public:
			state += ", public"
		}
		is := r.CID
		if is == "" {
			is = r.Source // a repository and a commit
		}
		table = append(table, []string{r.Name, r.Version, state, r.LastUsed.Local().Format(time.DateTime), is, r.Dir})
	}
	return a.table(table)
}

func (a *app) mirrorRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm MIRROR",
		Short: "Stop and remove a mirror: its CID, its directory, or its cell's name",
		Args:  args(1, 1),
	}
	timeout := timeoutFlag(cmd, 30*time.Second)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rows, err := a.mirrors(cmd, a.progress(), *timeout, "remove mirror "+args[0], func(ctx context.Context, c *ctl.Client) ([]ctl.MirrorRow, error) {
			row, err := c.RemoveMirror(ctx, args[0])
			return []ctl.MirrorRow{row}, err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(rows[0])
		}
		return a.print(fmt.Appendf(nil, "removed %s\n", safe(rows[0].Dir)))
	}
	return cmd
}
