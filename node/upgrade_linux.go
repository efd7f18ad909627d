package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

const canHandOver = true

// descriptor is what has a descriptor: a file, a connection, a listener.
type descriptor interface{ syscall.Conn }

// descriptorOf gives the number of c's descriptor, which c goes on owning.
func descriptorOf(c descriptor) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	err = raw.Control(func(of uintptr) { fd = int(of) })
	return fd, err
}

// inode tells files apart.
func inode(info os.FileInfo) (device, inode uint64) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Dev), stat.Ino
	}
	return 0, 0
}

// reloading is what systemd is told: the process goes on, and says again when it is ready.
func reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it never fails
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}

// open gets what may be wanting later, when there is no way back.
func (d *departure) open() (err error) {
	if d.self, err = os.Open("/proc/self/exe"); err != nil {
		return err
	}
	memory, err := unix.MemfdCreate("celld-handover", unix.MFD_CLOEXEC)
	if err != nil {
		d.self.Close()
		return os.NewSyscallError("memfd_create", err)
	}
	d.paper = os.NewFile(uintptr(memory), "handover")
	return nil
}

// depart has the process execute the other celld. If that cannot be executed, it executes this one again,
// which goes on with the same state. It returns only if both fail.
func (d *departure) depart(log *zap.Logger) error {
	err := d.become(d.next.path)
	log.Error("the other celld cannot be executed", zap.String("file", d.next.path), zap.Error(err))
	d.state.Failed = fmt.Sprintf("%s cannot be executed: %v", d.next.path, err)
	return errors.Join(err, d.become(d.ownPath()))
}

// ownPath leads to this celld's own file: by its name, which processes are listed by, unless that was
// replaced.
func (d *departure) ownPath() string {
	path, err := os.Executable()
	if err == nil {
		now, err := os.Stat(path)
		was, serr := d.self.Stat()
		if err == nil && serr == nil && os.SameFile(now, was) {
			return path
		}
	}
	fd, err := descriptorOf(d.self)
	if err != nil {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

// become executes path with the state, and returns only if it cannot.
func (d *departure) become(path string) error {
	state, err := d.state.marshal()
	if err != nil {
		return err
	}
	memory, err := descriptorOf(d.paper)
	if err == nil {
		err = d.paper.Truncate(0)
	}
	if err == nil {
		_, err = d.paper.WriteAt(state, 0)
	}
	if err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, envHandover+"=") })
	env = append(env, fmt.Sprintf("%s=%d", envHandover, memory))
	all := append(d.state.files(), memory)
	syscall.ForkLock.Lock() // nobody else inherits them
	defer syscall.ForkLock.Unlock()
	defer inherit(all, false)
	if err := inherit(all, true); err != nil {
		return err
	}
	return os.NewSyscallError("execve", syscall.Exec(path, os.Args, env))
}

// inherit says whether a program that is executed gets the descriptors.
func inherit(fds []int, yes bool) error {
	flag := unix.FD_CLOEXEC
	if yes {
		flag = 0
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return cellproto.Errorf("hand over", cellproto.Corrupt, "descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// Inherited is a nucleus that another celld, in this very process, has handed over.
type Inherited struct{ h *handover }

// Inherit gives the nucleus that was handed over to this process, nil if none was. It must be called
// before anything is executed.
func Inherit() (*Inherited, error) {
	text, ok := os.LookupEnv(envHandover)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(envHandover)
	const op = "take over"
	fd, err := strconv.Atoi(text)
	if err != nil || fd <= 2 {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%s is %.80q", envHandover, text)
	}
	f := os.NewFile(uintptr(fd), "handover")
	if f == nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%s is %.80q", envHandover, text)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	if info.Size() > maxHandover {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", info.Size(), maxHandover)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	h, err := parseHandover(data)
	if err != nil {
		return nil, err
	}
	if err := inherit(h.files(), false); err != nil {
		return nil, err
	}
	return &Inherited{h}, nil
}

// reap waits for the children that the celld before has started, but for the program, which has somebody
// who waits: other cells' nuclei, which live for themselves. It must be called before any is started.
func (i *Inherited) reap(program int) {
	if i == nil {
		return
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is good
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(word)
			if err != nil || pid == program {
				continue
			}
			if p, err := os.FindProcess(pid); err == nil {
				go p.Wait() // it may outlive this process
			}
		}
	}
}

// Stderr says whether the celld before wrote its log to standard error too.
func (i *Inherited) Stderr() bool { return i != nil && i.h.Stderr }

// acquire takes run/lock, or goes on with the lock that was handed over.
func (i *Inherited) acquire(ctx context.Context, dir string) (*runLock, error) {
	if i == nil {
		return acquire(ctx, dir)
	}
	if i.h.Dir != dir {
		return nil, cellproto.Errorf("take over "+dir, cellproto.BadInput, "it is the nucleus of %s", i.h.Dir)
	}
	f := os.NewFile(uintptr(i.h.Lock), filepath.Join(dir, ctl.RunDir, "lock"))
	l := &runLock{file: f, dir: dir}
	// It is held already, by this very open file; and if it is not, it is taken.
	err := l.control(func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
	if err != nil {
		f.Close()
		return nil, cellproto.Errorf("take over "+dir, cellproto.KindOf(err), "the lock: %w", err)
	}
	return l, nil
}

// listener gives a listening socket that was handed over; nil if there is none.
func (i *Inherited) listener(which ctl.Socket) (*net.UnixListener, error) {
	if i == nil {
		return nil, nil
	}
	fd := i.h.Cell
	if which == ctl.ControlSocket {
		fd = i.h.Control
	}
	f := os.NewFile(uintptr(fd), string(which))
	defer f.Close()
	l, err := net.FileListener(f) // duplicates it
	if err != nil {
		return nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, cellproto.Errorf("take over", cellproto.Corrupt, "%s is no Unix socket", which)
	}
	ul.SetUnlinkOnClose(false)
	return ul, nil
}

// conn gives the connection of a caller.
func (i *Inherited) conn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "caller")
	defer f.Close()
	c, err := net.FileConn(f) // duplicates it
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, cellproto.Errorf("take over", cellproto.Corrupt, "a caller is not on a Unix socket")
	}
	return uc, nil
}

// program gives the program's state and files; nil if none was handed over.
func (i *Inherited) program() (state []byte, files []*os.File) {
	if i == nil || i.h.Program == nil {
		return nil, nil
	}
	for _, fd := range i.h.ProgramFiles {
		files = append(files, os.NewFile(uintptr(fd), "program"))
	}
	return i.h.Program, files
}
