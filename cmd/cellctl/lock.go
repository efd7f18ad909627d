package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// lockFile pins what clients were generated from. It stands beside cell.toml and belongs into version control.
const lockFile = "cell.lock"

const (
	lockVersion = 1
	maxLock     = 1 << 20 // bytes
	maxLocked   = 1024    // cells
)

// lock is the content of cell.lock.
type lock struct {
	dir     string       // where it is
	Version int          `json:"version"`
	Cells   []lockedCell `json:"cells"` // by target
}

// lockedCell is one cell that clients were generated for. Files are relative to the lock.
type lockedCell struct {
	Target  string               `json:"target"` // as it was given; a directory is relative to the lock
	Cell    string               `json:"cell"`
	CID     string               `json:"cid,omitempty"`     // of the manifest then; "": it was not published
	Release string               `json:"release,omitempty"` // version of the cell then
	Schema  cellproto.SchemaHash `json:"schema"`
	File    string               `json:"file"` // that schema
	Clients []lockedClient       `json:"clients"`
}

type lockedClient struct {
	Lang string `json:"lang"`
	File string `json:"file"`
}

// readLock reads the lock of the nearest cell upward, else of this directory; an empty one if there is none.
func readLock() (*lock, error) {
	dir, ok := celltoml.FindUp(".")
	if !ok {
		var err error
		if dir, err = filepath.Abs("."); err != nil {
			return nil, cellproto.Errorf("read "+lockFile, cellproto.Failed, "%w", err)
		}
	}
	data, err := readSmall(filepath.Join(dir, lockFile), maxLock)
	if errors.Is(err, fs.ErrNotExist) {
		return &lock{dir: dir, Version: lockVersion}, nil
	}
	if err != nil {
		return nil, err
	}
	l, err := parseLock(data)
	if err != nil {
		return nil, cellproto.Errorf("read "+filepath.Join(dir, lockFile), cellproto.KindOf(err), "%w", err).
			WithHint("Take it from version control again, or remove it and run cellctl gen.")
	}
	l.dir = dir
	return l, nil
}

// parseLock reads cell.lock strictly: BadInput, TooLarge.
func parseLock(data []byte) (*lock, error) {
	const op = "parse " + lockFile
	if len(data) > maxLock {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxLock)
	}
	l := &lock{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(l); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "something follows it")
	}
	if l.Version != lockVersion {
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "its version is %d, this cellctl knows %d", l.Version, lockVersion)
	}
	if len(l.Cells) > maxLocked {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d cells, at most %d", len(l.Cells), maxLocked)
	}
	for i, c := range l.Cells {
		switch {
		case c.Target == "" || slices.ContainsFunc(l.Cells[:i], func(o lockedCell) bool { return o.Target == c.Target }):
			return nil, cellproto.Errorf(op, cellproto.BadInput, "the target %.80q is empty or there twice", c.Target)
		case !cellproto.ValidCellName(c.Cell):
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%.80q is not the name of a cell", c.Cell)
		}
		for _, file := range append([]string{c.File}, c.files()...) {
			if !filepath.IsLocal(file) {
				return nil, cellproto.Errorf(op, cellproto.BadInput, "the file %.80q of %s does not lie below the lock", file, c.Cell)
			}
		}
	}
	return l, nil
}

func (c *lockedCell) files() (list []string) {
	for _, client := range c.Clients {
		list = append(list, client.File)
	}
	return list
}

// put adds or replaces a cell.
func (l *lock) put(c lockedCell) {
	l.Cells = slices.DeleteFunc(l.Cells, func(o lockedCell) bool { return o.Target == c.Target })
	l.Cells = append(l.Cells, c)
	slices.SortFunc(l.Cells, func(a, b lockedCell) int { return strings.Compare(a.Target, b.Target) })
}

func (l *lock) write() error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err == nil {
		err = renameio.WriteFile(filepath.Join(l.dir, lockFile), append(data, '\n'), 0o644)
	}
	if err != nil {
		return cellproto.Errorf("write "+filepath.Join(l.dir, lockFile), cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// target gives the target of a locked cell as a command takes it.
func (l *lock) target(c *lockedCell) (target, error) {
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

// schema reads the schema that a locked cell had. Corrupt: it is another one.
func (l *lock) schema(c *lockedCell) (*cellproto.Schema, error) {
	path := filepath.Join(l.dir, c.File)
	data, err := readSmall(path, cellproto.MaxSchema)
	hint := "cellctl gen " + c.Target + " writes it again."
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).WithHint("%s", hint)
	}
	s, err := cellproto.ParseSchema(data)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).WithHint("%s", hint)
	}
	if s.Hash() != c.Schema {
		return nil, cellproto.Errorf("read "+path, cellproto.Corrupt, "its hash is not the one in %s", lockFile).WithHint("%s", hint)
	}
	return s, nil
}

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = cellproto.Errorf("read "+path, cellproto.TooLarge, "more than %d bytes", limit)
	}
	return data, err
}
