//go:build linux && !386 && !arm

package sandbox

import "golang.org/x/sys/unix"

// The calls that take ids of 32 bits.
const (
	sysSetGroups = unix.SYS_SETGROUPS
	sysSetResGID = unix.SYS_SETRESGID
	sysSetResUID = unix.SYS_SETRESUID
	sysSetFSGID  = unix.SYS_SETFSGID
	sysSetFSUID  = unix.SYS_SETFSUID
)
