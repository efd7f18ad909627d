package ctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeRuns(t testing.TB, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, filepath.FromSlash(RunsFile))
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReadRuns(t *testing.T) {
	const row = `{"time":"2026-11-28T04:00:00Z","blake3":"ab","version":"1.0.0","schema":"","outcome":"swapped","reason":"x"}` + "\n"
	want := RunRow{Time: time.Date(2026, 11, 28, 4, 0, 0, 0, time.UTC), BLAKE3: "ab", Version: "1.0.0", Outcome: OutcomeSwapped, Reason: "x"}
	for name, c := range map[string]struct {
		text string
		rows int
	}{
		"none": {"", 0}, "one": {row, 1}, "two": {row + row, 2},
		"torn":      {row + row[:40] + "\n" + row + row[:20], 2},
		"nonsense":  {"[]\nnull\n{}\n\x00\n" + row, 1},
		"too many":  {strings.Repeat(row, MaxRuns+5), MaxRuns},
		"long line": {row + strings.Repeat("x", 80<<10), 1},
	} {
		rows, err := ReadRuns(writeRuns(t, c.text))
		if len(rows) != c.rows || err != nil && name != "long line" {
			t.Errorf("%s: %d rows, %v", name, len(rows), err)
		}
		if len(rows) > 0 && rows[0] != want {
			t.Errorf("%s: %+v", name, rows[0])
		}
	}
	if rows, err := ReadRuns(t.TempDir()); rows != nil || err != nil {
		t.Errorf("without a file: %v, %v", rows, err)
	}
	if _, err := ReadRuns(writeRuns(t, strings.Repeat("x", maxRunsFile+1))); err == nil {
		t.Error("a huge file is read")
	}
}

func FuzzReadRuns(f *testing.F) {
	f.Add("{}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if rows, _ := ReadRuns(writeRuns(t, text)); len(rows) > MaxRuns {
			t.Error("too many rows")
		}
	})
}
