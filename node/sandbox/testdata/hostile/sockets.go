package main

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

var socketAttacks = []attack{
	{"connect by TCP", func(t target) error {
		return connects(unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Port: t.num("tcp"), Addr: [4]byte{127, 0, 0, 1}})
	}},
	{"send by UDP", func(t target) error {
		return sends(unix.AF_INET, &unix.SockaddrInet4{Port: t.num("udp"), Addr: [4]byte{127, 0, 0, 1}})
	}},
	{"listen by TCP", func(target) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	}},
	{"make an IPv6 socket", socket(unix.AF_INET6, unix.SOCK_STREAM, 0)},
	{"make an SCTP socket", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)},
	{"make an MPTCP socket", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)},
	{"make a raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{"make a packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{"make a netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
	{"make an audit socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)},
	{"make a vsock socket", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
	{"make a crypto socket", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	{"make a key socket", socket(unix.AF_KEY, unix.SOCK_RAW, 2)},
	{"make an XDP socket", socket(unix.AF_XDP, unix.SOCK_RAW, 0)},
	{"make a Bluetooth socket", socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1)},
	{"make a CAN socket", socket(unix.AF_CAN, unix.SOCK_RAW, 1)},
	{"make a TIPC socket", socket(unix.AF_TIPC, unix.SOCK_STREAM, 0)},
	{"make an RDS socket", socket(unix.AF_RDS, unix.SOCK_SEQPACKET, 0)},
	{"connect to a Unix socket by its path", func(t target) error {
		return connects(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: t["unix"]})
	}},
	{"connect to an abstract Unix socket", func(t target) error {
		return connects(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@" + t["abstract"]})
	}},
	{"send to a Unix socket by its path", func(t target) error {
		return sends(unix.AF_UNIX, &unix.SockaddrUnix{Name: t["unixgram"]})
	}},
	{"send from one of a pair to another's path", func(t target) error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		return unix.Sendto(fds[0], []byte("x"), 0, &unix.SockaddrUnix{Name: t["unixgram"]})
	}},
	{"send from what it inherits to another's path", func(t target) error {
		err := unix.Sendto(t.num("fd"), []byte("x"), 0, &unix.SockaddrUnix{Name: t["unixgram"]})
		if err == unix.EISCONN || err == unix.EOPNOTSUPP {
			return cannot("a stream has no addresses: " + err.Error())
		}
		return err
	}},
	{"send a descriptor through what it inherits", func(t target) error {
		var p [2]int
		if err := unix.Pipe(p[:]); err != nil {
			return err
		}
		return unix.Sendmsg(t.num("fd"), []byte("x"), unix.UnixRights(p[0]), nil, 0)
	}},
	{"connect what it inherits elsewhere", func(t target) error {
		err := unix.Connect(t.num("fd"), &unix.SockaddrUnix{Name: t["unix"]})
		return passes(err, unix.EISCONN, unix.EINVAL)
	}},
	{"set options of what it inherits", func(t target) error {
		return unix.SetsockoptInt(t.num("fd"), unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	}},
	{"bind a Unix socket", func(t target) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrUnix{Name: t["dir"] + "/bound"})
	}},
	{"connect with io_uring", ring},
	{"push characters into the terminal", func(target) error {
		c := byte('x')
		err := call(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		if err == unix.EIO {
			return cannot("the kernel refuses it to everybody")
		}
		return err
	}},
	{"select in the console", func(target) error {
		arg := [16]byte{6} // TIOCL_GETSHIFTSTATE, which changes nothing
		return call(unix.SYS_IOCTL, 0, unix.TIOCLINUX, uintptr(unsafe.Pointer(&arg)))
	}},
	{"change the terminal", func(target) error {
		termios, err := unix.IoctlGetTermios(0, unix.TCGETS)
		if err != nil {
			return err
		}
		return unix.IoctlSetTermios(0, unix.TCSETS, termios)
	}},
	{"open a terminal", func(target) error { return opens("/dev/ptmx", 2) }},
}

func socket(family, kind, proto int) func(target) error {
	return func(target) error {
		fd, err := unix.Socket(family, kind, proto)
		if err != nil {
			if err == unix.ESOCKTNOSUPPORT || err == unix.EPROTOTYPE {
				return cannot(err.Error())
			}
			return needRoot(missing(err))
		}
		return unix.Close(fd)
	}
}

func connects(family, kind int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, to)
}

func sends(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("x"), 0, to)
}

// ring makes an io_uring, through which sockets can be made that no filter sees.
func ring(target) error {
	var params [120]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return missing(errno)
	}
	return unix.Close(int(fd))
}

var ipcAttacks = []attack{
	{"attach shared memory", func(t target) error {
		mem, err := unix.SysvShmAttach(t.num("shm"), 0, 0)
		if err != nil {
			return missing(err)
		}
		if string(mem[:6]) != "secret" {
			return errors.New("it does not hold it")
		}
		return nil
	}},
	{"make shared memory", func(target) error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
		if err != nil {
			return missing(err)
		}
		_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		return err
	}},
	{"make a semaphore", func(target) error {
		id, _, errno := unix.Syscall(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, unix.IPC_CREAT|0o600)
		if errno != 0 {
			return missing(errno)
		}
		return call(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID, 0)
	}},
	{"make a message queue", func(target) error {
		id, _, errno := unix.Syscall(unix.SYS_MSGGET, unix.IPC_PRIVATE, unix.IPC_CREAT|0o600, 0)
		if errno != 0 {
			return missing(errno)
		}
		return call(unix.SYS_MSGCTL, id, unix.IPC_RMID, 0)
	}},
	{"open a POSIX message queue", func(t target) error {
		name := append([]byte(fmt.Sprintf("hostile-%s", t["victim"])), 0)
		at := uintptr(unsafe.Pointer(&name[0]))
		fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, at, unix.O_RDWR|unix.O_CREAT, 0o600, 0, 0, 0)
		if errno != 0 {
			return missing(errno)
		}
		_ = unix.Close(int(fd))
		return call(unix.SYS_MQ_UNLINK, at)
	}},
	{"make a file in /dev/shm", func(target) error {
		const name = "/dev/shm/hostile-test"
		if err := writes(name, unix.O_CREAT|unix.O_WRONLY); err != nil {
			return err
		}
		return unix.Unlink(name)
	}},
	{"add a key", func(target) error {
		id, err := unix.KeyctlJoinSessionKeyring("hostile")
		if err != nil {
			return missing(err)
		}
		_, err = unix.AddKey("user", "hostile", []byte("x"), id)
		return err
	}},
	{"read the user's keys", func(target) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true)
		return missing(err)
	}},
	{"ask for a key", func(target) error {
		_, err := unix.RequestKey("user", "hostile", "", unix.KEY_SPEC_PROCESS_KEYRING)
		return passes(err, unix.ENOKEY, unix.ENOENT) // no key, or no program that would make one
	}},
}
