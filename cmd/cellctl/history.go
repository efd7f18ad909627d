package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) historyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "history [TARGET]",
		Short:             "List the published versions of a cell, newest first",
		Args:              args(0, 1),
		ValidArgsFunction: completeTarget,
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.askOwn(cmd, args, *timeout, func(q question) error {
			rows, err := q.client.History(q.ctx, q.target.text)
			q.progress.done()
			if err != nil {
				return q.failed(err)
			}
			if a.json {
				return a.printJSON(append([]ctl.HistoryRow{}, rows...))
			}
			table := [][]string{{"VERSION", "CREATED", "SCHEMA", "CID"}}
			for _, r := range rows {
				schema := r.Schema[:min(len(r.Schema), 12)]
				table = append(table, []string{r.Version, r.Created.Local().Format(time.DateTime), schema, r.CID})
			}
			if err := a.table(table); err != nil || len(rows) == 0 || rows[len(rows)-1].Note == "" {
				return err
			}
			_, err = fmt.Fprintf(a.errOut, "cellctl: %s\n", safe(rows[len(rows)-1].Note))
			return err
		})
	}
	return cmd
}
