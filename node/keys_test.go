package node

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

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
