package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) poolCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "Give together: pools of several accounts",
		Long: "A pool is an account of several people. Anybody donates to it, or has hosts give for it (cellctl give --credit-to POOL).\n" +
			"More than half of the members sign together what one of them, the runner, may spend, and until when.\n\n" +
			"Members hand each other a file, by any way they like: there is nothing secret in it. cellctl ledger verify checks it.",
		Example: "  cellctl pool create archive --member 12D3KooW... --member 12D3KooX... --threshold 2   # writes archive.pool\n" +
			"  cellctl pool join archive.pool                                    # the others\n" +
			"  cellctl pool donate archive 5Wh                                   # everybody\n" +
			"  cellctl pool budget archive 2Wh --file archive.pool               # one proposes\n" +
			"  cellctl pool sign archive.pool                                    # another agrees\n" +
			"  cellctl pool spend archive 12D3KooY... 300mWh --purpose mirrors   # the runner",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.poolCreateCmd(), a.poolJoinCmd(), a.poolDonateCmd(), a.poolBudgetCmd(), a.poolMembersCmd(), a.poolSignCmd(), a.poolSpendCmd(), a.poolStatusCmd())
	return cmd
}

func (a *app) poolCreateCmd() *cobra.Command {
	var members []string
	var threshold int
	var file string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a pool, and the file by which its members join it",
		Long: "Make a pool of your account and those that you name, and write the file by which they join it. NAME is what you call\n" +
			"it; others can call it something else. The members can change that later, together: cellctl pool members.",
		Args: args(1, 1),
	}
	cmd.Flags().StringArrayVar(&members, "member", nil, "peer `ID` of another member's account, once for each; at most 9")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many members sign together, more than half; the least number of them if left out")
	cmd.Flags().StringVar(&file, "file", "", "`FILE` to write, which must not exist; NAME.pool if left out")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			file = args[0] + ".pool"
		}
		if _, err := os.Lstat(file); err == nil {
			return usageError{cellproto.Errorf("create pool "+args[0], cellproto.BadInput, "%s is there already", file).WithHint("--file, with another name")}
		}
		if !cmd.Flags().Changed("threshold") {
			threshold = (len(members)+1)/2 + 1
		}
		return a.withPoolFile(cmd, *timeout, "create pool "+args[0], file, func(ctx context.Context, c *ctl.Client) (ctl.PoolFile, error) {
			return c.CreatePool(ctx, args[0], threshold, members)
		})
	}
	return cmd
}

func (a *app) poolJoinCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "join FILE", Short: "Know a pool that you are a member of, by a file of another member",
		Long: "Take in what a file says of a pool that your account is a member or the runner of. Doing it again brings the pool up to date.\n" +
			"Nothing is signed.",
		Args: args(1, 1),
	}
	cmd.Flags().StringVar(&name, "name", "", "what to call the pool here; the file's name if left out")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.takePool(cmd, *timeout, args[0], name, false, false)
	}
	return cmd
}

func (a *app) poolSignCmd() *cobra.Command {
	var members bool
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Agree to what another member of a pool has proposed",
		Long: "Add your signature to what is proposed at the end of a pool's file, and write the file anew. cellctl pool join shows what it\n" +
			"is without signing. When enough members have signed it is in force.\n\n" +
			"You sign one proposal for one place in the pool's log, ever: two would be a proof against the pool. Whoever has signed a\n" +
			"proposal that the others do not want waits until they have agreed on one without you.",
		Args: args(1, 1),
	}
	cmd.Flags().BoolVar(&members, "members", false, "agree to other members, or another threshold; without it only budgets are signed")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.takePool(cmd, *timeout, args[0], "", true, members)
	}
	return cmd
}

// takePool has the home cell take in a pool's file, and writes the file anew if it was signed.
func (a *app) takePool(cmd *cobra.Command, timeout time.Duration, file, name string, sign, members bool) error {
	op := "read " + file
	f, err := os.Open(file)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, ctl.MaxPoolFile+1))
	f.Close()
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if len(data) > ctl.MaxPoolFile {
		return cellproto.Errorf(op, cellproto.TooLarge, "more than %d bytes: it is no pool's", ctl.MaxPoolFile)
	}
	out := ""
	if sign {
		out = file
	}
	if name == "" {
		name, _, _ = strings.Cut(filepath.Base(file), ".")
	}
	return a.withPoolFile(cmd, timeout, op, out, func(ctx context.Context, c *ctl.Client) (ctl.PoolFile, error) {
		return c.TakePool(ctx, data, name, sign, members)
	})
}

// withPoolFile asks the home cell, writes the pool's file unless it is "", and shows the pool.
func (a *app) withPoolFile(cmd *cobra.Command, timeout time.Duration, op, file string, do func(context.Context, *ctl.Client) (ctl.PoolFile, error)) error {
	var p ctl.PoolFile
	err := a.askHome(cmd, timeout, op, func(ctx context.Context, c *ctl.Client) (err error) {
		p, err = do(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	if file != "" {
		if err := renameio.WriteFile(file, p.Bytes, 0o644); err != nil {
			return cellproto.Errorf("write "+file, cellproto.KindOf(err), "%w", err).WithHint("cellctl pool status shows the pool, which there is now.")
		}
	}
	p.Bytes = nil
	if a.json {
		return a.printJSON(struct {
			ctl.PoolFile
			File string `json:"file,omitempty"`
		}{p, file})
	}
	rows := poolRows(p.Pool)
	switch {
	case p.Proposal != nil:
		rows = append(rows, []string{"proposed", proposalText(*p.Proposal)},
			[]string{"signed by", strings.Join(p.Proposal.Signed, ", ")}, []string{"missing", fmt.Sprintf("%d more", p.Proposal.Missing)})
	}
	if file != "" {
		rows = append(rows, []string{"file", file})
	}
	return a.table(rows)
}

func (a *app) poolDonateCmd() *cobra.Command {
	var purpose string
	cmd := &cobra.Command{Use: "donate POOL AMOUNT", Short: "Donate to a pool", Long: "Donate to a pool, as cellctl wallet donate does.", Args: args(2, 2)}
	cmd.Flags().StringVar(&purpose, "purpose", "", "a few `words` that everybody can read, at most 64 bytes")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.donate(cmd, *timeout, "donate", "", args[0], args[1], purpose)
	}
	return cmd
}

func (a *app) poolBudgetCmd() *cobra.Command {
	var runner, file string
	var term durationFlag
	cmd := &cobra.Command{
		Use: "budget POOL AMOUNT", Short: "Propose what a pool's runner may spend",
		Long: "Propose that a runner may spend until all that the pool has ever spent is AMOUNT, and write a file for the other members to\n" +
			"sign. A later budget replaces an earlier one.",
		Args: args(2, 2),
	}
	cmd.Flags().StringVar(&runner, "runner", "", "peer `ID` of the account that spends; yours if left out")
	cmd.Flags().StringVar(&file, "file", "", "`FILE` to write, over an earlier one of this pool; POOL.pool if left out")
	term = durationFlag(90 * 24 * time.Hour)
	cmd.Flags().Var(&term, "for", "how long it holds, to the end of that day (UTC): 720h")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		uwh, err := parseAmount(args[1])
		if err != nil {
			return err
		}
		if term <= 0 || time.Duration(term) > 10*365*24*time.Hour {
			return usagef(cmd, "--for %v is not between 1s and 87600h", time.Duration(term))
		}
		if file == "" {
			file = args[0] + ".pool"
		}
		// Whoever proposes the same again on one day proposes the same entry.
		until := time.Now().UTC().Add(time.Duration(term)).Truncate(24 * time.Hour).Add(24*time.Hour - time.Millisecond)
		return a.withPoolFile(cmd, *timeout, "propose a budget", file, func(ctx context.Context, c *ctl.Client) (ctl.PoolFile, error) {
			return c.ProposeBudget(ctx, args[0], runner, uwh, until)
		})
	}
	return cmd
}

func (a *app) poolSpendCmd() *cobra.Command {
	var purpose string
	cmd := &cobra.Command{
		Use: "spend POOL TO AMOUNT", Short: "Give what a pool is owed to somebody, as its runner",
		Long: "Give what others owe a pool to an account or to another pool: by a cheque, which the runner signs, within the budget.", Args: args(3, 3),
	}
	cmd.Flags().StringVar(&purpose, "purpose", "", "a few `words` that everybody can read, at most 64 bytes")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.donate(cmd, *timeout, "spend", args[0], args[1], args[2], purpose)
	}
	return cmd
}

func (a *app) poolStatusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status [POOL]", Short: "Show your pools, or one", Args: args(0, 1)}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout+10*time.Second)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var pools []ctl.PoolRow
		err := a.askHome(cmd, *timeout, "show pools", func(ctx context.Context, c *ctl.Client) (err error) {
			pools, err = c.Pools(ctx, first(args))
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(pools)
		}
		for i, p := range pools {
			if i > 0 {
				if err := a.print([]byte("\n")); err != nil {
					return err
				}
			}
			if err := a.table(poolRows(p)); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// poolRows shows a pool.
func poolRows(p ctl.PoolRow) [][]string {
	rows := [][]string{{"pool", p.Pool}, {"name", p.Name}, {"members", fmt.Sprintf("%d, of whom %d sign together", len(p.Members), p.Threshold)}}
	for _, m := range p.Members {
		rows = append(rows, []string{"", m})
	}
	rows = append(rows, []string{"given", energyText(p.Given)}, []string{"spent", energyText(p.Spent)})
	if p.Runner != "" {
		rows = append(rows, []string{"budget", budgetText(p.Runner, p.Budget, p.Until)}, []string{"left", energyText(p.Left)})
	}
	for _, x := range p.Proposals {
		rows = append(rows, []string{"proposed", fmt.Sprintf("%s; %d more have to sign", proposalText(x), x.Missing)})
	}
	if p.Banned {
		rows = append(rows, []string{"banned", "two entries of its log contradict each other"})
	}
	return rows
}

// proposalText says what is proposed.
func proposalText(x ctl.PoolProposal) string {
	if len(x.Members) > 0 {
		return fmt.Sprintf("the members %s, of whom %d sign together", strings.Join(x.Members, ", "), x.Threshold)
	}
	return budgetText(x.Runner, x.Budget, x.Until)
}

func budgetText(runner string, uwh uint64, until int64) string {
	if runner == "" {
		return "something that this cellctl does not know"
	}
	return fmt.Sprintf("%s in all, by %s, until %s", energyText(uwh), runner, time.UnixMilli(until).UTC().Format(time.DateOnly))
}
