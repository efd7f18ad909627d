package main

import (
	"fmt"
	"slices"
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
	diff := cmd.Flags().String("diff", "", "compare two versions: A..B, each a CID, a version number, or ~N for the Nth before the newest; \"~1..~0\" alone")
	cmd.Flags().Lookup("diff").NoOptDefVal = "~1..~0"
	runs := cmd.Flags().Bool("runs", false, "list what ran when in the cell's directory TARGET instead")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *runs {
			return a.showRuns(first(args))
		}
		if *diff != "" {
			return a.askOwn(cmd, args, *timeout, func(q question) error { return a.compareVersions(q, *diff) })
		}
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

// showRuns prints which program ran when, newest first. It needs no nucleus.
func (a *app) showRuns(target string) error {
	dir, err := cellDir(target)
	if err != nil {
		return err
	}
	rows, err := ctl.ReadRuns(dir)
	if err != nil {
		return cellproto.Errorf("read the history of "+dir, cellproto.KindOf(err), "%w", err)
	}
	slices.Reverse(rows)
	if a.json {
		return a.printJSON(append([]ctl.RunRow{}, rows...))
	}
	table := [][]string{{"TIME", "VERSION", "OUTCOME", "PROGRAM", "SCHEMA", "REASON"}}
	short := func(hash string) string { return safe(hash[:min(len(hash), 12)]) }
	for _, r := range rows {
		table = append(table, []string{
			r.Time.Local().Format(time.DateTime), safe(r.Version), safe(r.Outcome), short(r.BLAKE3), short(r.Schema), safe(r.Reason),
		})
	}
	return a.table(table)
}
