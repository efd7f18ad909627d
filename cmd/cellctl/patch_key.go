package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
)

func keyFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("key", "", "file of the private key (default that of your account, in the home cell)")
}

func (a *app) patchKeyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public key with which you sign, for trusted_keys",
		Args:  args(0, 0),
	}
	keyFile := keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p := a.progress()
		defer p.done()
		key, err := a.signingKey(cmd.Context(), *keyFile, p)
		p.done()
		if err != nil {
			return err
		}
		return a.showKey(patch.PublicKey(key))
	}
	return cmd
}

func (a *app) patchKeygenCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make another private key for signing, and print its public key",
		Args:  args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err == nil {
				err = writeKey(args[0], patch.MarshalPrivateKey(key))
			}
			if err != nil {
				return cellproto.Errorf("make "+args[0], cellproto.KindOf(err), "%w", err)
			}
			return a.showKey(patch.PublicKey(key))
		},
	}
}

func (a *app) showKey(key patch.Key) error {
	if a.json {
		return a.printJSON(map[string]patch.Key{"key": key})
	}
	return a.print(fmt.Appendf(nil, "%s\n", key))
}

// writeKey makes a file that only its owner reads. It never replaces one.
func writeKey(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// signingKey reads the private key in file or, without one, that of the account. The nucleus of the
// home cell makes the account's key when it starts for the first time.
func (a *app) signingKey(ctx context.Context, file string, p *progress) (ed25519.PrivateKey, error) {
	if file != "" {
		return readPrivateKey(file)
	}
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	file = filepath.Join(home, "keys", "account.key")
	key, err := readPrivateKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if _, err := a.ensure(ctx, home, p); err != nil {
		return nil, err
	}
	return readPrivateKey(file)
}

func readPrivateKey(path string) (ed25519.PrivateKey, error) {
	op := "read " + path
	f, err := os.Open(path)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, cellproto.Errorf(op, cellproto.Denied, "others can read this key (mode %o)", perm).
			WithHint("if nobody has: chmod 600 %s", quoteWord(path))
	}
	raw, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	key, err := patch.ParsePrivateKey(raw)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%w", err).WithHint("cellctl patch keygen FILE makes a key for signing")
	}
	return key, nil
}
