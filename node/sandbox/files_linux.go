package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// fileSet holds the copies' descriptors, in this process until they have been forked.
type fileSet struct {
	base int
	open []int
}

// ownerEnds are the ends of the channels that stay here.
type ownerEnds struct {
	gate, setup, status, life *os.File
	ruleset                   *os.File // of Landlock, or nil
}

func (o ownerEnds) close() {
	for _, f := range []*os.File{o.gate, o.setup, o.status, o.life, o.ruleset} {
		if f != nil {
			f.Close()
		}
	}
}

// prepare makes the channels and moves everything that is inherited out of the way of the places it
// shall have.
func (s *fileSet) prepare(p *plan, std [3]*os.File, kept map[int]*os.File, g *group) (*descriptors, ownerEnds, error) {
	s.base = 10
	for target := range kept {
		s.base = max(s.base, target+1)
	}
	d := &descriptors{base: s.base, kept: map[int]int{}, group: -1, late: g.noClone3, ruleset: -1}
	fail := func(err error) (*descriptors, ownerEnds, error) { return nil, ownerEnds{}, err }
	var err error
	for i, f := range std {
		if d.std[i], err = s.dup(f); err != nil {
			return fail(err)
		}
	}
	for target, f := range kept {
		if err := checkInherited(f); err != nil {
			return fail(fmt.Errorf("descriptor %d cannot be inherited: %w", target, err))
		}
		if d.kept[target], err = s.dup(f); err != nil {
			return fail(err)
		}
	}
	for _, f := range g.join {
		fd, err := s.dup(f)
		if err != nil {
			return fail(err)
		}
		d.join = append(d.join, fd)
	}
	if g.enter != nil {
		if d.group, err = s.dup(g.enter); err != nil {
			return fail(err)
		}
	}
	var set *os.File
	if p.Landlock != nil {
		if set, err = openRuleset(p.Landlock); err != nil {
			return fail(err)
		}
		if d.ruleset, err = s.dup(set); err != nil {
			set.Close()
			return fail(err)
		}
	}
	ours, err := s.channels(d)
	if err != nil && set != nil {
		set.Close()
		set = nil
	}
	ours.ruleset = set
	return d, ours, err
}

// channels makes the pipes and the socket pair between the owner and the copies.
func (s *fileSet) channels(d *descriptors) (ours ownerEnds, err error) {
	var made []*os.File
	defer func() {
		if err != nil {
			for _, f := range made {
				f.Close()
			}
		}
	}()
	pipe := func(theirs *int, read bool) *os.File {
		mine, their, pipeErr := halfPipe(read)
		if pipeErr != nil {
			err = pipeErr
			return nil
		}
		defer their.Close()
		made = append(made, mine)
		if fd, dupErr := s.dup(their); dupErr != nil {
			err = dupErr
		} else {
			*theirs = fd
		}
		return mine
	}
	ours.gate, ours.life, ours.status = pipe(&d.gate, true), pipe(&d.life, true), pipe(&d.status, false)
	if err != nil {
		return ours, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ours, os.NewSyscallError("socketpair", err)
	}
	ours.setup = os.NewFile(uintptr(pair[0]), "setup")
	made = append(made, ours.setup)
	their := os.NewFile(uintptr(pair[1]), "setup, inherited")
	defer their.Close()
	// The kernel says who sent a message: that is how the program's number becomes known here.
	if err = unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return ours, os.NewSyscallError("setsockopt", err)
	}
	wait := unix.NsecToTimeval(setupTimeout.Nanoseconds())
	if err = unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return ours, os.NewSyscallError("setsockopt", err)
	}
	d.setup, err = s.dup(their)
	return ours, err
}

// dup gives a copy of f's descriptor, at or above base.
func (s *fileSet) dup(f *os.File) (fd int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	if ctlErr := conn.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, s.base)
	}); ctlErr != nil {
		return -1, ctlErr
	}
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	s.open = append(s.open, fd)
	return fd, nil
}

func (s *fileSet) close() {
	for _, fd := range s.open {
		unix.Close(fd)
	}
	s.open = nil
}

// halfPipe makes a pipe whose other end is for somebody else, who reads it if read is set: his end
// blocks, as everybody expects of a descriptor that he inherits, and this one can be waited for.
func halfPipe(read bool) (mine, their *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	m, t := fds[0], fds[1]
	if read {
		m, t = t, m
	}
	if err := unix.SetNonblock(m, true); err != nil {
		unix.Close(m)
		unix.Close(t)
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(m), "pipe"), os.NewFile(uintptr(t), "pipe, inherited"), nil
}
