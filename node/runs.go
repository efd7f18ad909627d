package node

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/internal/ctl"
)

// runs keeps which program ran when, in cache/history/runs.jsonl: one ctl.RunRow a line, the newest
// last, at most ctl.MaxRuns.
type runs struct {
	path string
	log  *zap.Logger

	mu   sync.Mutex
	rows int
	last ctl.RunRow
}

func openRuns(dir string, log *zap.Logger) *runs {
	r := &runs{path: filepath.Join(dir, filepath.FromSlash(ctl.RunsFile)), log: log}
	rows, err := ctl.ReadRuns(dir)
	if err != nil {
		log.Warn("the history of runs cannot be read", zap.Error(err))
	}
	if r.rows = len(rows); r.rows > 0 {
		r.last = rows[r.rows-1]
	}
	return r
}

// started notes that a program runs, unless the last row says so already. schema gives the hash of its schema; it is called for
// a row that is written only, since to hash takes time, and a caller waits.
func (r *runs) started(row ctl.RunRow, schema func() string) {
	r.mu.Lock()
	known := r.last.BLAKE3 == row.BLAKE3 && r.last.Version == row.Version && r.last.Outcome != ctl.OutcomeRefused
	r.mu.Unlock()
	if !known {
		row.Schema = schema()
		r.add(row)
	}
}

// add appends a row. The history is a cache: failing to write it is logged, and stops nothing.
func (r *runs) add(row ctl.RunRow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row.Time = row.Time.UTC()
	row.Reason = row.Reason[:min(len(row.Reason), maxReason)]
	line, err := json.Marshal(row)
	if err == nil {
		err = makeDir(filepath.Dir(r.path))
	}
	if err == nil {
		err = r.append(append(line, '\n'))
	}
	if err != nil {
		r.log.Warn("cannot write the history of runs", zap.Error(err))
		return
	}
	r.last = row
}

const maxReason = 1 << 10 // bytes of a row's reason

// append writes one line; every now and then the oldest half makes room. r.mu is held.
func (r *runs) append(line []byte) error {
	if r.rows >= ctl.MaxRuns {
		data, err := os.ReadFile(r.path)
		if err != nil {
			return err
		}
		lines := bytes.SplitAfter(data, []byte("\n"))
		kept := lines[max(0, len(lines)-ctl.MaxRuns/2):]
		if err := renameio.WriteFile(r.path, bytes.Join(kept, nil), 0o600); err != nil {
			return err
		}
		r.rows = len(kept)
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	r.rows++
	_, err = f.Write(line)
	return err
}
