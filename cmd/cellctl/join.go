package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) walletJoinCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "join ACCOUNT", Short: "Have this computer's cells belong to your account on another one",
		Long: "Have this computer's cells belong to an account whose key is on another computer of yours: what they give and take counts as\n" +
			"the account's, once it has agreed. The key stays where it is, and so do donations and pools. If this computer is lost,\n" +
			"cellctl wallet revoke on the other one ends it.\n\n" +
			"ACCOUNT is the account's peer ID, as cellctl wallet status shows it there; or self: the account of this computer's own key.\n" +
			"The home cell's nucleus is restarted. What this computer publishes it still signs with its own key.",
		Example: "  cellctl wallet join 12D3KooWacc...        # here\n" +
			"  cellctl wallet delegate 12D3KooWhome...   # on the computer with the account's key, with the ID that join shows",
		Args: args(1, 1),
	}
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		home, err := a.homeDir()
		if err != nil {
			return err
		}
		var j ctl.Joined
		err = badTarget(a.askWallet(cmd, home, *timeout, "join "+args[0], func(ctx context.Context, c *ctl.Client) (err error) {
			j, err = c.Join(ctx, args[0])
			return err
		}))
		if err != nil {
			return err
		}
		if j.Changed {
			ctx, cancel, err := deadline(cmd, *timeout)
			if err != nil {
				return err
			}
			defer cancel()
			if err := a.restart(ctx, home); err != nil {
				return err
			}
		}
		if a.json {
			return a.printJSON(j)
		}
		text := fmt.Sprintf("This computer's cells belong to %s once it agrees. On the computer with its key, while this one is connected:\n  cellctl wallet delegate %s\n", j.Account, j.Host)
		if args[0] == "self" {
			text = fmt.Sprintf("This computer's cells belong to its own account, %s\n", j.Account)
		}
		for _, dir := range j.Cells {
			text += fmt.Sprintf("If it runs: cellctl restart %s\n", safe(dir))
		}
		return a.print([]byte(text))
	}
	return cmd
}

func (a *app) walletDelegateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delegate HOST", Short: "Make the cells of another computer of yours your account's",
		Long: "Make a host on another computer your account's, for a year, which is renewed; with a home cell, all cells of that computer that\n" +
			"want to. Say cellctl wallet join there first: nobody becomes your account's by asking, and nobody without being asked.\n" +
			"Do it again when that computer has new cells. Name only computers that are yours: they are served before all others.\n\n" +
			"HOST is a peer ID, as cellctl wallet join shows it. The other computer has to be connected meanwhile.",
		Args: args(1, 1),
	}
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var hosts []ctl.WalletHost
		err := a.askHome(cmd, *timeout, "delegate "+args[0], func(ctx context.Context, c *ctl.Client) (err error) {
			hosts, err = c.Admit(ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(hosts)
		}
		rows := [][]string{}
		for _, h := range hosts {
			rows = append(rows, []string{"of your account", hostText(h)})
		}
		return a.table(rows)
	}
	return cmd
}
