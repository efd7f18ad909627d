package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) walletRecoverCmd() *cobra.Command {
	var accept, force bool
	var donation string
	cmd := &cobra.Command{
		Use: "recover", Short: "Show what is missing of your account's key log, or go on without it",
		Long: "Show what is missing of your account's key log, after the home cell's ledger was lost or damaged, and who is waited for.\n" +
			"The log says which hosts and which key are your account's. What is signed in the place of an entry that somebody has\n" +
			"contradicts it, and that bans the account for good: so nothing is signed until those who can have it have said that\n" +
			"there is no more.\n\n" +
			"If they do not come back you can say so yourself, with --accept: what is here is all that anybody has. Entries that\n" +
			"were on this computer's disk and are not here need --force as well: do that only if nobody has ever seen them.\n\n" +
			"Donations are shown that others have and the home cell has lost, signed by a key of yours that was replaced since. Whoever\n" +
			"has stolen that key can have made them: say which ones were yours, with --donation.",
		Example: "  cellctl wallet recover             # what is missing, and who is waited for\n" +
			"  cellctl wallet recover --accept    # nobody has more of it than this computer",
		Args: args(0, 0),
	}
	cmd.Flags().BoolVar(&accept, "accept", false, "go on from what is here of the log")
	cmd.Flags().BoolVar(&force, "force", false, "with --accept: also if entries are known to be missing")
	cmd.Flags().StringVar(&donation, "donation", "", "the donation to this account, which a replaced key has signed, was yours")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var r ctl.Recovery
		err := a.askHome(cmd, *timeout, "recover the account's key log", func(ctx context.Context, c *ctl.Client) (err error) {
			r, err = c.Recover(ctx, accept, force, donation)
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(r)
		}
		return a.print([]byte(recoveryText(r)))
	}
	return cmd
}

func recoveryText(r ctl.Recovery) string {
	var b strings.Builder
	for _, d := range r.Unproven {
		fmt.Fprintf(&b, "%s has %s of yours in %d donations, the last of %s, which a replaced key has signed. If you have made them:\n  cellctl wallet recover --donation %s\n",
			safe(d.To), energyText(d.UWH), d.Times, time.UnixMilli(d.At).Local().Format(time.DateTime), safe(d.To))
	}
	switch {
	case !r.Doubt && r.Entries == 0:
		return fmt.Sprintf("The key log of %s is not begun: there was no need yet.\n", r.Account) + b.String()
	case !r.Doubt:
		return fmt.Sprintf("The key log of %s is whole: %d entries.\n", r.Account, r.Entries) + b.String()
	}
	fmt.Fprintf(&b, "Of the key log of %s %d entries are here, of at least %d. Nothing is signed for the account.\n", r.Account, r.Entries, r.AtLeast)
	fmt.Fprintf(&b, "%d who were asked know as much.\n", r.Agree)
	for _, p := range r.Wait {
		fmt.Fprintf(&b, "It waits for %s\n", safe(p))
	}
	if r.Others {
		b.WriteString("Others can have it too: two of them are enough, if they agree.\n")
	}
	if r.Entries < r.AtLeast {
		b.WriteString("If nobody has ever seen the others, else your account is banned: cellctl wallet recover --accept --force\n")
	} else {
		b.WriteString("If nobody has more of it than this computer: cellctl wallet recover --accept\n")
	}
	return b.String()
}
