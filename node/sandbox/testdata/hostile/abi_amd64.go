package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// int80 makes a system call as a program of 32 bits does, whose numbers mean other calls.
func int80(nr, a, b, c uint32) int32

var abiAttacks = []attack{
	{"make a socket by the 32-bit interface", func(target) error {
		if r := int80(359, unix.AF_INET, unix.SOCK_DGRAM, 0); r < 0 {
			return missing(syscall.Errno(-r))
		}
		return nil
	}},
	{"make a socket by the x32 interface", func(target) error {
		return missing(call(0x40000000|unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0))
	}},
	{"reach the ports of the machine", func(target) error { return needRoot(missing(call(unix.SYS_IOPL, 3))) }},
	{"reach one port of the machine", func(target) error { return needRoot(missing(call(unix.SYS_IOPERM, 0x80, 1, 1))) }},
	{"change the segment table", func(target) error {
		var buf [16]byte
		return missing(call(unix.SYS_MODIFY_LDT, 0, uintptr(unsafe.Pointer(&buf)), 16))
	}},
	{"fork the old way", func(target) error {
		pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
		return reapChild(pid, errno)
	}},
	{"make a file the old way", func(t target) error {
		name := append([]byte(t["dir"]+"/old"), 0)
		return call(unix.SYS_CREAT, uintptr(unsafe.Pointer(&name[0])), 0o600)
	}},
}
