package main

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/patch"
)

// checkedPatch is what patch verify --json prints.
type checkedPatch struct {
	File       string     `json:"file"`
	Base       patch.Hash `json:"base"`
	BaseSize   int64      `json:"base_size"`
	Result     patch.Hash `json:"result"`
	ResultSize int64      `json:"result_size"`
	DeltaSize  int64      `json:"delta_size"`
	Created    time.Time  `json:"created"`
	Signer     patch.Key  `json:"signer"`
	Cell       string     `json:"cell,omitempty"`    // directory of the cell that it was compared with
	Trusted    *bool      `json:"trusted,omitempty"` // that cell trusts the signer
	Fits       *bool      `json:"fits,omitempty"`    // that cell's program is the base
}

func (a *app) patchVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE [DIR]",
		Short: "Check a patch, and whether a cell would take it",
		Long: "Check the signature and the content of a patch. With a cell, DIR or the one that this is within: also whether\n" +
			"the cell trusts the signer, and whether the cell's program, as it is now, is what the patch is for.",
		Args: args(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := readPatch(args[0])
			if err != nil {
				return err
			}
			c := checkedPatch{
				File: args[0], Base: h.Base, BaseSize: h.BaseSize, Result: h.Result, ResultSize: h.ResultSize, DeltaSize: h.DeltaSize,
				Created: h.Created.UTC(), Signer: h.Signer,
			}
			var refused error
			if dir, ok := celltoml.FindUp("."); ok || len(args) > 1 {
				if len(args) > 1 {
					if dir, err = cellDir(args[1]); err != nil {
						return err
					}
				}
				if refused, err = c.compare(dir); err != nil {
					return err
				}
			}
			if a.json {
				err = a.printJSON(c)
			} else {
				err = a.table(c.rows())
			}
			if err != nil {
				return err
			}
			return refused
		},
	}
}

// readPatch reads and checks a whole patch.
func readPatch(path string) (*patch.Header, error) {
	op := "check " + path
	f, err := os.Open(path)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	r := bufio.NewReader(f)
	h, err := patch.ReadHeader(r, info.Size())
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	delta, err := io.ReadAll(io.LimitReader(r, h.DeltaSize))
	if err == nil {
		err = h.CheckDelta(delta)
	}
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	return h, nil
}

// compare says whether the cell in dir would take the patch: refused says why not.
func (c *checkedPatch) compare(dir string) (refused, err error) {
	cfg, err := celltoml.Load(dir)
	if err != nil {
		return nil, err
	}
	keys, err := patch.TrustedKeys(dir, cfg.Patch.TrustedKeys)
	if err != nil {
		return nil, err
	}
	trusted := slices.Contains(keys, c.Signer)
	fits := false
	if !cfg.Headless() {
		program, err := patch.ReadProgram(filepath.Join(dir, cfg.Cell.Binary))
		if err != nil {
			return nil, err
		}
		fits = cellproto.BLAKE3(program) == c.Base
	}
	c.Cell, c.Trusted, c.Fits = dir, &trusted, &fits
	op := "check " + c.File
	switch {
	case !trusted:
		refused = cellproto.Errorf(op, cellproto.Denied, "the cell %s does not trust %s", cfg.Cell.Name, c.Signer).
			WithHint("trusted_keys under [patch] in cell.toml, if that is meant")
	case !fits:
		refused = cellproto.Errorf(op, cellproto.Incompatible, "the program of the cell %s, as it is now, is not what the patch is for", cfg.Cell.Name)
	}
	return refused, nil
}

func (c *checkedPatch) rows() [][]string {
	rows := [][]string{
		{"base", c.Base.String() + " (" + size(c.BaseSize) + ")"},
		{"result", c.Result.String() + " (" + size(c.ResultSize) + ")"},
		{"delta", size(c.DeltaSize)},
		{"created", c.Created.Format(time.RFC3339)},
		{"signer", c.Signer.String()},
	}
	if c.Trusted != nil {
		rows = append(rows, []string{"trusted", yesNo(*c.Trusted)}, []string{"fits", yesNo(*c.Fits)})
	}
	return rows
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
