package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) publishCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish [DIR]",
		Short: "Make a cell known and print its CID and its IPNS name",
		Long: "Make a cell known: sign its manifest, put its artefact and schema where others can fetch them,\n" +
			"and announce it. Prints the CID, which means this version, and the IPNS name, which means the\n" +
			"newest. Publishing again with nothing changed gives the same CID.",
		Args: args(0, 1),
	}
	guard := guardFlags(cmd, "this version")
	timeout := timeoutFlag(cmd, 2*time.Minute)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		ctx, cancel, err := deadline(cmd, *timeout)
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
		published, err := client.Publish(ctx, *guard)
		p.done()
		if err != nil {
			return fromControl("publish "+dir, dir, err)
		}
		if published.Note != "" {
			a.notes([]string{published.Note})
		}
		if a.json {
			return a.printJSON(published)
		}
		text := fmt.Appendf(nil, "%s\n", safe(published.CID))
		if published.IPNS != "" {
			text = fmt.Appendf(text, "%s\n", safe(published.IPNS))
		}
		return a.print(text)
	}
	return cmd
}
