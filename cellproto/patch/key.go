package patch

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mr-tron/base58"

	"github.com/celldnet/celld/cellproto"
)

// Key is the Ed25519 public key of somebody who signs patches. Its text is the libp2p peer ID of the
// key, which for Ed25519 has all of the key in it: the same text as the owner of a manifest.
type Key [ed25519.PublicKeySize]byte

// Beginnings of libp2p's forms of an Ed25519 key: the multihash "identity, 36 bytes" of a peer ID, and
// the protobufs PublicKey and PrivateKey (libp2p specification, "Peer Ids and Keys").
const (
	identityHash  = "\x00\x24"
	publicProto   = "\x08\x01\x12\x20"
	privateProto  = "\x08\x01\x12\x40"
	maxKeyText    = 128
	maxKeyFile    = 4 << 10
	privateLength = len(privateProto) + ed25519.PrivateKeySize
)

// PublicKey gives the public half of a key.
func PublicKey(key ed25519.PrivateKey) Key { return Key(key.Public().(ed25519.PublicKey)) }

// String gives the peer ID in base58.
func (k Key) String() string { return base58.Encode(append([]byte(identityHash), k.marshal()...)) }

// MarshalText is String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k Key) marshal() []byte { return append([]byte(publicProto), k[:]...) }

var errKey = errors.New("not an Ed25519 key in libp2p's form")

func unmarshalKey(raw []byte) (Key, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(publicProto))
	if !ok || len(rest) != ed25519.PublicKeySize {
		return Key{}, errKey
	}
	return Key(rest), nil
}

// ParseKey reads a public key from its text: a peer ID, or the base64 of the protobuf, as in
// allowed_keys. Other keys than Ed25519 are BadInput.
func ParseKey(text string) (Key, error) {
	bad := cellproto.Errorf("parse key", cellproto.BadInput, "%.80q is not the peer ID of an Ed25519 key", text)
	if len(text) > maxKeyText {
		return Key{}, bad
	}
	if raw, err := base58.Decode(text); err == nil {
		if rest, ok := bytes.CutPrefix(raw, []byte(identityHash)); ok {
			if k, err := unmarshalKey(rest); err == nil {
				return k, nil
			}
		}
	}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
		if k, err := unmarshalKey(raw); err == nil {
			return k, nil
		}
	}
	return Key{}, bad
}

// ParsePrivateKey reads the content of a key file: libp2p's protobuf of an Ed25519 private key.
func ParsePrivateKey(raw []byte) (ed25519.PrivateKey, error) {
	bad := cellproto.Errorf("parse key", cellproto.Corrupt, "%w", errKey)
	if len(raw) != privateLength || !bytes.HasPrefix(raw, []byte(privateProto)) {
		return nil, bad
	}
	key := ed25519.PrivateKey(bytes.Clone(raw[len(privateProto):]))
	if !bytes.Equal(ed25519.NewKeyFromSeed(key.Seed()), key) {
		return nil, bad
	}
	return key, nil
}

// MarshalPrivateKey is the inverse of ParsePrivateKey.
func MarshalPrivateKey(key ed25519.PrivateKey) []byte { return append([]byte(privateProto), key...) }

// TrustedKeys reads the list [patch] trusted_keys of the cell in dir: keys as text, or names of files
// under keys/ that hold one. An entry that is neither is an error: a key that is not read trusts nobody.
func TrustedKeys(dir string, entries []string) ([]Key, error) {
	const op = "read trusted_keys"
	var out []Key
	for _, entry := range entries {
		key, err := ParseKey(entry)
		if err != nil {
			text, ferr := readKeyFile(filepath.Join(dir, "keys", filepath.Base(entry)))
			if ferr != nil {
				return nil, cellproto.Errorf(op, cellproto.BadInput, "%.80q is neither a key nor a file under keys/: %w", entry, ferr).
					WithHint("cellctl patch key > keys/owner.pub")
			}
			if key, err = ParseKey(text); err != nil {
				return nil, cellproto.Errorf(op, cellproto.BadInput, "keys/%s: %w", filepath.Base(entry), err).
					WithHint("cellctl patch key > keys/owner.pub")
			}
		}
		out = append(out, key)
	}
	return out, nil
}

func readKeyFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return strings.TrimSpace(string(text)), err
}
