package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// The directory of an old version has a program that is run: one that others could have written is none.
func TestOldVersionsAreTheUsersOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, dir string) error
		good  bool
	}{
		"good":                    {func(*testing.T, string) error { return nil }, true},
		"without cell.toml":       {func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "cell.toml")) }, true},
		"others write to it":      {func(_ *testing.T, dir string) error { return os.Chmod(dir, 0o777) }, false},
		"a group writes the note": {func(_ *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, oldFile), 0o664) }, false},
		"others write cell.toml":  {func(_ *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, "cell.toml"), 0o646) }, false},
		"the note is a link": {func(_ *testing.T, dir string) error {
			if err := os.Rename(filepath.Join(dir, oldFile), filepath.Join(dir, "other")); err != nil {
				return err
			}
			return os.Symlink("other", filepath.Join(dir, oldFile))
		}, false},
		"it is somebody else's": {func(t *testing.T, dir string) error {
			if os.Getuid() != 0 {
				t.Skip("only root can give it away")
			}
			return os.Lchown(dir, 4711, 4711)
		}, false},
		"the note is somebody else's": {func(t *testing.T, dir string) error {
			if os.Getuid() != 0 {
				t.Skip("only root can give it away")
			}
			return os.Lchown(filepath.Join(dir, oldFile), 4711, 4711)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "maths-v1")
			err := os.Mkdir(dir, 0o755)
			if err == nil {
				err = (&oldRecord{Of: filepath.Join(parent, "maths"), Version: "1.0.0"}).write(dir)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "cell.toml"), nil, 0o644)
			}
			if err == nil {
				err = tc.spoil(t, dir)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = readOld(dir)
			if (err == nil) != tc.good || !tc.good && cellproto.KindOf(err) != cellproto.Denied {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := readOld(filepath.Join(t.TempDir(), "none")); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("of nothing: %v", err)
	}
}
