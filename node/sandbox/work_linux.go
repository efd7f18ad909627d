package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// work is where a build works: a file system in memory, of its namespace, that this process holds.
type work struct {
	mount *os.File
	root  *os.Root
}

func openWork(fd int) (*work, error) {
	w := &work{mount: os.NewFile(uintptr(fd), "work")}
	var err error
	if w.root, err = os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd)); err != nil {
		w.mount.Close()
		return nil, err
	}
	return w, nil
}

// close lets the file system go, with all that is in it, once its namespace has.
func (w *work) close() {
	w.root.Close()
	w.mount.Close()
}

// secrets are what of a cell's directory no build gets.
var secrets = []string{"keys", "run", "data"}

// fill copies what is in dir, as files of the user uid: the file system knows no other. What is neither
// a file nor a directory nor a link is left out.
func (w *work) fill(dir string, cellDir bool, uid int) error {
	source, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer source.Close()
	as, done := asUser(uid)
	defer done()
	err = fs.WalkDir(source.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || p == ".":
			return err
		case cellDir && isOneOf(p, secrets):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return as(func() error { return w.root.Mkdir(p, 0o755) })
		case d.Type() == fs.ModeSymlink:
			target, err := source.Readlink(p)
			if err != nil {
				return err
			}
			return as(func() error { return w.root.Symlink(target, p) })
		case d.Type().IsRegular():
			return w.copyIn(source, p, as)
		}
		return nil
	})
	if err == nil {
		err = as(func() error { return w.root.MkdirAll(workTemp, 0o700) })
	}
	if errors.Is(err, unix.ENOSPC) {
		return cellproto.Errorf("copy "+dir, cellproto.TooLarge, "%w", err).WithHint("It has to fit in what a build may write (--disk, --inodes).")
	}
	return err
}

func isOneOf(s string, list []string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}

func (w *work) copyIn(source *os.Root, p string, as func(func() error) error) error {
	from, err := source.Open(p)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	var to *os.File
	if err := as(func() (err error) {
		to, err = w.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, plainMode(info))
		return err
	}); err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Chmod(plainMode(info)), to.Close())
}

// plainMode is what is kept of a mode: whether it is a program.
func plainMode(info fs.FileInfo) fs.FileMode {
	if info.Mode()&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

// asUser gives a function that makes files as a user of this machine, if this process is root: a file
// system of a namespace takes only files of users that the namespace knows. The thread that does it is
// used for nothing else. done ends it.
func asUser(uid int) (as func(func() error) error, done func()) {
	if os.Geteuid() != 0 {
		return func(f func() error) error { return f() }, func() {}
	}
	jobs, results := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock it: the thread ends with the goroutine
		_, _, _ = unix.RawSyscall(sysSetFSGID, uintptr(uid), 0, 0)
		_, _, _ = unix.RawSyscall(sysSetFSUID, uintptr(uid), 0, 0) // they cannot fail visibly; a file that is not his is refused
		for job := range jobs {
			results <- job()
		}
		close(results)
	}()
	return func(f func() error) error { jobs <- f; return <-results }, func() { close(jobs); <-results }
}

// take copies outputs back to dir, as this process's files. All that is there is a stranger's work: a
// link is no output, and none leads out of either tree.
func (w *work) take(dir string, outputs []string, limit int64) error {
	to, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	for _, p := range outputs {
		p = path.Clean(p)
		if err := w.takeFile(to, p, &limit); err != nil {
			return cellproto.Errorf("take "+p, cellproto.BadInput, "%w", err).WithHint("The build has to leave it as a regular file.")
		}
	}
	return nil
}

func (w *work) takeFile(to *os.Root, p string, limit *int64) error {
	if info, err := w.root.Lstat(p); err != nil || !info.Mode().IsRegular() {
		return firstError(err, fmt.Errorf("it is not a regular file"))
	}
	from, err := w.root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return firstError(err, fmt.Errorf("it is not a regular file"))
	}
	if info.Size() > *limit { // a file with holes may say so
		return fmt.Errorf("%d bytes are more than may be written", info.Size())
	}
	*limit -= info.Size()
	if err := to.MkdirAll(path.Dir(p), 0o755); err != nil {
		return err
	}
	temp := path.Join(path.Dir(p), fmt.Sprintf(".cellbox-%d", os.Getpid()))
	file, err := to.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.LimitReader(from, info.Size()))
	if err = firstError(err, file.Chmod(plainMode(info)), file.Sync()); err == nil {
		err = to.Rename(temp, p)
	}
	if err = firstError(err, file.Close()); err != nil {
		_ = to.Remove(temp)
	}
	return err
}
