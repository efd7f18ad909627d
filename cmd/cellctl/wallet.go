package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) walletCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wallet",
		Short: "Show what was given and what was taken",
		Long: "Show what a cell has given to other hosts and taken from them, in µWh of reference energy, as both sides have\n" +
			"signed it. It is no coin: who has given is served first by hosts that know of it, while they are busy.\n\n" +
			"Without DIR: the cell that this is within, else the home cell, which makes your calls.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.walletStatusCmd(), a.walletHistoryCmd(), a.walletExportCmd(), a.walletDonateCmd(), a.walletRevokeCmd(), a.walletRotateCmd(),
		a.walletJoinCmd(), a.walletDelegateCmd(), a.walletRecoverCmd())
	return cmd
}

// askWallet runs do with a client of the nucleus that args name.
func (a *app) askWallet(cmd *cobra.Command, dir string, timeout time.Duration, op string, do func(context.Context, *ctl.Client) error) error {
	var err error
	if dir == "" {
		dir, err = a.callerDir()
	} else {
		dir, err = cellDir(dir)
	}
	if err != nil {
		return err
	}
	ctx, cancel, err := deadline(cmd, timeout)
	if err != nil {
		return err
	}
	defer cancel()
	p := a.progress()
	defer p.done()
	client, err := a.client(ctx, dir, p)
	if err != nil {
		return err
	}
	err = do(ctx, client)
	p.done()
	return fromControl(op, dir, err)
}

func (a *app) wallet(cmd *cobra.Command, dir string, timeout time.Duration) (w ctl.Wallet, err error) {
	err = a.askWallet(cmd, dir, timeout, "ask for the wallet", func(ctx context.Context, c *ctl.Client) (err error) {
		w, err = c.Wallet(ctx)
		return err
	})
	return w, err
}

func (a *app) walletStatusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status [DIR]", Short: "Show the totals, and with how many neighbours they are shared", Args: args(0, 1)}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := a.wallet(cmd, first(args), *timeout)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(w)
		}
		rows := [][]string{
			{"account", w.Account}, {"host", w.Host}, {"given", energyText(w.GivenUWH)}, {"taken", energyText(w.TakenUWH)},
			{"priority", w.Priority}, {"this host", w.Delegation}, {"neighbours", fmt.Sprintf("%d, in %d networks", w.Neighbours, w.Networks)}, {"energy by", w.Energy},
		}
		if w.Elsewhere {
			rows[0][1] += ", whose key is on another computer"
		}
		if w.Key != w.Account && w.Key != "" {
			rows = append(rows, []string{"signs with", w.Key})
		}
		for _, h := range w.Hosts {
			rows = append(rows, []string{"of which", hostText(h)})
		}
		var unsigned uint64
		for _, r := range w.Registers {
			unsigned += r.Unsigned
			if r.Refused != "" {
				rows = append(rows, []string{"not signed", r.Peer + ": " + r.Refused})
			}
		}
		if unsigned > 0 {
			rows = append(rows, []string{"not signed yet", energyText(unsigned)})
		}
		if w.PublicGood != "" {
			rows = append(rows, []string{"public goods", w.PublicGood})
		}
		if w.Error != "" {
			rows = append(rows, []string{"disk", w.Error})
		}
		return a.table(rows)
	}
	return cmd
}

// hostText shows a host of the account.
func hostText(h ctl.WalletHost) string {
	until := "until " + time.UnixMilli(h.Until).UTC().Format(time.DateOnly)
	if h.Revoked {
		until = "revoked"
	}
	return fmt.Sprintf("%s %s: given %s, taken %s, %s", h.Cell, h.Peer, energyText(h.GivenUWH), energyText(h.TakenUWH), until)
}

// energyText gives µWh for people.
func energyText(uwh uint64) string {
	switch {
	case uwh >= 1_000_000_000:
		return fmt.Sprintf("%.3f kWh", float64(uwh)/1e9)
	case uwh >= 1_000_000:
		return fmt.Sprintf("%.3f Wh", float64(uwh)/1e6)
	case uwh >= 1000:
		return fmt.Sprintf("%.3f mWh", float64(uwh)/1e3)
	}
	return fmt.Sprintf("%d µWh", uwh)
}

func (a *app) walletHistoryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "history [DIR]", Short: "Show the totals with each host, and donations",
		Long: "Show what was given to and taken from each host, the largest total first, and what the account has donated and was given.\n" +
			"There are totals only, not single calls.",
		Args: args(0, 1),
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := a.wallet(cmd, first(args), *timeout)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(historyOf(w))
		}
		rows := [][]string{{"PEER", "", "CALLS", "CREDIT", "UNSIGNED", "CPU", "IN", "OUT", "SIGNED", "CLASS"}}
		for _, r := range w.Registers {
			way, signed := "took from", "never"
			if r.Gave {
				way = "gave to"
			}
			if r.Signed > 0 {
				signed = time.UnixMilli(r.Signed).Local().Format(time.DateTime)
			}
			rows = append(rows, []string{
				r.Peer, way, strconv.FormatUint(r.Calls, 10), energyText(r.UWH), energyText(r.Unsigned),
				time.Duration(min(r.CPUNS, 1<<62)).Round(time.Millisecond).String(),
				strconv.FormatUint(r.In, 10), strconv.FormatUint(r.Out, 10), signed, r.Class,
			})
		}
		if err := a.table(rows); err != nil || len(w.Donations) == 0 {
			return err
		}
		return a.table(donationRows(w))
	}
	return cmd
}

// historyOf gives both in one list.
func historyOf(w ctl.Wallet) []any {
	type work struct {
		Kind string `json:"kind"`
		ctl.WalletRow
	}
	type donation struct {
		Kind string `json:"kind"`
		ctl.DonationRow
	}
	rows := []any{}
	for _, r := range w.Registers {
		rows = append(rows, work{"work", r})
	}
	for _, d := range w.Donations {
		rows = append(rows, donation{"donation", d})
	}
	return rows
}

func donationRows(w ctl.Wallet) [][]string {
	rows := [][]string{{""}, {"DONATIONS", "", "TIMES", "CREDIT", "LAST", "PURPOSE"}}
	for _, d := range w.Donations {
		way, other := "donated to", d.To
		if d.From != w.Account {
			way, other = "given by", d.From
		}
		credit := energyText(d.UWH)
		if d.Void > 0 {
			credit += " and " + energyText(d.Void) + " void"
		}
		rows = append(rows, []string{
			other, way, strconv.FormatUint(d.Times, 10), credit, time.UnixMilli(d.At).Local().Format(time.DateTime), d.Purpose,
		})
	}
	return rows
}

func (a *app) walletExportCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export FILE [DIR]", Short: "Write all signed entries to a file, which anybody can check",
		Long: "Write all signed entries that are known to a file, which anybody can check with cellctl ledger verify.",
		Args: args(1, 2),
	}
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := filepath.Abs(args[0])
		if err != nil {
			return cellproto.Errorf("export to "+args[0], cellproto.BadInput, "%w", err)
		}
		f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600))
		if err != nil {
			return cellproto.Errorf("export to "+path, cellproto.KindOf(err), "%w", err)
		}
		defer f.Cleanup()
		err = a.askWallet(cmd, first(args[1:]), *timeout, "export the ledger", func(ctx context.Context, c *ctl.Client) error {
			return c.WalletExport(ctx, f)
		})
		if err != nil {
			return err
		}
		size, err := f.Seek(0, io.SeekCurrent)
		if err == nil {
			err = f.CloseAtomicallyReplace()
		}
		if err != nil {
			return cellproto.Errorf("export to "+path, cellproto.KindOf(err), "%w", err)
		}
		if a.json {
			return a.printJSON(map[string]any{"file": path, "bytes": size})
		}
		return a.print(fmt.Appendf(nil, "%d bytes in %s\n", size, args[0]))
	}
	return cmd
}
