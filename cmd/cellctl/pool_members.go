package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) poolMembersCmd() *cobra.Command {
	var add, remove, replace []string
	var threshold int
	var file string
	cmd := &cobra.Command{
		Use: "members POOL", Short: "Propose other members of a pool, or another threshold",
		Long: "Propose who the members of a pool are from then on, or how many of them sign together, and write a file for the other members\n" +
			"to sign, as for a budget. Those who are members now have to agree. New members then join by the signed file.\n\n" +
			"A member whose key was rotated is replaced: --replace OLD=NEW, with the keys that cellctl wallet rotate has shown. What a\n" +
			"runner may spend stays as it is until there is another budget.",
		Args: args(1, 1),
	}
	cmd.Flags().StringArrayVar(&add, "add", nil, "peer `ID` of an account, once for each")
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "peer `ID` of a member, as pool status shows it, once for each")
	cmd.Flags().StringArrayVar(&replace, "replace", nil, "`OLD=NEW`, as --remove OLD --add NEW")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many members sign together, more than half; as before if left out and that can be")
	cmd.Flags().StringVar(&file, "file", "", "`FILE` to write, over an earlier one of this pool; POOL.pool if left out")
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		op := "propose members of " + args[0]
		for _, r := range replace {
			before, after, ok := strings.Cut(r, "=")
			if !ok {
				return usageError{cellproto.Errorf(op, cellproto.BadInput, "%q is not OLD=NEW", r)}
			}
			remove, add = append(remove, before), append(add, after)
		}
		if len(add)+len(remove) == 0 && !cmd.Flags().Changed("threshold") {
			return usageError{cellproto.Errorf(op, cellproto.BadInput, "nothing would change").WithHint("--add, --remove, --replace or --threshold")}
		}
		if cmd.Flags().Changed("threshold") && threshold < 1 {
			return usageError{cellproto.Errorf(op, cellproto.BadInput, "a threshold of %d", threshold)}
		}
		if file == "" {
			file = args[0] + ".pool"
		}
		return a.withPoolFile(cmd, *timeout, op, file, func(ctx context.Context, c *ctl.Client) (ctl.PoolFile, error) {
			return c.ProposeMembers(ctx, args[0], add, remove, threshold)
		})
	}
	return cmd
}
