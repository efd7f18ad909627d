package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/celldnet/celld/cellproto"
	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

const (
	fileName = "counter.json"
	lockName = "lock"
	maxKeys  = 256 // that are remembered; the oldest are forgotten
)

// counter is a number in a file. The file is replaced as a whole, so that it holds the state before
// a step or after it; what was answered has been synced. Nothing of it is kept in memory: during a
// swap two versions of the program count at the same time.
type counter struct {
	dir  string
	path string

	mu   sync.Mutex   // among the goroutines of this process
	lock *flock.Flock // among processes
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

func newCounter(dir string) *counter {
	return &counter{
		dir: dir, path: filepath.Join(dir, fileName),
		lock: flock.New(filepath.Join(dir, lockName), flock.SetPermissions(0o600)),
	}
}

// read gives the state. One that cannot be read is left as it is.
func (c *counter) read() (s state, err error) {
	data, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, cellproto.Errorf("read "+c.path, cellproto.Corrupt, "%w", err)
	}
	return s, nil
}

// add takes one step, unless one with its key has been taken, and gives the sum after it.
func (c *counter) add(key string, by int64) (sum int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return 0, err
	}
	if err := c.lock.Lock(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.lock.Unlock()) }()
	s, err := c.read()
	if err != nil {
		return 0, err
	}
	for _, done := range s.Steps {
		if key != "" && string(done.Key) == key {
			if done.By != by {
				return 0, cellproto.Errorf("increment", cellproto.BadInput, "the key has been used for a step of %d", done.By)
			}
			return done.Sum, nil
		}
	}
	s.Value += by
	if key != "" {
		s.Steps = append(s.Steps[max(0, len(s.Steps)+1-maxKeys):], step{[]byte(key), by, s.Value})
	}
	return s.Value, c.write(s)
}

// write returns when the state would survive a loss of power. After an error the file may hold
// either state; the same key then does the same as before.
func (c *counter) write(s state) error {
	left, err := filepath.Glob(filepath.Join(c.dir, "."+fileName+"*")) // by a process that was killed
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(c.path, data, 0o600, renameio.WithTempDir(c.dir)); err != nil {
		return err
	}
	dir, err := os.Open(c.dir) // the new name is in the directory
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
