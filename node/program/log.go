package program

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// MaxLogFile is the most that one of the two files of a Log holds, in bytes; together they are the
// ring of 1 MiB of SECURITY, "Limits".
const MaxLogFile = 512 << 10

// Log is a cell's log on disk: path, and path.1 with what came before it. It may be used from any
// goroutine.
type Log struct {
	mu   sync.Mutex
	path string
	file *os.File // nil: it could not be opened, or was closed
	size int64
	shut bool
}

// OpenLog opens the log at path, usually log/cell.log of a cell, and goes on where it ended. The
// directory is made if it is missing. A symbolic link is refused.
func OpenLog(path string) (*Log, error) {
	l := &Log{path: path}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, logError(err)
	}
	if err := l.open(); err != nil {
		return nil, logError(err)
	}
	return l, nil
}

func logError(err error) error {
	kind := cellproto.KindOf(err)
	return cellproto.Errorf("open log", kind, "%w", err).WithHint("The log is a plain file that its owner can write.")
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: l.path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	if l.size > MaxLogFile { // not ours; renamed it would break the bound
		l.size = 0
		return f.Truncate(0)
	}
	return nil
}

// Write appends p, whole lines, in one piece. A p longer than MaxLogFile loses its beginning.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return 0, os.ErrClosed
	}
	kept := p[max(0, len(p)-MaxLogFile):]
	if l.file == nil || l.size+int64(len(kept)) > MaxLogFile {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(kept)
	l.size += int64(n)
	if err != nil {
		return n, err
	}
	return len(p), nil
}

// rotate begins a new file. If the old one cannot be renamed, it is emptied: the bound holds.
func (l *Log) rotate() error {
	if l.file != nil {
		if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.size = 0
			return l.file.Truncate(0)
		}
		l.file.Close()
		l.file = nil
	}
	return l.open()
}

// Close closes the file. Writes after it fail.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
