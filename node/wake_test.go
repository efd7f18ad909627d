package node

import (
	"os"
	"path/filepath"
	"testing"
)

// A cell that was removed a moment ago does not come back as an empty directory because somebody calls it.
func TestWakeNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := wake(t.Context(), dir); err == nil {
		t.Error("it was started")
	}
	if _, err := lock(dir); err == nil {
		t.Error("it was locked")
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("there is a directory now")
	}
}
