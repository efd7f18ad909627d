package ctl

import (
	"net"
	"syscall"
)

// PeerUID gives the user and the process at the other end of a Unix socket, as they were when it
// was connected. ok is false if the system does not say.
func PeerUID(conn *net.UnixConn) (uid, pid int, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	var cred *syscall.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if cerr != nil || err != nil {
		return 0, 0, false
	}
	return int(cred.Uid), int(cred.Pid), true
}
