package program

import (
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From Linux's wait.h and ioctls.h.
const (
	waitPID    = 1 // P_PID
	waitExited = 4 // WEXITED
	waitNoReap = 0x01000000
	fionread   = syscall.TIOCINQ
)

// collect waits for the process, kills what is left of its group, and reaps it, in this order: until
// it is reaped its number cannot be given to anybody else, so that only its own group is hit.
func (p *process) collect() error {
	awaitEnd(p.pid)
	var info [128]byte // siginfo_t
	var errno syscall.Errno
	for {
		_, _, errno = syscall.Syscall6(syscall.SYS_WAITID, waitPID, uintptr(p.pid),
			uintptr(unsafe.Pointer(&info)), waitExited|waitNoReap, 0, 0)
		if errno != syscall.EINTR {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if errno == 0 && !p.reaped {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // the group has at least the process itself
	}
	p.reaped = true
	return p.wait()
}

// awaitEnd waits for the end of a child that has not been reaped, where the system has descriptors of processes: else collect does.
// A thread in waitid(2) is woken each time that the child is stopped or goes on, just when that is to be quick.
func awaitEnd(pid int) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "process")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // in vain: waitid(2) waits
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// socketPair gives two connected sockets, one for this process and one to be inherited.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs = pairFiles(fds)
	return ours, theirs, nil
}

// outputPipe gives a pipe for what a process prints. The end that it inherits blocks: the runtime's poller would have to be told
// of it, which wakes a thread just before the process starts, and then be told to forget it.
func outputPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	_ = syscall.SetNonblock(fds[0], true) // else a read occupies a thread
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(fds[1]), "output, inherited"), nil
}

// null gives the null device, opened once: os/exec would open it for each process, and offer it to the poller, in vain. It is
// nil if there is none.
var null = sync.OnceValue(func() io.Reader {
	fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), os.DevNull)
})

// unread gives how many bytes wait in the pipe that w writes to. ok is false if that is not known.
func unread(w *os.File) (n int64, ok bool) {
	raw, err := w.SyscallConn()
	if err != nil {
		return 0, false
	}
	var waiting int32
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, fionread, uintptr(unsafe.Pointer(&waiting)))
	})
	return int64(waiting), err == nil && errno == 0
}
