//go:build unix && !linux

package program

import (
	"io"
	"os"
	"syscall"
)

// collect waits for the process, reaps it, and kills what is left of its group. Between the two the
// number could be given to somebody else; it is not, as long as numbers are given in a circle.
func (p *process) collect() error {
	err := p.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	p.reaped = true
	return err
}

// socketPair gives two connected sockets, one for this process and one to be inherited.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs = pairFiles(fds)
	return ours, theirs, nil
}

// outputPipe gives a pipe for what a process prints.
func outputPipe() (r, w *os.File, err error) { return os.Pipe() }

// null gives nil: os/exec opens the null device.
func null() io.Reader { return nil }

// unread is not known here.
func unread(*os.File) (n int64, ok bool) { return 0, false }
