package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
)

func (a *app) patchCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "patch",
		Short: "Make and check signed patches of a cell's program",
		Long: "A patch turns one version of a program into another, and is signed. Dropped into the directory patch/ of a\n" +
			"cell that trusts the key, it is applied while the program runs; deleting it goes back to what was before.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.patchMakeCmd(), a.patchKeyCmd(), a.patchKeygenCmd(), a.patchVerifyCmd(), a.patchLsCmd())
	return cmd
}

// madePatch is what patch make --json prints.
type madePatch struct {
	File   string     `json:"file"`
	Size   int64      `json:"size"`
	Base   patch.Hash `json:"base"`
	Result patch.Hash `json:"result"`
	Signer patch.Key  `json:"signer"`
}

func (a *app) patchMakeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "make OLD NEW",
		Short: "Make a patch that turns the program OLD into NEW, and sign it",
		Args:  args(2, 2),
	}
	keyFile := keyFlag(cmd)
	out := cmd.Flags().StringP("output", "o", "", "the patch's file (default NEW"+patch.Suffix+" here)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := a.progress()
		defer p.done()
		base, err := patch.ReadProgram(args[0])
		if err != nil {
			return err
		}
		result, err := patch.ReadProgram(args[1])
		if err != nil {
			return err
		}
		key, err := a.signingKey(cmd.Context(), *keyFile, p)
		if err != nil {
			return err
		}
		if bytes.Equal(base, result) {
			return cellproto.Errorf("make patch", cellproto.BadInput, "it changes nothing: %s and %s are one program", args[0], args[1])
		}
		p.say("comparing the programs")
		delta, err := compare(cmd.Context(), args[0], args[1], cellproto.BLAKE3(base), cellproto.BLAKE3(result))
		if err != nil {
			return err
		}
		data, err := patch.Make(base, result, delta, time.Now(), key)
		if err != nil {
			return err
		}
		file := *out
		if file == "" {
			file = filepath.Base(args[1]) + patch.Suffix
		}
		if err := renameio.WriteFile(file, data, 0o644); err != nil {
			return cellproto.Errorf("write "+file, cellproto.KindOf(err), "%w", err)
		}
		p.done()
		made := madePatch{
			File: file, Size: int64(len(data)), Base: cellproto.BLAKE3(base), Result: cellproto.BLAKE3(result), Signer: patch.PublicKey(key),
		}
		if a.json {
			return a.printJSON(made)
		}
		return a.print(fmt.Appendf(nil, "%s (%s)\n", safe(file), size(made.Size)))
	}
	return cmd
}

// compare has celld make the delta between two programs: the compressor would slow each start of
// cellctl down. celld says what it has read, which is to be what is signed.
func compare(ctx context.Context, basePath, resultPath string, base, result patch.Hash) ([]byte, error) {
	const op = "compare the programs"
	celld, err := findCelld()
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, celld, "-delta", "--", basePath, resultPath)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%s (%w)", strings.TrimSpace(errs.String()), err)
	}
	want := append(base[:], result[:]...)
	delta, ok := bytes.CutPrefix(out.Bytes(), want)
	if !ok {
		return nil, cellproto.Errorf(op, cellproto.Failed, "one of them has just been written").WithHint("the same again")
	}
	return delta, nil
}

// size shows a number of bytes as people read it.
func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}
