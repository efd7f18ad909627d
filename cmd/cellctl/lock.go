package main

import (
	"encoding/json"
	"path/filepath"
	"strings"

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

func (l *lock) write() error {
	data, err := json.MarshalIndent(l.File, "", "  ")
	if err == nil {
		err = renameio.WriteFile(filepath.Join(l.dir, celllock.FileName), append(data, '\n'), 0o644)
	}
	if err != nil {
		return cellproto.Errorf("write "+filepath.Join(l.dir, celllock.FileName), cellproto.KindOf(err), "%w", err)
	}
	return nil
}

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
