package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
)

// app is one run of cellctl: what it reads and writes, and the flags that all commands have.
type app struct {
	in     io.Reader
	out    io.Writer
	errOut io.Writer
	getenv func(string) string
	json   bool
	begun  bool // the words made sense; what fails from now on is not a mistake in usage
}

// run carries out a command line and gives the exit code.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(protectNumbers(root, args))
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitDone
	}
	if !a.begun {
		err = usageError{err}
	}
	a.printError(err)
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cellctl",
		Short: "Make, publish and use cells",
		Long: "cellctl makes cells, starts them, publishes them, and uses those of others.\n" +
			"A cell is a directory with a cell.toml; each has its own daemon, celld.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		PersistentPreRun:  func(*cobra.Command, []string) { a.begun = true },
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		a.initCmd(), a.buildCmd(), a.startCmd(), a.stopCmd(), a.restartCmd(), a.swapCmd(), a.statusCmd(), a.logsCmd(),
		a.publishCmd(), a.useCmd(), a.findCmd(), a.raceCmd(), a.schemaCmd(), a.historyCmd(), a.patchCmd(),
		a.topCmd(), a.doctorCmd(), a.versionCmd(), a.completionCmd(),
	)
	return root
}

func unknownCommand(root *cobra.Command, name string) error {
	hint := root.CommandPath() + " --help lists the commands."
	if near := root.SuggestionsFor(name); len(near) > 0 {
		hint = root.CommandPath() + " " + near[0]
	}
	return usageError{cellproto.Errorf("", cellproto.BadInput, "there is no command %q", name).WithHint("%s", hint)}
}

// args checks the number of arguments; n < 0 as the upper bound means any.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		switch {
		case len(got) < least:
			return usagef(cmd, "%d of at least %d arguments given", len(got), least)
		case most >= 0 && len(got) > most:
			return usagef(cmd, "%d arguments given, at most %d make sense", len(got), most)
		}
		return nil
	}
}

func usagef(cmd *cobra.Command, format string, a ...any) error {
	return usageError{cellproto.Errorf(cmd.Name(), cellproto.BadInput, format, a...).
		WithHint("%s", strings.TrimSuffix(cmd.UseLine(), " [flags]"))}
}

// first gives the first argument, or "".
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// printJSON prints v as one line.
func (a *app) printJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return cellproto.Errorf("print", cellproto.Failed, "%w", err)
	}
	return a.print(append(b, '\n'))
}

func (a *app) print(b []byte) error {
	if _, err := a.out.Write(b); err != nil {
		return cellproto.Errorf("print", cellproto.Failed, "%w", err)
	}
	return nil
}

// timeoutFlag adds --timeout.
func timeoutFlag(cmd *cobra.Command, otherwise time.Duration) *time.Duration {
	return cmd.Flags().Duration("timeout", otherwise, "deadline of the whole command")
}

// deadline starts the clock of --timeout.
func deadline(cmd *cobra.Command, timeout time.Duration) (context.Context, context.CancelFunc, error) {
	if timeout <= 0 || timeout > 24*time.Hour {
		return nil, nil, usagef(cmd, "--timeout %v is not between 1ms and 24h", timeout)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	return ctx, cancel, nil
}
