package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
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
	cmd.AddCommand(a.walletStatusCmd(), a.walletHistoryCmd(), a.walletExportCmd())
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
			{"priority", w.Priority}, {"neighbours", fmt.Sprintf("%d, in %d networks", w.Neighbours, w.Networks)}, {"energy by", w.Energy},
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
		if w.Error != "" {
			rows = append(rows, []string{"disk", w.Error})
		}
		return a.table(rows)
	}
	return cmd
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
		Use: "history [DIR]", Short: "Show the totals with each host",
		Long: "Show what was given to and taken from each host, the largest total first. There are totals only, not single calls.",
		Args: args(0, 1),
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := a.wallet(cmd, first(args), *timeout)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(w.Registers)
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
		return a.table(rows)
	}
	return cmd
}

func (a *app) walletExportCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "export FILE [DIR]", Short: "Write the signed entries to a file, which anybody can check",
		Long: "Write the signed entries to a file, which anybody can check with cellctl ledger verify.",
		Args: args(1, 2),
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what this host knows of others")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := filepath.Abs(args[0])
		if err != nil {
			return cellproto.Errorf("export to "+args[0], cellproto.BadInput, "%w", err)
		}
		var entries [][]byte
		err = a.askWallet(cmd, first(args[1:]), *timeout, "export the ledger", func(ctx context.Context, c *ctl.Client) error {
			return c.WalletExport(ctx, all, func(e []byte) error { entries = append(entries, e); return nil })
		})
		if err != nil {
			return err
		}
		f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600))
		if err == nil {
			defer f.Cleanup()
			if err = ledger.WriteExport(f, entries); err == nil {
				err = f.CloseAtomicallyReplace()
			}
		}
		if err != nil {
			return cellproto.Errorf("export to "+path, cellproto.KindOf(err), "%w", err)
		}
		if a.json {
			return a.printJSON(map[string]any{"file": path, "entries": len(entries)})
		}
		return a.print(fmt.Appendf(nil, "%d entries in %s\n", len(entries), args[0]))
	}
	return cmd
}

func (a *app) ledgerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ledger", Short: "Check what others have exported", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.ledgerVerifyCmd())
	return cmd
}

// maxExportFile bounds what is read of a file, in bytes.
const maxExportFile = 1 << 30

func (a *app) ledgerVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check an export, without a network or a nucleus",
		Long: "Check an export: each entry and signature, that credit is what the public price table makes of the meter, and that no\n" +
			"total falls. What it cannot say: whether the work was done (two who collude can sign what they like), and whether there are\n" +
			"newer totals.",
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return cellproto.Errorf("verify "+args[0], cellproto.KindOf(err), "%w", err)
			}
			defer f.Close()
			c, err := ledger.VerifyExport(io.LimitReader(f, maxExportFile))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(checkedExport(args[0], c))
			}
			rows := [][]string{{"CONSUMER", "PROVIDER", "CALLS", "CREDIT", "SIGNED BY"}}
			for _, t := range c.Totals {
				rows = append(rows, []string{t.Consumer.String()[:16], t.Provider.String()[:16], strconv.FormatUint(t.N, 10), energyText(t.Credit), signers(t.Both)})
			}
			if err := a.table(rows); err != nil {
				return err
			}
			return a.print(fmt.Appendf(nil, "%d entries are in order: %d receipts (%d signed by their provider alone, which prove nothing), %d cheques, %d of key logs\n",
				c.Entries, c.Receipts, c.Unacknowledged, c.Cheques, c.KeyEntries))
		},
	}
}

func signers(both bool) string {
	if both {
		return "both"
	}
	return "consumer"
}

// exportJSON is what ledger verify --json prints.
type exportJSON struct {
	File           string            `json:"file"`
	Entries        int               `json:"entries"`
	Receipts       int               `json:"receipts"`
	Unacknowledged int               `json:"unacknowledged"`
	Cheques        int               `json:"cheques"`
	KeyEntries     int               `json:"key_entries"`
	Totals         []exportTotalJSON `json:"totals"`
}

type exportTotalJSON struct {
	Consumer string `json:"consumer"` // host keys, in hex
	Provider string `json:"provider"`
	Epoch    uint32 `json:"epoch"`
	Calls    uint64 `json:"calls"`
	UWH      uint64 `json:"uwh"`
	CPUNS    uint64 `json:"cpu_ns"`
	SignedBy string `json:"signed_by"`
}

func checkedExport(file string, c *ledger.Checked) exportJSON {
	out := exportJSON{file, c.Entries, c.Receipts, c.Unacknowledged, c.Cheques, c.KeyEntries, []exportTotalJSON{}}
	for _, t := range c.Totals {
		out.Totals = append(out.Totals, exportTotalJSON{t.Consumer.String(), t.Provider.String(), t.Epoch, t.N, t.Credit, t.Meter.CPU, signers(t.Both)})
	}
	return out
}
