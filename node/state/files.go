package state

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const filesDir = "files"

// files is the part of a Store that holds files: plain ones in one directory, each replaced as a whole.
type files struct {
	s *Store

	mu     sync.Mutex
	root   *os.Root // nil: not open
	sizes  map[string]int64
	taken  int64 // bytes on the disk, of files and of those that are being written
	making int   // files that are being written and have no name yet
}

// path gives the path of something in the store's directory.
func (s *Store) path(name string) string {
	return filepath.Join(s.cfg.Dir, filepath.FromSlash(Dir), name)
}

// onDisk is what a file of this size takes.
func onDisk(size int64) int64 { return (size + block) / block * block }

// open gives the directory. What a process that was killed has left half-written is removed. f.mu is held.
func (f *files) open() (*os.Root, error) {
	if f.root != nil {
		return f.root, nil
	}
	root, err := f.s.openRoot(filesDir)
	if err != nil {
		return nil, err
	}
	if err := f.look(root); err != nil {
		root.Close()
		return nil, diskError(err)
	}
	f.root = root
	return root, nil
}

// look learns which files there are.
func (f *files) look(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	f.sizes, f.taken = map[string]int64{}, 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && e.Type().IsRegular() {
			if err := root.Remove(e.Name()); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !cellproto.ValidStateName(e.Name()) {
			f.s.log.Warn("in the directory of the program's files is what is none of them", zap.String("name", e.Name()))
			continue
		}
		f.sizes[e.Name()] = info.Size()
		f.taken += onDisk(info.Size())
	}
	return nil
}

func (f *files) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root != nil {
		f.root.Close()
		f.root = nil
	}
}

// used gives what the files take of the disk.
func (f *files) used() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root == nil {
		// Keys alone must not make the directory of the files.
		if _, err := os.Lstat(f.s.path(filesDir)); errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
	}
	_, err := f.open()
	return f.taken, err
}

// reserve takes n more bytes of the disk, which release gives back.
func (f *files) reserve(n int64) error {
	f.s.quota.Lock()
	defer f.s.quota.Unlock()
	if f.take(n) {
		return nil
	}
	if f.s.keys.compact(); f.take(n) {
		return nil
	}
	return f.s.errFull()
}

// take takes n more bytes, if they are free. s.quota is held.
func (f *files) take(n int64) bool {
	keys := f.s.keys.size()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken+n+keys > f.s.cfg.Size {
		return false
	}
	f.taken += n
	return true
}

func (f *files) release(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken -= n
}

// enter takes a place for a file that is to be written, and gives the directory.
func (f *files) enter(name string) (*os.Root, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	root, err := f.open()
	if err != nil {
		return nil, err
	}
	if _, known := f.sizes[name]; !known && len(f.sizes)+f.making >= cellproto.MaxStateFiles {
		return nil, cellproto.Errorf("", cellproto.TooLarge, "the cell has %d files, the limit", cellproto.MaxStateFiles).
			WithHint("Remove some, or put more into one.")
	}
	f.making++
	return root, nil
}

// checkName refuses what is no name of a file.
func checkName(name string) error {
	if !cellproto.ValidStateName(name) {
		return cellproto.Errorf("", cellproto.BadInput, "%.80q is no name of a file", name).
			WithHint("Names are lower-case letters, digits, '.', '_' and '-', with a letter or digit first, at most %d.", cellproto.MaxStateName)
	}
	return nil
}

// writeFile replaces a file by the body. While it is written the old one is there, and takes its room.
func (s *Store) writeFile(ctx context.Context, a *cellproto.StateArgs, in *cellproto.Inbound) error {
	if err := checkName(a.Name); err != nil {
		return err
	}
	if err := s.pay(ctx, block); err != nil {
		return err
	}
	if err := s.files.write(a.Name, paid{in.Body(), s, ctx}); err != nil {
		return err
	}
	return reply(in, &cellproto.StateReply{})
}

func (f *files) write(name string, body io.Reader) error {
	root, err := f.enter(name)
	if err != nil {
		return err
	}
	w := &fileWriter{f: f}
	defer func() {
		f.mu.Lock()
		f.making--
		f.mu.Unlock()
		f.release(w.reserved)
	}()
	w.file, err = renameio.NewPendingFile(name, renameio.WithRoot(root), renameio.WithStaticPermissions(fileMode))
	if err != nil {
		return diskError(err)
	}
	defer w.file.Cleanup() // of nothing, once it has its name
	if _, err := io.Copy(w, struct{ io.Reader }{body}); err != nil {
		return diskError(err)
	}
	if err := w.grow(0); err != nil { // also an empty one takes room
		return err
	}
	return f.finish(root, name, w)
}

// finish gives a file that was written its name.
func (f *files) finish(root *os.Root, name string, w *fileWriter) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := w.file.CloseAtomicallyReplace(); err != nil { // which syncs it
		return diskError(err)
	}
	if old, known := f.sizes[name]; known {
		f.taken -= onDisk(old)
	}
	f.sizes[name] = w.size
	w.reserved -= onDisk(w.size) // it stays taken
	return syncDir(root)
}

// syncDir has the names in a directory survive a loss of power.
func syncDir(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return diskError(err)
	}
	defer dir.Close()
	return diskError(dir.Sync())
}

// fileWriter reserves room on the disk for what it writes.
type fileWriter struct {
	f        *files
	file     *renameio.PendingFile
	size     int64
	reserved int64
}

func (w *fileWriter) grow(n int) error {
	if need := onDisk(w.size+int64(n)) - w.reserved; need > 0 {
		if err := w.f.reserve(need); err != nil {
			return err
		}
		w.reserved += need
	}
	return nil
}

func (w *fileWriter) Write(b []byte) (int, error) {
	if err := w.grow(len(b)); err != nil {
		return 0, err
	}
	n, err := w.file.Write(b)
	w.size += int64(n)
	return n, err
}

// readFile replies with a file, or a part of it. One that is replaced meanwhile is read to its end.
func (s *Store) readFile(ctx context.Context, a *cellproto.StateArgs, in *cellproto.Inbound) error {
	if err := checkName(a.Name); err != nil {
		return err
	}
	s.files.mu.Lock()
	root, err := s.files.open()
	s.files.mu.Unlock()
	if err != nil {
		return err
	}
	file, err := root.OpenFile(a.Name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return noFile(a.Name)
	}
	if err != nil {
		return diskError(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return noFile(a.Name)
	}
	if _, err := file.Seek(a.Offset, io.SeekStart); err != nil {
		return diskError(err)
	}
	var r io.Reader = file
	if a.Length > 0 {
		r = io.LimitReader(file, a.Length)
	}
	_ = in.ReplyBody(cellproto.Header{}, paid{r, s, ctx}) // the program reads how it ends
	return nil
}

func noFile(name string) error {
	return cellproto.Errorf("", cellproto.NotFound, "there is no file %q", name)
}

func (s *Store) removeFile(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	if err := checkName(a.Name); err != nil {
		return nil, err
	}
	if err := s.pay(ctx, block); err != nil {
		return nil, err
	}
	f := &s.files
	f.mu.Lock()
	defer f.mu.Unlock()
	root, err := f.open()
	if err != nil {
		return nil, err
	}
	size, known := f.sizes[a.Name]
	if !known {
		return &cellproto.StateReply{}, nil
	}
	if err := root.Remove(a.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, diskError(err)
	}
	delete(f.sizes, a.Name)
	f.taken -= onDisk(size)
	return &cellproto.StateReply{Removed: true}, syncDir(root)
}

func (s *Store) listFiles(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	f := &s.files
	f.mu.Lock()
	root, err := f.open()
	var names []string
	for name := range f.sizes {
		if err == nil && bytes.Compare([]byte(name), a.After) > 0 && strings.HasPrefix(name, string(a.Prefix)) {
			names = append(names, name)
		}
	}
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	r := &cellproto.StateReply{}
	size, most := 0, pageLimit(a)
	for _, name := range names {
		if size += len(name) + 20; len(r.Files) == most || size > pageBytes {
			r.More = true
			break
		}
		info, err := root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue // it is being removed
		}
		r.Files = append(r.Files, cellproto.StateFile{Name: name, Size: info.Size(), Modified: info.ModTime().Truncate(time.Millisecond).UnixMilli()})
	}
	return r, s.pay(ctx, size)
}
