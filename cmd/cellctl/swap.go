package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// swapTimeout bounds a swap: a program has 10 s to say hello, and a manifest may have to be made.
const swapTimeout = 30 * time.Second

func (a *app) swapCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "swap [DIR]",
		Short: "Replace a cell's running program without dropping a call",
		Long: "Starts the program in bin/ beside the one that runs, has it take over once it is ready, and lets the\n" +
			"old one finish its calls. A program that dies within 5 s, or that would break callers, does not take over.",
		Args: args(0, 1),
	}
	file := cmd.Flags().String("program", "", "copy `FILE` into bin/ first")
	guard := guardFlags(cmd, "the new program")
	publish := cmd.Flags().Bool("publish", false, "publish the new program in the same moment")
	timeout := timeoutFlag(cmd, swapTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		program := *file
		if program != "" {
			if program, err = filepath.Abs(program); err != nil {
				return cellproto.Errorf("swap "+dir, cellproto.Failed, "%w", err)
			}
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
		swapped, err := client.Swap(ctx, program, *guard, *publish)
		p.done()
		if err != nil {
			return fromControl("swap "+dir, dir, err)
		}
		a.notes(swapped.Notes)
		if a.json {
			return a.printJSON(swapped)
		}
		return a.table(swappedRows(swapped))
	}
	return cmd
}

func swappedRows(s ctl.Swapped) [][]string {
	rows := [][]string{
		{"program", fmt.Sprintf("version %s, pid %d", s.Version, s.ProgramPID)}, {"blake3", s.BLAKE3},
	}
	for _, c := range s.Changes {
		rows = append(rows, []string{"breaks", c})
	}
	if s.CID != "" {
		rows = append(rows, []string{"cid", s.CID})
	}
	if s.IPNS != "" {
		rows = append(rows, []string{"ipns", s.IPNS})
	}
	return append(rows, []string{"took", fmt.Sprintf("%d ms", s.TookMS)})
}
