package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) gcCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove mirrors that nobody uses",
		Long: "Remove the mirrors that are stopped and were not used for 7 days, what was left half-way of others or is kept\n" +
			"of their programs, and the blocks that were fetched. What is being fetched at the moment stays.",
		Args: args(0, 0),
	}
	dry := cmd.Flags().Bool("dry-run", false, "only name them")
	timeout := timeoutFlag(cmd, 2*time.Minute)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		rows, err := a.mirrors(cmd, a.progress(), *timeout, "remove mirrors", func(ctx context.Context, c *ctl.Client) ([]ctl.MirrorRow, error) {
			return c.Collect(ctx, *dry)
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(rows)
		}
		verb := "removed"
		if *dry {
			verb = "would remove"
		}
		for _, r := range rows {
			if err := a.print(fmt.Appendf(nil, "%s %s\n", verb, safe(r.Dir))); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
