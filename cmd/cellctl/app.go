package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

	cancel context.CancelCauseFunc // of the commands' context
	caught func() int              // see catch
}

// run carries out a command line and gives the exit code.
func (a *app) run(args []string) int {
	root := a.root(args)
	root.SetArgs(protectNumbers(root, args))
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	ctx, cancel := context.WithCancelCause(context.Background())
	a.cancel, a.caught = cancel, func() int { return 0 }
	cmd, err := root.ExecuteContextC(ctx)
	if code := a.caught(); code != 0 {
		return code // whoever interrupts a command knows why it failed
	}
	if err == nil {
		return exitDone
	}
	if !a.begun {
		if cellproto.HintOf(err) == "" {
			err = cellproto.Errorf("", cellproto.BadInput, "%w", err).WithHint("%s --help", cmd.CommandPath())
		}
		err = usageError{err}
		// The words were perhaps not read as far as that.
		end := slices.Index(args, "--")
		a.json = a.json || slices.Contains(args[:max(end, 0)], "--json") || end < 0 && slices.Contains(args, "--json")
	}
	a.printError(err)
	return exitCode(err)
}

// leavesNothing says that a command has nothing to clean up: an interrupt may end it as it ends any
// process. To have signals delivered takes a fifth of the time of a short command.
func leavesNothing(cmd *cobra.Command) bool {
	switch cmd.Name() {
	case "use":
		return !cmd.Flags().Changed("output")
	case "version", "status", "schema", "find":
		return true
	}
	return false
}

// catch has an interrupt or a request to terminate end the command's context, so that it cleans up. A
// second one ends the process at once, as does a second's time: a read of a terminal cannot be cut
// short. caught gives the exit code of the one that came, as shells count it, or 0.
func (a *app) catch(ctx context.Context) {
	cancel := a.cancel
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	if !signal.Ignored(os.Interrupt) { // a shell's background job
		signal.Notify(signals, os.Interrupt)
	}
	ended := make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(interrupted{s})
			select {
			case <-ended:
			case <-time.After(interruptPatience):
				_ = syscall.Kill(syscall.Getpid(), s.(syscall.Signal)) // both that are notified are
			}
		case <-ended:
		}
	}()
	a.caught = func() int {
		close(ended)
		<-over
		signal.Stop(signals)
		var by interrupted
		if errors.As(context.Cause(ctx), &by) {
			if s, ok := by.Signal.(syscall.Signal); ok {
				return 128 + int(s)
			}
		}
		cancel(nil)
		return 0
	}
}

const interruptPatience = time.Second

type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return i.String() }

// root gives the command line: with all commands, or only with "use" if args begin with that, since to make all of them takes longer
// than to make a call.
func (a *app) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "cellctl",
		Short: "Make, publish and use cells",
		Long: "cellctl makes cells, starts them, publishes them, and uses those of others.\n" +
			"A cell is a directory with a cell.toml; each has its own daemon, celld.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Version:           buildVersion().Version,
		Args:              cobra.ArbitraryArgs,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			a.begun = true
			if !leavesNothing(cmd) {
				a.catch(cmd.Context())
			}
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetVersionTemplate("cellctl {{.Version}}\n")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	if len(args) > 0 && args[0] == "use" {
		root.AddCommand(a.useCmd())
		return root
	}
	root.AddCommand(
		a.initCmd(), a.buildCmd(), a.startCmd(), a.stopCmd(), a.restartCmd(), a.swapCmd(), a.upgradeCmd(), a.statusCmd(), a.logsCmd(),
		a.publishCmd(), a.useCmd(), a.findCmd(), a.raceCmd(), a.schemaCmd(), a.docsCmd(), a.genCmd(), a.checkCmd(), a.historyCmd(), a.patchCmd(),
		a.mirrorCmd(), a.giveCmd(), a.walletCmd(), a.donorsCmd(), a.poolCmd(), a.ledgerCmd(), a.gcCmd(), a.depsCmd(),
		a.topCmd(), a.doctorCmd(), a.demoCmd(), a.versionCmd(), a.completionCmd(),
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
	if a.isTerminal(a.out) {
		b = escapeJSON(b)
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
	d := durationFlag(otherwise)
	cmd.Flags().Var(&d, "timeout", "deadline of the whole command, such as 90s or 2m; a bare number is seconds")
	return (*time.Duration)(&d)
}

// durationFlag is a duration as cell.toml has them: with a unit, or a number of seconds.
type durationFlag time.Duration

func (d *durationFlag) Set(text string) error {
	v, err := time.ParseDuration(text)
	if seconds, nerr := strconv.ParseFloat(text, 64); nerr == nil && math.Abs(seconds) < 1e9 {
		v, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil {
		return errors.New("a duration is a number of seconds, or has a unit: 500ms, 90s, 2m")
	}
	*d = durationFlag(v)
	return nil
}

func (d *durationFlag) String() string { return time.Duration(*d).String() }

// Type is what the help shows.
func (d *durationFlag) Type() string { return "duration" }

// deadline starts the clock of --timeout.
func deadline(cmd *cobra.Command, timeout time.Duration) (context.Context, context.CancelFunc, error) {
	if timeout <= 0 || timeout > 24*time.Hour {
		return nil, nil, usagef(cmd, "--timeout %v is not between 1ms and 24h", timeout)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	return ctx, cancel, nil
}
