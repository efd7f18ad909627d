package ledger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// File is one segment of the log, as Store uses it.
type File interface {
	Append(p []byte) error
	ReadAt(p []byte, at int64) (int, error)
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error // the bytes are on the disk when it returns
	ReadOnly() bool
	Close() error
}

// Files is the directory of a Store. Tests put a disk beneath it that fails, and forgets.
type Files interface {
	List() ([]string, error)          // segments, and those that were put aside
	Create(name string) (File, error) // it does not exist yet
	Open(name string) (File, error)   // to write to it, else read-only
	Remove(name string) error
	Rename(from, to string) error
	Sync() error // names made and removed are on the disk when it returns
	Close() error
}

// OpenDir gives the files of a directory, which is made if missing, for the owner alone. Nothing in it
// is reached through a symbolic link.
func OpenDir(dir string) (Files, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return osDir{root}, nil
}

type osDir struct{ root *os.Root }

func (d osDir) List() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(strings.TrimSuffix(e.Name(), badExt), segmentExt) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d osDir) Create(name string) (File, error) {
	return openFile(d.root, name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (d osDir) Open(name string) (File, error) {
	info, err := d.root.Lstat(filepath.Base(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := openFile(d.root, name, os.O_RDWR)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return openFile(d.root, name, os.O_RDONLY)
	}
	return f, err
}

func openFile(root *os.Root, name string, flags int) (File, error) {
	f, err := root.OpenFile(filepath.Base(name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f, readOnly: flags == os.O_RDONLY}, nil
}

func (d osDir) Remove(name string) error { return d.root.Remove(filepath.Base(name)) }

func (d osDir) Rename(from, to string) error {
	return d.root.Rename(filepath.Base(from), filepath.Base(to))
}

func (d osDir) Close() error { return d.root.Close() }

func (d osDir) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

type osFile struct {
	f   *os.File
	end int64
	set bool // end is known

	readOnly bool
}

func (f *osFile) Append(p []byte) error {
	if !f.set {
		n, err := f.Size()
		if err != nil {
			return err
		}
		f.end, f.set = n, true
	}
	n, err := f.f.WriteAt(p, f.end)
	f.end += int64(n)
	return err
}

func (f *osFile) ReadAt(p []byte, at int64) (int, error) { return f.f.ReadAt(p, at) }

func (f *osFile) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *osFile) Truncate(size int64) error {
	f.set = false
	return f.f.Truncate(size)
}

func (f *osFile) Sync() error { return datasync(f.f) }

func (f *osFile) ReadOnly() bool { return f.readOnly }

func (f *osFile) Close() error { return f.f.Close() }
