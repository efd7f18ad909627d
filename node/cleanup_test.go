package node

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/celldnet/celld/internal/ctl"
)

// fill makes a file of each name below dir.
func fill(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSelfDestruct(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "cell.toml", "main.go", "bin/deep/prog", "cache/blocks/a/b", "data/state", "keys/host.key", "published/latest", "log/cell.log", "run/lock")
	if err := selfDestruct(dir); err != nil {
		t.Fatal(err)
	}
	want := []string{"cell.toml", "data", "keys", "log", "main.go", "published", "run"}
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
	if got := list(t, filepath.Join(dir, ctl.RunDir)); !slices.Equal(got, []string{"lock"}) {
		t.Errorf("in run/ there are %v", got)
	}
	if err := selfDestruct(dir); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := discardLog(dir); err != nil || slices.Contains(list(t, dir), "log") {
		t.Errorf("the log: %v", err)
	}
}

// Links lead elsewhere: what they lead to stays.
func TestSelfDestructFollowsNoLink(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	fill(t, other, "precious/file")
	fill(t, dir, "cache/file", "run/lock")
	for from, to := range map[string]string{"bin": filepath.Join(other, "precious"), "cache/link": other} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := selfDestruct(dir); err != nil {
		t.Fatal(err)
	}
	if got := list(t, dir); !slices.Equal(got, []string{"run"}) {
		t.Errorf("left are %v", got)
	}
	if _, err := os.Stat(filepath.Join(other, "precious", "file")); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
	// Nor is run/ itself followed out of the cell.
	fill(t, dir, "bin/prog")
	if err := os.RemoveAll(filepath.Join(dir, "run")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, "run")); err != nil {
		t.Fatal(err)
	}
	if err := selfDestruct(dir); err == nil || !slices.Equal(list(t, other), []string{"precious"}) {
		t.Errorf("%v; elsewhere there are %v", err, list(t, other))
	}
}

// A nucleus that was killed while it cleaned up leaves trash.
func TestSweepTrash(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "run/trash-1/prog", "run/trash-2", "run/lock", "bin/prog")
	sweepTrash(dir, zap.NewNop())
	if got := list(t, filepath.Join(dir, "run")); !slices.Equal(got, []string{"lock"}) {
		t.Errorf("in run/ there are %v", got)
	}
	if !slices.Contains(list(t, dir), "bin") {
		t.Error("a program was taken for trash")
	}
}
