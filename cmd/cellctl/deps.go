package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) depsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deps",
		Short: "List the cells that this one depends on, and what they stand for",
		Long: "List what is under [deps] of the calling cell: a directory, a CID, a name, or a repository of git, which is\n" +
			"cloned, built in a sandbox and started when it is called for the first time.",
		Args: args(0, 0),
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.deps(cmd, *timeout, "list dependencies", func(ctx context.Context, c *ctl.Client) ([]ctl.DepRow, error) { return c.Deps(ctx) })
	}
	cmd.AddCommand(a.depsUpdateCmd())
	return cmd
}

func (a *app) depsUpdateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update [NAME...]",
		Short: "Fetch and build dependencies by git, and use what their references are now",
		Long: "Ask the repositories of the dependencies that are given, or of all, what their tags and branches are now,\n" +
			"and wait until that is built and used. Calls go to the version before until then.",
		Args:              args(0, -1),
		ValidArgsFunction: completeDeps,
	}
	timeout := timeoutFlag(cmd, 10*time.Minute)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.deps(cmd, *timeout, "update dependencies", func(ctx context.Context, c *ctl.Client) ([]ctl.DepRow, error) {
			return c.UpdateDeps(ctx, names)
		})
	}
	return cmd
}

// completeDeps offers the names of the dependencies by git of the calling cell.
func completeDeps(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if dir, ok := celltoml.FindUp("."); ok {
		if c, err := celltoml.Load(dir); err == nil {
			for name, text := range c.Deps {
				if _, ok, _ := celltoml.GitDep(text); ok {
					names = append(names, name)
				}
			}
		}
	}
	return withPrefix(names, prefix), cobra.ShellCompDirectiveNoFileComp
}

// deps asks the nucleus of the calling cell, and shows what it says.
func (a *app) deps(cmd *cobra.Command, timeout time.Duration, op string, do func(context.Context, *ctl.Client) ([]ctl.DepRow, error)) error {
	caller, err := a.callerDir()
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
	client, err := a.client(ctx, caller, p)
	if err != nil {
		return err
	}
	rows, err := do(ctx, client)
	p.done()
	if err != nil {
		return badTarget(fromControl(op, caller, err))
	}
	if a.json {
		return a.printJSON(rows)
	}
	table := [][]string{{"NAME", "KIND", "STATE", "IS", "DIRECTORY"}}
	for _, r := range rows {
		table = append(table, []string{r.Name, r.Kind, depState(r), depIs(r), r.Dir})
	}
	return a.table(table)
}

// depState says in a few words how a dependency is.
func depState(r ctl.DepRow) string {
	switch {
	case r.Step != "":
		return "being made ready: " + r.Step
	case r.Error != "" && r.State != "":
		return r.State + "; the last update failed: " + r.Error
	case r.Error != "":
		return r.Error
	case r.State == "" && r.Kind == ctl.DepGit:
		return "not fetched yet"
	}
	return r.State
}

// depIs says what it stands for.
func depIs(r ctl.DepRow) string {
	switch {
	case r.CID != "":
		return r.CID
	case r.Commit != "":
		return r.Target + " (" + r.Commit[:min(len(r.Commit), 12)] + ")"
	}
	return r.Target
}
