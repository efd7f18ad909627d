package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// lock is cell.lock, which pins what clients were generated from.
type lock struct {
	celllock.File
	dir string // where it is
}

// readLock reads the lock of the nearest cell upward, else of this directory; an empty one if there is none.
func readLock() (*lock, error) {
	dir, ok := celltoml.FindUp(".")
	if !ok {
		var err error
		if dir, err = filepath.Abs("."); err != nil {
			return nil, cellproto.Errorf("read "+celllock.FileName, cellproto.Failed, "%w", err)
		}
	}
	f, err := celllock.Read(dir)
	if err != nil {
		return nil, err
	}
	return &lock{File: *f, dir: dir}, nil
}

// put adds or replaces a cell in the file. What another process has put there meanwhile stays.
func (l *lock) put(c celllock.Cell) error {
	path := filepath.Join(l.dir, celllock.FileName)
	only := flock.New(l.dir, flock.SetFlag(os.O_RDONLY))
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	if _, err := only.TryLockContext(ctx, lockWait/100); err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "another process holds %s: %w", l.dir, err)
	}
	defer only.Close()
	f, err := celllock.Read(l.dir)
	if err != nil {
		return err
	}
	f.Put(c)
	l.File = *f
	data, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = renameio.WriteFile(path, append(data, '\n'), 0o644)
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

const lockWait = 5 * time.Second // for a process that writes the same file

// target gives the target of a locked cell as a command takes it.
func (l *lock) target(c *celllock.Cell) (target, error) {
	if strings.HasPrefix(c.Target, ".") || filepath.IsAbs(c.Target) {
		dir := c.Target
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(l.dir, dir)
		}
		return target{text: dir, dir: dir}, nil
	}
	return parseTarget(c.Target)
}

// name gives the target as the lock names it: a directory relative to it.
func (l *lock) name(t target) string {
	if t.dir == "" {
		return t.text
	}
	rel, err := filepath.Rel(l.dir, t.dir)
	if err != nil {
		return t.dir
	}
	if !strings.HasPrefix(rel, ".") {
		rel = "./" + rel
	}
	return filepath.ToSlash(rel)
}
