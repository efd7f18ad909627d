//go:build linux && (386 || arm)

package sandbox

import "golang.org/x/sys/unix"

// The calls that take ids of 32 bits; those without the ending take 16.
const (
	sysSetGroups = unix.SYS_SETGROUPS32
	sysSetResGID = unix.SYS_SETRESGID32
	sysSetResUID = unix.SYS_SETRESUID32
	sysSetFSGID  = unix.SYS_SETFSGID32
	sysSetFSUID  = unix.SYS_SETFSUID32
)
