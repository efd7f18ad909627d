package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/celldnet/celld/cellproto"
	"github.com/google/renameio/v2"
)

const (
	fileName = "counter.json"
	maxKeys  = 256 // that are remembered; the oldest are forgotten
)

// counter is a number in a file. The file is replaced as a whole, so that it holds the state before
// a step or after it; what was answered has been synced.
type counter struct {
	dir string

	mu    sync.Mutex
	state state
}

type state struct {
	Value int64  `json:"value"`
	Steps []step `json:"steps"` // with a key, the oldest first
}

// step is what became of one idempotency key.
type step struct {
	Key []byte `json:"key"`
	By  int64  `json:"by"`
	Sum int64  `json:"sum"`
}

// open reads the state in dir, which it makes. A state that cannot be read is left as it is.
func open(dir string) (*counter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, "."+fileName+"*")) // by a process that was killed
	if err != nil {
		return nil, err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	c := &counter{dir: dir}
	path := filepath.Join(dir, fileName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &c.state); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return c, nil
}

// add takes one step, unless one with its key has been taken, and gives the sum after it.
func (c *counter) add(key string, by int64) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.state.Steps {
		if key != "" && string(s.Key) == key {
			if s.By != by {
				return 0, cellproto.Errorf("increment", cellproto.BadInput, "the key has been used for a step of %d", s.By)
			}
			return s.Sum, nil
		}
	}
	next := state{Value: c.state.Value + by, Steps: c.state.Steps}
	if key != "" {
		next.Steps = append(next.Steps[max(0, len(next.Steps)+1-maxKeys):len(next.Steps):len(next.Steps)], step{[]byte(key), by, next.Value})
	}
	if err := c.write(next); err != nil {
		return 0, err
	}
	c.state = next
	return next.Value, nil
}

// write returns when the state would survive a loss of power. After an error the file may hold
// either state: the next step overwrites it.
func (c *counter) write(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, fileName)
	if err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(c.dir)); err != nil {
		return err
	}
	dir, err := os.Open(c.dir) // the new name is in the directory
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
