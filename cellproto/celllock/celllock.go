// Package celllock owns cell.lock: which cells clients were generated for, and from which schemas. It does not
// generate, and asks nobody.
package celllock

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

	"github.com/celldnet/celld/cellproto"
)

// FileName is the name of the file. It stands beside cell.toml and belongs into version control.
const FileName = "cell.lock"

// Version is that of the file which this package reads and writes.
const Version = 1

// MaxCells is how many cells one file may have.
const MaxCells = 1024

const maxSize = 1 << 20 // bytes

// File is the content of cell.lock.
type File struct {
	Version int    `json:"version"`
	Cells   []Cell `json:"cells"` // by target
}

// Cell is one cell that clients were generated for. Files are relative to the lock.
type Cell struct {
	Target  string               `json:"target"` // as it was given; a directory is relative to the lock
	Cell    string               `json:"cell"`
	CID     string               `json:"cid,omitempty"`     // of the manifest then; "": it was not published
	Release string               `json:"release,omitempty"` // version of the cell then
	Schema  cellproto.SchemaHash `json:"schema"`
	File    string               `json:"file"` // that schema
	Clients []Client             `json:"clients"`
}

// Client is one generated file.
type Client struct {
	Lang string `json:"lang"`
	File string `json:"file"`
}

// Read reads the lock in a directory; an empty one if there is none.
func Read(dir string) (*File, error) {
	path := filepath.Join(dir, FileName)
	data, err := ReadSmall(path, maxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return &File{Version: Version}, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := Parse(data)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).
			WithHint("Take it from version control again, or remove it and run cellctl gen.")
	}
	return f, nil
}

// Parse reads cell.lock strictly: BadInput, TooLarge, Unsupported.
func Parse(data []byte) (*File, error) {
	const op = "parse " + FileName
	if len(data) > maxSize {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxSize)
	}
	f := &File{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(f); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "something follows it")
	}
	if f.Version != Version {
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "its version is %d, known here is %d", f.Version, Version)
	}
	if len(f.Cells) > MaxCells {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d cells, at most %d", len(f.Cells), MaxCells)
	}
	for i, c := range f.Cells {
		switch {
		case c.Target == "" || slices.ContainsFunc(f.Cells[:i], func(o Cell) bool { return o.Target == c.Target }):
			return nil, cellproto.Errorf(op, cellproto.BadInput, "the target %.80q is empty or there twice", c.Target)
		case !cellproto.ValidCellName(c.Cell):
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%.80q is not the name of a cell", c.Cell)
		}
		for _, file := range append([]string{c.File}, c.Files()...) {
			if !filepath.IsLocal(file) {
				return nil, cellproto.Errorf(op, cellproto.BadInput, "the file %.80q of %s does not lie below the lock", file, c.Cell)
			}
		}
	}
	return f, nil
}

// Files gives the clients' files.
func (c *Cell) Files() (list []string) {
	for _, client := range c.Clients {
		list = append(list, client.File)
	}
	return list
}

// Put adds or replaces a cell.
func (f *File) Put(c Cell) {
	f.Cells = slices.DeleteFunc(f.Cells, func(o Cell) bool { return o.Target == c.Target })
	f.Cells = append(f.Cells, c)
	slices.SortFunc(f.Cells, func(a, b Cell) int { return strings.Compare(a.Target, b.Target) })
}

// ReadSchema reads the schema that a cell of the lock in dir had. Corrupt: it is another one.
func (c *Cell) ReadSchema(dir string) (*cellproto.Schema, error) {
	path := filepath.Join(dir, c.File)
	data, err := ReadSmall(path, cellproto.MaxSchema)
	hint := "cellctl gen " + c.Target + " writes it again."
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).WithHint("%s", hint)
	}
	s, err := cellproto.ParseSchema(data)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err).WithHint("%s", hint)
	}
	if !c.Had(data) && s.Hash() != c.Schema {
		return nil, cellproto.Errorf("read "+path, cellproto.Corrupt, "its hash is not the one in %s", FileName).WithHint("%s", hint)
	}
	return s, nil
}

// Had says whether data is the schema that the cell had, as Canonical gives it. One that is written otherwise is not seen.
func (c *Cell) Had(data []byte) bool {
	return cellproto.SchemaHash(cellproto.BLAKE3(bytes.TrimSuffix(data, []byte("\n")))) == c.Schema
}

// ReadSmall reads a file of at most limit bytes: TooLarge.
func ReadSmall(path string, limit int64) ([]byte, error) {
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
