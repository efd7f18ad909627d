package ctl

import (
	"net"
	"syscall"
	"unsafe"
)

// From Darwin's sys/un.h and sys/ucred.h.
const (
	solLocal      = 0
	localPeerCred = 1
	localPeerPID  = 2
	xucredVersion = 0
)

type xucred struct {
	version uint32
	uid     uint32
	ngroups int16
	groups  [16]uint32
}

// PeerUID gives the user and the process at the other end of a Unix socket, as they were when it
// was connected. ok is false if the system does not say.
func PeerUID(conn *net.UnixConn) (uid, pid int, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	var cred xucred
	var peer int32
	err = raw.Control(func(fd uintptr) {
		ok = getsockopt(fd, localPeerCred, unsafe.Pointer(&cred), unsafe.Sizeof(cred)) &&
			getsockopt(fd, localPeerPID, unsafe.Pointer(&peer), unsafe.Sizeof(peer))
	})
	if err != nil || !ok || cred.version != xucredVersion {
		return 0, 0, false
	}
	return int(cred.uid), int(peer), true
}

func getsockopt(fd uintptr, option uintptr, value unsafe.Pointer, size uintptr) bool {
	length := uint32(size)
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, solLocal, option,
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	return errno == 0 && length <= uint32(size)
}
