package node

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/celldnet/celld/cellproto"
)

// Key files, under keys/ of a cell; mode 0600, libp2p's protobuf form of an Ed25519 private key.
const (
	hostKeyFile    = "host.key"    // this copy of the cell: its peer ID
	nameKeyFile    = "name.key"    // the published cell: its IPNS name; copied along with the directory
	accountKeyFile = "account.key" // the person; in the home cell only
	nextKeyFile    = "next.key"    // that which replaces it one day; in the home cell, and better elsewhere
)

const maxKeyFile = 4 << 10 // bytes; an Ed25519 key has 68

// loadKey reads a key, and makes it if there is none. A key that is there but cannot be read is
// never replaced.
func loadKey(dir, name string) (crypto.PrivKey, error) {
	path := filepath.Join(dir, "keys", name)
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, _, err = crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, cellproto.Errorf("make "+path, cellproto.Failed, "%w", err)
	}
	raw, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return nil, cellproto.Errorf("make "+path, cellproto.Failed, "%w", err)
	}
	if err := writeNew(path, raw); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, cellproto.Errorf("make "+path, cellproto.KindOf(err), "%w", err)
	}
	return readKey(path) // perhaps that of another nucleus, which was quicker
}

// writeNew makes a file that only its owner reads, whole and synced, unless there is one already: a
// key that was shown to anybody is neither lost nor replaced.
func writeNew(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(f.Name(), path) // unlike a rename it fails when there is a file
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir has what was made, renamed or removed in a directory be on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readKey reads a key file that nobody else can read.
func readKey(path string) (crypto.PrivKey, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, cellproto.Errorf("read "+path, cellproto.Denied, "others can read this key (mode %o)", info.Mode().Perm()).
			WithHint("If nobody has: chmod 600 %s", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
	}
	key, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.Corrupt, "%w", err).
			WithHint("Restore it from a backup. Removing it gives this copy a new identity.")
	}
	return key, nil
}
