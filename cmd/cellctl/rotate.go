package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) walletRotateCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Replace your account's key by the one that was announced",
		Long: "Replace your account's key, since somebody else may have it; eleven times at most. The account stays what it is: its ID, its\n" +
			"hosts, what it has given and taken. keys/next.key of the home cell comes into force, which the account has announced\n" +
			"before: put it back there if you keep it elsewhere. Another next.key is made and announced; keep that one elsewhere.\n\n" +
			"The old key is removed, and backups of it have to be destroyed: with it a contradiction could be signed, and that bans\n" +
			"the account for good. Whoever knows you by the old key (allowed_keys, trusted_keys, a pool's members) has to be told of\n" +
			"the new one, and cells that you publish have a new owner from now on.",
		Args: args(0, 0),
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if a pool of yours stands still after that")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var r ctl.Rotated
		err := a.askHome(cmd, *timeout, "rotate the account's key", func(ctx context.Context, c *ctl.Client) (err error) {
			r, err = c.Rotate(ctx, force)
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(r)
		}
		text := fmt.Sprintf("%s signs for your account %s\nKeep %s elsewhere: it is the next key. Destroy what copies there are of the one before, %s.\n",
			r.Key, r.Account, r.NextFile, r.Before)
		for _, pool := range r.Pools {
			text += fmt.Sprintf("The pool %s knows you by the old key. Another member: cellctl pool members %s --replace %s=%s\n", safe(pool), safe(pool), r.Before, r.Key)
		}
		return a.print([]byte(text))
	}
	return cmd
}
