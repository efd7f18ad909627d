package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) findCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "find [TARGET]",
		Short:             "List the providers of a cell as they are found",
		Args:              args(0, 1),
		ValidArgsFunction: completeTarget,
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.ask(cmd, args, *timeout, func(q question) error {
			rows := []ctl.FindRow{}
			err := q.client.Find(q.ctx, q.target.text, func(r ctl.FindRow) error {
				rows = append(rows, r)
				if a.json {
					return nil
				}
				q.progress.done()
				return a.print(fmt.Appendf(nil, "%s  %-6s  %s\n", safe(r.Peer), safe(r.Source), safe(strings.Join(r.Addrs, " "))))
			})
			q.progress.done()
			switch {
			case err != nil && len(rows) == 0:
				return q.failed(err)
			case err != nil && cellproto.KindOf(q.failed(err)) != cellproto.Timeout:
				return q.failed(err)
			case len(rows) == 0:
				return cellproto.Errorf("find "+q.target.text, cellproto.NotFound, "nobody provides it").
					WithHint("cellctl doctor, to see whether this machine is connected")
			}
			// Running out of time after some were found is how a search usually ends.
			if a.json {
				return a.printJSON(rows)
			}
			return nil
		})
	}
	return cmd
}
