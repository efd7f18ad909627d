package node

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/celldnet/celld/cellproto"
)

// Key files, under keys/ of a cell; mode 0600, libp2p's protobuf form of an Ed25519 private key.
const (
	hostKeyFile    = "host.key"    // this copy of the cell: its peer ID
	nameKeyFile    = "name.key"    // the published cell: its IPNS name; copied along with the directory
	accountKeyFile = "account.key" // the person; in the home cell only
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
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, cellproto.Errorf("make "+path, cellproto.KindOf(err), "%w", err)
	}
	// renameio syncs the file before the rename: a key that was shown to anybody is not lost.
	if err := renameio.WriteFile(path, raw, 0o600, renameio.WithStaticPermissions(0o600)); err != nil {
		return nil, cellproto.Errorf("make "+path, cellproto.KindOf(err), "%w", err)
	}
	return key, nil
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
