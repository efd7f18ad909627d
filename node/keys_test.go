package node

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/celldnet/celld/cellproto"
)

func TestKeysAreMadeOnce(t *testing.T) {
	dir := t.TempDir()
	const n = 20
	got := make([][]byte, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			key, err := loadKey(dir, accountKeyFile)
			if err != nil {
				t.Error(err)
				return
			}
			got[i], _ = key.Raw()
		})
	}
	all.Wait()
	for _, raw := range got {
		if len(raw) == 0 || !bytes.Equal(raw, got[0]) {
			t.Fatal("two nuclei have made two keys")
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "keys"))
	if err != nil || len(entries) != 1 {
		t.Errorf("keys/ has %v, %v", entries, err)
	}
	info, err := os.Stat(filepath.Join(dir, "keys", accountKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A key that cannot be used is never replaced: it may be the only one of its kind.
func TestKeysAreNotReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		mode os.FileMode
		kind cellproto.Kind
	}{
		"empty":          {nil, 0o600, cellproto.Corrupt},
		"garbage":        {[]byte("garbage"), 0o600, cellproto.Corrupt},
		"open to others": {[]byte("whatever"), 0o644, cellproto.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "keys", hostKeyFile)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.data, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := loadKey(dir, hostKeyFile)
			if cellproto.KindOf(err) != c.kind || cellproto.HintOf(err) == "" {
				t.Errorf("%v (%v), want %v and a hint", err, cellproto.KindOf(err), c.kind)
			}
			if now, _ := os.ReadFile(path); !bytes.Equal(now, c.data) {
				t.Errorf("the file was changed to %q", now)
			}
		})
	}
}

// A symbolic link would let whoever made it choose the key.
func TestKeysAreNoLinks(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if _, err := loadKey(other, hostKeyFile); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "keys", hostKeyFile), filepath.Join(dir, "keys", hostKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKey(dir, hostKeyFile); err == nil {
		t.Error("a link was followed")
	}
}

// What is no key is refused, whatever it is, and nothing is made in its place.
func FuzzReadKey(f *testing.F) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)-1])
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{8, 1}, maxKeyFile))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), hostKeyFile)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readKey(path)
		if err != nil {
			if cellproto.KindOf(err) != cellproto.Corrupt || cellproto.HintOf(err) == "" {
				t.Errorf("%v", err)
			}
			return
		}
		if _, err := crypto.MarshalPrivateKey(got); err != nil {
			t.Error(err)
		}
	})
}

// FuzzParseKey reads an entry of allowed_keys.
func FuzzParseKey(f *testing.F) {
	f.Add("12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC")
	f.Add("CAESIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("CAESAA==")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := parseKey(text); (err == nil) != (id != "") || err == nil && id.Validate() != nil {
			t.Errorf("%q is %q, %v", text, id, err)
		}
	})
}

func TestReadBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for size, want := range map[int]cellproto.Kind{0: 0, 9: 0, 10: 0, 11: cellproto.TooLarge, 1 << 20: cellproto.TooLarge} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := readBounded(path, 10)
		if cellproto.KindOf(err) != want || err == nil && len(data) != size {
			t.Errorf("%d bytes: %d, %v", size, len(data), err)
		}
	}
	if _, err := readBounded(filepath.Join(path, "x"), 10); err == nil {
		t.Error("a file that is not there was read")
	}
}
