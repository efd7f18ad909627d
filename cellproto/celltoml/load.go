package celltoml

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// Load reads the cell.toml of the cell in dir. Dir of the result is absolute. The file must be a
// regular one: a symbolic link in a directory that came from elsewhere could name any file of the
// reader's.
//
// Errors are those of Parse, and NotFound when there is no such file.
func Load(dir string) (*Config, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, cellproto.Errorf("read "+filepath.Join(dir, FileName), cellproto.Failed, "%w", err)
	}
	name := filepath.Join(abs, FileName)
	data, e := read(name)
	if e != nil {
		return nil, e
	}
	c, e := parse(data, name)
	if e != nil {
		return nil, e
	}
	c.Dir = abs
	return c, nil
}

// read reads at most 64 KiB of a regular file.
func read(name string) ([]byte, *cellproto.Error) {
	// O_NONBLOCK: opening a pipe must not wait for somebody to write.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, openError(name, err)
	case !info.Mode().IsRegular():
		return nil, cellproto.Errorf(position(name, 0), cellproto.BadInput, "not a regular file").
			WithHint("Replace it by a plain text file.")
	case info.Size() > cellproto.MaxCellToml:
		return nil, tooLarge(name, info.Size())
	}
	// One byte more than allowed: the file may have grown since, and parse has to see that.
	data, err := io.ReadAll(io.LimitReader(f, cellproto.MaxCellToml+1))
	if err != nil {
		return nil, openError(name, err)
	}
	return data, nil
}

func openError(name string, err error) *cellproto.Error {
	op := position(name, 0)
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path is in op already
	}
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return cellproto.Errorf(op, cellproto.NotFound, "%w", err).
			WithHint("cellctl init NAME makes one, in a new directory NAME.")
	case errors.Is(err, syscall.ELOOP):
		return cellproto.Errorf(op, cellproto.BadInput, "is a symbolic link").
			WithHint("Replace the link by a copy of the file.")
	case errors.Is(err, os.ErrPermission):
		return cellproto.Errorf(op, cellproto.Denied, "%w", err).
			WithHint("Only the owner of a cell can run it; make the file readable, or become that user.")
	}
	return cellproto.Errorf(op, cellproto.Failed, "%w", err).WithHint("Check that the disk and the file are in order.")
}

// FindUp gives the nearest directory with a cell.toml, from dir upward, as an absolute path.
//
// A cell.toml of another user (root excepted) does not count: a command in a subdirectory of /tmp
// must not run what a stranger has put into /tmp. Naming such a directory explicitly still works.
func FindUp(dir string) (cellDir string, ok bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	for {
		info, err := os.Lstat(filepath.Join(dir, FileName))
		if err == nil && !info.IsDir() && trusted(info) {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

func trusted(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}
