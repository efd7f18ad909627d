package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkInherited says why a program must not inherit f, or nil. What it inherits is a way out that no
// filter sees: a directory leads to files, a datagram socket to whoever has an address, a terminal to
// its owner's shell, a file that can be written to the owner's disk.
func checkInherited(f *os.File) error {
	conn, err := f.SyscallConn() // not Fd, which would make the descriptor a blocking one
	if err != nil {
		return err
	}
	if ctlErr := conn.Control(func(fd uintptr) { err = checkDescriptor(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

func checkDescriptor(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if flags&unix.O_PATH != 0 {
		return fmt.Errorf("it only names a file")
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return checkSocket(fd)
	case unix.S_IFIFO:
		return nil
	case unix.S_IFCHR:
		if isNull(&st) {
			return nil
		}
		return fmt.Errorf("it is a device or a terminal")
	case unix.S_IFREG:
		if flags&unix.O_ACCMODE != unix.O_RDONLY {
			return fmt.Errorf("it is a file that can be written")
		}
		return nil
	}
	return fmt.Errorf("it is neither a pipe nor a Unix socket nor a file to read")
}

func isNull(st *unix.Stat_t) bool {
	return unix.Major(uint64(st.Rdev)) == 1 && unix.Minor(uint64(st.Rdev)) == 3
}

func checkSocket(fd int) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || family != unix.AF_UNIX {
		return fmt.Errorf("it is a socket of family %d, not a Unix socket", family)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM && kind != unix.SOCK_SEQPACKET {
		return fmt.Errorf("it is a socket that can send to any address")
	}
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens != 0 {
		return fmt.Errorf("it is a socket that listens")
	}
	return nil
}

// needsPipe says whether what the program prints to f has to pass through a pipe: f is a terminal, a
// file, or anything else that it must not hold.
func needsPipe(f *os.File) bool { return checkInherited(f) != nil }
