package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) donorsCmd() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use: "donors [DIR]", Short: "Rank those who have given, as seen from one host",
		Long: "Rank those who have given by what one host, the root, owes them: for what they did for it, or for others that it\n" +
			"owes something. There is no list for everybody that could be trusted: two who collude can sign for each other what they\n" +
			"like, and it is worth something only to those who owe one of them. So another root has another list, and this one is made\n" +
			"of what this host has heard.",
		Args: args(0, 1),
	}
	cmd.Flags().StringVar(&root, "root", "", "peer `ID` of the host from which it is seen; this cell's nucleus if left out")
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var donors []ctl.DonorRow
		err := a.askWallet(cmd, first(args), *timeout, "rank donors", func(ctx context.Context, c *ctl.Client) (err error) {
			donors, err = c.Donors(ctx, root)
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(donors)
		}
		rows := [][]string{{"PEER", "OWED", "GIVEN TO ANYBODY"}}
		for _, d := range donors {
			rows = append(rows, []string{d.Peer, energyText(d.Owed), energyText(d.Given)})
		}
		return a.table(rows)
	}
	return cmd
}
