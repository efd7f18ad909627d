package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

func (a *app) walletDonateCmd() *cobra.Command {
	var purpose string
	cmd := &cobra.Command{
		Use: "donate TO AMOUNT", Short: "Give what others owe you to another account, or to a pool",
		Long: "Give what others owe your account to another account or to a pool: by a cheque, which your account signs, and which is on\n" +
			"the disk before anybody hears of it. It cannot be taken back.\n\n" +
			"TO is a peer ID, as cellctl wallet status shows it, or the name of a pool. AMOUNT has a unit: 500mWh, 2.5Wh, 1kWh.\n" +
			"What you give beyond what you have given more than taken is worth something only where your own hosts serve.",
		Example: "  cellctl wallet donate 12D3KooW... 500mWh --purpose 'for the archive'",
		Args:    args(2, 2),
	}
	cmd.Flags().StringVar(&purpose, "purpose", "", "a few `words` that everybody can read, at most 64 bytes")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.donate(cmd, *timeout, "donate", "", args[0], args[1], purpose)
	}
	return cmd
}

// donate has the home cell sign a cheque: of the account, or of a pool that it is the runner of.
func (a *app) donate(cmd *cobra.Command, timeout time.Duration, op, from, to, amount, purpose string) error {
	uwh, err := parseAmount(amount)
	if err != nil {
		return err
	}
	if len(purpose) > ledger.MaxPurpose {
		return usageError{cellproto.Errorf(op, cellproto.BadInput, "a purpose of %d bytes, the limit is %d", len(purpose), ledger.MaxPurpose)}
	}
	var d ctl.Donated
	err = a.askHome(cmd, timeout, op, func(ctx context.Context, c *ctl.Client) (err error) {
		d, err = c.Donate(ctx, from, to, uwh, purpose)
		return err
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(d)
	}
	text := fmt.Sprintf("%s to %s; %s in all\n", energyText(d.UWH), d.To, energyText(d.TotalUWH))
	if from != "" {
		text += fmt.Sprintf("%s of the budget are left\n", energyText(d.Left))
	}
	if !d.Covered {
		text += "That is more than the donor has given and not taken, as far as is known here: the rest counts only where the donor's own hosts serve.\n"
	}
	return a.print([]byte(text))
}

// askHome runs do with a client of the home cell's nucleus, which has the account's key.
func (a *app) askHome(cmd *cobra.Command, timeout time.Duration, op string, do func(context.Context, *ctl.Client) error) error {
	home, err := a.homeDir()
	if err != nil {
		return err
	}
	return badTarget(a.askWallet(cmd, home, timeout, op, do))
}

func (a *app) walletRevokeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke HOST", Short: "End that a host is one of yours, for good",
		Long: "End that a host is one of your account's: of a computer that is lost, or a cell that you have given away. Others take nothing\n" +
			"that it signs any more. What it gave and took before remains yours. It cannot be undone: the cell needs a new host key.\n\n" +
			"HOST is a peer ID or the name of a cell, as cellctl wallet status shows them.",
		Args: args(1, 1),
	}
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var h ctl.WalletHost
		err := a.askHome(cmd, *timeout, "revoke "+args[0], func(ctx context.Context, c *ctl.Client) (err error) {
			h, err = c.Revoke(ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(h)
		}
		return a.print(fmt.Appendf(nil, "%s (%s) is not one of your hosts any more\n", h.Peer, safe(h.Cell)))
	}
	return cmd
}
