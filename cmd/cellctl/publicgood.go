package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/ledger"
)

// chosenFile is where nuclei look for the list that the owner has chosen, below the home cell's directory.
const chosenFile = "data/public-good"

func (a *app) ledgerFavourCmd() *cobra.Command {
	return &cobra.Command{
		Use: "favour FILE", Short: "Weigh callers on a signed list of public goods more, on this machine",
		Long: "Weigh callers on a signed list of public goods more when cells on this machine are busy: what they have earned counts up\n" +
			"to four times. It earns nobody anything: who has done nothing for others stays a newcomer. FILE is a list that a curator\n" +
			"has signed (cellctl ledger good), whom you trust by choosing it; none takes it back. It counts within a minute.",
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			home, err := a.homeDir()
			if err != nil {
				return err
			}
			path := filepath.Join(home, chosenFile)
			if args[0] == "none" {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return cellproto.Errorf("remove "+path, cellproto.KindOf(err), "%w", err)
				}
				return a.print([]byte("no list\n"))
			}
			return a.favour(args[0], path)
		},
	}
}

func (a *app) favour(file, path string) error {
	op := "read " + file
	f, err := os.Open(file)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, ledger.MaxPublicGoodList+1))
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	p, err := ledger.OpenPublicGoods(data)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("cellctl ledger good makes such a list")
	}
	ends := time.UnixMilli(int64(min(p.NotAfter, 1<<62)))
	if p.NotAfter > 0 && time.Now().After(ends) {
		return cellproto.Errorf(op, cellproto.BadInput, "the list counted until %s", ends.UTC().Format(time.DateOnly)).WithHint("Ask its curator for a newer one.")
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		err = renameio.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	rows := [][]string{{"curator", patch.Key(p.By).String()}}
	if p.NotAfter > 0 {
		rows = append(rows, []string{"until", ends.UTC().Format(time.DateOnly)})
	}
	for _, g := range p.Goods {
		rows = append(rows, []string{fmt.Sprintf("%d times", g.Factor), patch.Key(g.ID).String()})
	}
	return a.table(rows)
}

func (a *app) ledgerGoodCmd() *cobra.Command {
	var term time.Duration
	cmd := &cobra.Command{
		Use: "good FILE ID[=FACTOR]...", Short: "Make a list of public goods, signed with your key",
		Long: "Make a list of public goods, signed with your account's key, which others may choose (cellctl ledger favour). An ID is the\n" +
			"peer ID of an account, a pool or a host; what it has earned counts FACTOR times, 2 to 4, 4 if left out.",
		Args: cobra.MinimumNArgs(2),
	}
	keyFile := keyFlag(cmd)
	cmd.Flags().DurationVar(&term, "for", 365*24*time.Hour, "how long it counts")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list := ledger.PublicGoods{NotAfter: uint64(time.Now().Add(term).UnixMilli())}
		for _, text := range args[1:] {
			id, factor, given := strings.Cut(text, "=")
			key, err := patch.ParseKey(id)
			n := uint64(ledger.MaxCurated)
			if err == nil && given {
				n, err = strconv.ParseUint(factor, 10, 8)
			}
			if err != nil {
				return usageError{cellproto.Errorf("make "+args[0], cellproto.BadInput, "%.80q is no ID=FACTOR: %w", text, err)}
			}
			list.Goods = append(list.Goods, ledger.PublicGood{ID: ledger.Key(key), Factor: uint8(n)})
		}
		p := a.progress()
		defer p.done()
		key, err := a.signingKey(cmd.Context(), *keyFile, p)
		if err != nil {
			return err
		}
		data, err := ledger.SealPublicGoods(list, key)
		if err == nil {
			err = renameio.WriteFile(args[0], data, 0o644)
		}
		p.done()
		if err != nil {
			return cellproto.Errorf("make "+args[0], cellproto.KindOf(err), "%w", err)
		}
		return a.print(fmt.Appendf(nil, "%d identities in %s\n", len(list.Goods), args[0]))
	}
	return cmd
}
