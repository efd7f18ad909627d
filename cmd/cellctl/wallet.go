package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

func (a *app) ledgerVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check an export, without a network or a nucleus",
		Long: "Check an export: each entry and signature, that credit is what the public price table makes of the meter, and that no\n" +
			"total falls. What it cannot say: whether the work was done (two who collude can sign what they like), and whether there\n" +
			"are newer totals.",
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			op := "verify " + args[0]
			f, err := os.Open(args[0])
			if err != nil {
				return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
			}
			defer f.Close()
			book, findings, err := ledger.Check(f, ledger.Net{}, 0)
			if err != nil {
				return err
			}
			c := checkedExport(args[0], book, findings)
			c.checkPrices(book)
			if a.json {
				err = a.printJSON(c)
			} else {
				err = a.table(c.rows())
			}
			if err == nil && !c.OK {
				err = cellproto.Errorf(op, cellproto.Corrupt, "%d entries do not hold; the first: %s", len(c.Bad), c.Bad[0].What)
			}
			return err
		},
	}
}

// exportJSON is what ledger verify --json prints.
type exportJSON struct {
	File   string            `json:"file"`
	OK     bool              `json:"ok"`
	Bad    []exportBadJSON   `json:"bad"`
	Totals []exportTotalJSON `json:"totals"`
}

type exportBadJSON struct {
	Entry int    `json:"entry"` // from 1; 0: a receipt whose price is wrong
	What  string `json:"what"`
}

// exportTotalJSON is what a consumer has signed for, or, with 0 µWh, a provider alone has: that proves nothing.
type exportTotalJSON struct {
	Consumer string `json:"consumer"` // host keys, in hex
	Provider string `json:"provider"`
	Epoch    uint32 `json:"epoch"`
	Calls    uint64 `json:"calls"`
	UWH      uint64 `json:"uwh"`
	CPUNS    uint64 `json:"cpu_ns"`
	SignedBy string `json:"signed_by"` // both, consumer or provider
}

func checkedExport(file string, book *ledger.Book, findings []ledger.Finding) exportJSON {
	out := exportJSON{file, len(findings) == 0, []exportBadJSON{}, []exportTotalJSON{}}
	for _, f := range findings {
		out.Bad = append(out.Bad, exportBadJSON{f.Entry, fmt.Sprintf("entry %d is %s: %v", f.Entry, f.Verdict, f.Err)})
	}
	book.Registers(func(k ledger.RegKey, r ledger.Register) bool {
		t := exportTotalJSON{Consumer: k.Consumer.String(), Provider: k.Provider.String(), Epoch: k.Epoch, SignedBy: "provider"}
		if s := r.Ack; s != nil {
			t.Calls, t.UWH, t.CPUNS, t.SignedBy = s.N, s.Credit, s.Meter.CPU, "consumer"
			if s.ProviderSig != nil {
				t.SignedBy = "both"
			}
		}
		out.Totals = append(out.Totals, t)
		return true
	})
	slices.SortFunc(out.Totals, func(x, y exportTotalJSON) int {
		return cmp.Or(strings.Compare(x.Consumer, y.Consumer), strings.Compare(x.Provider, y.Provider), cmp.Compare(x.Epoch, y.Epoch))
	})
	return out
}

// checkPrices checks that credit is what the public table makes of the meter.
func (c *exportJSON) checkPrices(book *ledger.Book) {
	book.Registers(func(_ ledger.RegKey, r ledger.Register) bool {
		for _, s := range r.Entries() {
			if err := ledger.Priced(&s.Receipt); err != nil {
				c.OK = false
				c.Bad = append(c.Bad, exportBadJSON{0, fmt.Sprintf("receipt of %s for %s: %v", s.Provider, s.Consumer, err)})
			}
		}
		return true
	})
}

func (c *exportJSON) rows() [][]string {
	rows := [][]string{{"CONSUMER", "PROVIDER", "CALLS", "CREDIT", "SIGNED BY"}}
	const short = 16 // digits of a key that tell it from others
	for _, t := range c.Totals {
		rows = append(rows, []string{t.Consumer[:short], t.Provider[:short], strconv.FormatUint(t.Calls, 10), energyText(t.UWH), t.SignedBy})
	}
	for _, b := range c.Bad {
		rows = append(rows, []string{"bad", b.What})
	}
	return rows
}
