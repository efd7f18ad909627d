package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

func (a *app) completionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the shell's completion script",
		Long: "Print the shell's completion script:\n\n" +
			"  bash:  cellctl completion bash > ~/.local/share/bash-completion/completions/cellctl\n" +
			"  zsh:   cellctl completion zsh > \"${fpath[1]}/_cellctl\"\n" +
			"  fish:  cellctl completion fish > ~/.config/fish/completions/cellctl.fish",
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.out)
			case "fish":
				return cmd.Root().GenFishCompletion(a.out, true)
			}
			return usagef(cmd, "there is no completion for the shell %q", args[0])
		},
	}
}

// completeFlag offers the values of a flag.
func completeFlag(cmd *cobra.Command, name string, values ...string) {
	// It fails for a flag that there is not, or twice: then there is nothing to offer.
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeTarget offers the names under [deps] and [remote_cells] of the calling cell, and
// directories.
func completeTarget(_ *cobra.Command, words []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	if dir, ok := celltoml.FindUp("."); ok {
		if c, err := celltoml.Load(dir); err == nil {
			for _, table := range []map[string]string{c.Deps, c.RemoteCells} {
				for name := range table {
					names = append(names, name)
				}
			}
		}
	}
	names = append(names, directories(prefix)...)
	return withPrefix(names, prefix), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// directories lists those that complete prefix: the shell's own way of it would not be asked
// together with names.
func directories(prefix string) []string {
	parent, _ := filepath.Split(prefix)
	entries, err := os.ReadDir(filepath.Join(".", parent))
	if filepath.IsAbs(parent) {
		entries, err = os.ReadDir(parent)
	}
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			found = append(found, parent+e.Name()+"/")
		}
	}
	return found
}

func withPrefix(names []string, prefix string) []string {
	names = slices.DeleteFunc(names, func(s string) bool { return !strings.HasPrefix(s, prefix) })
	slices.Sort(names)
	return slices.Compact(names)
}

// completeUse offers targets, then functions, then names of arguments, from the schema that an
// earlier call has left in a cache.
func (a *app) completeUse(cmd *cobra.Command, words []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(words) == 0 {
		return completeTarget(cmd, words, prefix)
	}
	schema := a.cachedSchema(words[0])
	if schema == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	if len(words) == 1 {
		for name, f := range schema.Functions {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name+"\t"+safe(strings.ReplaceAll(f.Usage(name), "\t", " ")))
			}
		}
		slices.Sort(names)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	for _, name := range schema.Functions[words[1]].Order {
		if !slices.ContainsFunc(words[2:], func(w string) bool { return strings.HasPrefix(w, name+"=") }) {
			names = append(names, name+"=")
		}
	}
	return withPrefix(names, prefix), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// cachedSchema looks where schemas are kept, without waking anybody.
func (a *app) cachedSchema(word string) *cellproto.Schema {
	t, err := parseTarget(word)
	if err != nil {
		return nil
	}
	if t.dir != "" {
		return readSchema(t.dir)
	}
	caller, ok := celltoml.FindUp(".")
	if !ok {
		if caller, err = a.homePath(); err != nil {
			return nil
		}
	}
	if !filepath.IsLocal(t.text) {
		return nil
	}
	return readSchemaFile(filepath.Join(caller, ".cell-cache", t.text, "schema.json"))
}
