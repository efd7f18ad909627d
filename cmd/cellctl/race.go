package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) raceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "race [TARGET]",
		Short:             "Measure the providers of a cell and show who wins",
		Args:              args(0, 1),
		ValidArgsFunction: completeTarget,
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	watch := cmd.Flags().BoolP("watch", "w", false, "show each race as it is held, by calls too, until ^C; with --json a line each")
	every := durationFlag(10 * time.Second)
	cmd.Flags().Var(&every, "every", "with --watch: hold a race when there was none for so long")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *watch {
			if err := checkEvery(time.Duration(every)); err != nil {
				return usageError{err}
			}
			if !cmd.Flags().Changed("timeout") {
				*timeout = watchTime
			}
			return a.ask(cmd, args, *timeout, func(q question) error { return a.watchRaces(q, time.Duration(every)) })
		}
		return a.ask(cmd, args, *timeout, func(q question) error {
			rows, err := q.client.Race(q.ctx, q.target.text)
			q.progress.done()
			if err != nil {
				return q.failed(err)
			}
			if a.json {
				return a.printJSON(append([]ctl.RaceRow{}, rows...))
			}
			if status, err := q.client.Status(q.ctx); err == nil { // what is missing is a note
				a.notes(status.Objectives)
			}
			return a.table(raceTable(rows))
		})
	}
	return cmd
}

func raceTable(rows []ctl.RaceRow) [][]string {
	table := [][]string{{"PEER", "PING", "P99", "QUEUE", "SCORE", ""}}
	for _, r := range rows {
		if r.Error != "" {
			table = append(table, []string{r.Peer, "-", "-", "-", "-", r.Error})
			continue
		}
		mark := ""
		if r.Winner {
			mark = "winner"
		}
		table = append(table, []string{r.Peer, micros(r.MedianUS), micros(r.P99US), strconv.Itoa(r.Queue), micros(r.ScoreUS), mark})
	}
	return table
}
