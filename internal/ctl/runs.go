package ctl

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// RunsFile is the history of what ran when, below a cell's directory: a RunRow a line, newest last.
const RunsFile = "cache/history/runs.jsonl"

// MaxRuns bounds the rows of RunsFile.
const MaxRuns = 1000

// Outcomes of a change of what runs.
const (
	OutcomeStarted    = "started"     // another program than before was started
	OutcomeSwapped    = "swapped"     // it took over from the one that ran
	OutcomeRolledBack = "rolled back" // the one before it was taken up again
	OutcomeRefused    = "refused"     // it did not take over
)

// RunRow is one change of what runs in a cell.
type RunRow struct {
	Time    time.Time `json:"time"`
	BLAKE3  string    `json:"blake3"` // of the program that runs since then, or that was refused; hex
	Version string    `json:"version"`
	Schema  string    `json:"schema"` // hash, hex; "" if it is not known
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
}

// maxRunsFile is what is read of the file, in bytes: a row is less than 2 KiB.
const maxRunsFile = MaxRuns * 2 << 10

// ReadRuns reads the history of the cell in dir, oldest first. Without a file there is none; lines that
// are damaged are left out.
func ReadRuns(dir string) ([]RunRow, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(RunsFile)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxRunsFile {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	var rows []RunRow
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(rows) < MaxRuns {
		var r RunRow
		if json.Unmarshal(lines.Bytes(), &r) == nil && !r.Time.IsZero() {
			rows = append(rows, r)
		}
	}
	return rows, lines.Err()
}
