package main

import (
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var spaceAttacks = []attack{
	{"unshare a user namespace", func(target) error {
		// The kernel refuses it to a process with threads, after the filter.
		return passes(unix.Unshare(unix.CLONE_NEWUSER|unix.CLONE_FS), unix.EINVAL)
	}},
	{"unshare the network", func(target) error { return needRoot(unix.Unshare(unix.CLONE_NEWNET)) }},
	{"unshare the mounts", func(target) error { return needRoot(unix.Unshare(unix.CLONE_NEWNS)) }},
	{"unshare the filesystem", func(target) error { return unix.Unshare(unix.CLONE_FS) }},
	{"clone into a user namespace", func(target) error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		return reapChild(pid, errno)
	}},
	{"clone3 into a user namespace", func(target) error {
		args := [11]uint64{0: unix.CLONE_NEWUSER, 4: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		return reapChild(pid, errno)
	}},
	{"a thread in a network namespace", func(target) error {
		// Not a thread that would run: the kernel refuses these flags together, after the filter.
		err := call(unix.SYS_CLONE, unix.CLONE_THREAD|unix.CLONE_NEWUSER, 0, 0, 0, 0)
		return passes(err, unix.EINVAL)
	}},
	{"enter another's namespace", func(t target) error {
		fd, err := unix.Open("/proc/"+t["victim"]+"/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return needRoot(unix.Setns(fd, unix.CLONE_NEWNET))
	}},
	{"mount", func(t target) error {
		err := unix.Mount("none", t["dir"], "tmpfs", 0, "size=4k")
		if err == nil {
			return unix.Unmount(t["dir"], unix.MNT_DETACH)
		}
		return needRoot(err)
	}},
	{"mount the new way", func(target) error {
		fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return needRoot(missing(err))
		}
		return unix.Close(fd)
	}},
	{"copy a tree", func(target) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
		if err != nil {
			return needRoot(missing(err))
		}
		return unix.Close(int(fd))
	}},
	{"make a mount writable", func(t target) error {
		err := unix.MountSetattr(unix.AT_FDCWD, filepath.Join(t["own"], "bin"), 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		return needRoot(passes(err, unix.EINVAL)) // it is no mount: that is seen after the rights
	}},
	{"unmount", func(t target) error { return needRoot(passes(unix.Unmount(t["dir"], 0), unix.EINVAL)) }},
	{"pivot_root", func(t target) error {
		return needRoot(passes(unix.PivotRoot(t["dir"], t["dir"]), unix.EINVAL, unix.EBUSY))
	}},
	{"chroot", func(target) error { return needRoot(unix.Chroot("/")) }},
	{"escape from a chroot", func(t target) error {
		_ = unix.Mkdir("hostile-jail", 0o755)
		defer unix.Rmdir("hostile-jail")
		dir, err := unix.Open(".", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if err := unix.Chroot("hostile-jail"); err != nil {
			return needRoot(err)
		}
		if err := unix.Fchdir(dir); err != nil {
			return err
		}
		for range 30 {
			_ = unix.Chdir("..")
		}
		_ = unix.Chroot(".")
		return statHas(t["secret"])
	}},
}

var kernelAttacks = []attack{
	{"load a BPF program", func(target) error {
		var attr [128]byte
		*(*uint32)(unsafe.Pointer(&attr[0])) = 2 // an array
		*(*uint32)(unsafe.Pointer(&attr[4])) = 4
		*(*uint32)(unsafe.Pointer(&attr[8])) = 4
		*(*uint32)(unsafe.Pointer(&attr[12])) = 1
		return needRoot(missing(call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))))
	}},
	{"watch performance counters", func(target) error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
		attr.Size = uint32(unsafe.Sizeof(attr))
		fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		if err != nil {
			return needRoot(missing(err))
		}
		return unix.Close(fd)
	}},
	{"handle page faults", func(target) error {
		fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 1, 0, 0) // user mode only
		if errno != 0 {
			return needRoot(missing(errno))
		}
		return unix.Close(int(fd))
	}},
	{"make a file in memory", func(target) error {
		fd, err := unix.MemfdCreate("hostile", 0)
		if err != nil {
			return missing(err)
		}
		return unix.Close(fd)
	}},
	{"make secret memory", func(target) error {
		fd, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, 0, 0, 0)
		if errno != 0 {
			return missing(errno)
		}
		return unix.Close(int(fd))
	}},
	{"run a nameless program", func(target) error {
		empty := [1]byte{}
		err := call(unix.SYS_EXECVEAT, ^uintptr(0), uintptr(unsafe.Pointer(&empty)), 0, 0, unix.AT_EMPTY_PATH)
		return passes(err, unix.EBADF)
	}},
	{"load a module", func(target) error {
		b := [4]byte{}
		empty := [1]byte{}
		err := call(unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&b)), 4, uintptr(unsafe.Pointer(&empty)))
		return needRoot(passes(err, unix.ENOEXEC))
	}},
	{"load a module's file", func(target) error {
		return needRoot(passes(call(unix.SYS_FINIT_MODULE, ^uintptr(0), 0, 0), unix.EBADF, unix.EFAULT))
	}},
	{"remove a module", func(target) error {
		name := []byte("hostile\x00")
		return needRoot(passes(call(unix.SYS_DELETE_MODULE, uintptr(unsafe.Pointer(&name[0])), unix.O_NONBLOCK), unix.ENOENT))
	}},
	{"load another kernel", func(target) error { return needRoot(passes(call(unix.SYS_KEXEC_LOAD, 0, 99, 0, 0), unix.EINVAL)) }},
	{"restart the machine", func(target) error { return needRoot(passes(call(unix.SYS_REBOOT, 1, 2, 3, 0), unix.EINVAL)) }},
	{"use a swap file", func(target) error {
		name := []byte("/nowhere/hostile\x00")
		return needRoot(passes(call(unix.SYS_SWAPON, uintptr(unsafe.Pointer(&name[0])), 0), unix.ENOENT))
	}},
	{"drop a swap file", func(target) error {
		name := []byte("/nowhere/hostile\x00")
		return needRoot(passes(call(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(&name[0]))), unix.ENOENT))
	}},
	{"set the clock", func(target) error {
		now := unix.NsecToTimespec(time.Now().UnixNano())
		return needRoot(unix.ClockSettime(unix.CLOCK_REALTIME, &now))
	}},
	{"turn the clock", func(target) error {
		t := unix.Timex{Modes: unix.ADJ_ESTERROR, Esterror: 16000000}
		_, err := unix.Adjtimex(&t)
		return needRoot(err)
	}},
	{"name the machine", func(target) error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		return needRoot(unix.Sethostname([]byte(unix.ByteSliceToString(u.Nodename[:]))))
	}},
	{"name the domain", func(target) error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		return needRoot(unix.Setdomainname([]byte(unix.ByteSliceToString(u.Domainname[:]))))
	}},
	{"change quotas", func(target) error {
		name := []byte("/nowhere/hostile\x00")
		return missing(passes(call(unix.SYS_QUOTACTL, 0x800002<<8, uintptr(unsafe.Pointer(&name[0])), 0, 0), unix.ENOENT, unix.ENODEV, unix.ESRCH))
	}},
	{"keep accounts", func(target) error {
		name := []byte("/nowhere/hostile\x00")
		return needRoot(passes(call(unix.SYS_ACCT, uintptr(unsafe.Pointer(&name[0]))), unix.ENOENT))
	}},
	{"read the kernel's log", func(target) error {
		buf := [16]byte{}
		return needRoot(call(unix.SYS_SYSLOG, 3, uintptr(unsafe.Pointer(&buf)), 16))
	}},
	{"open the machine's memory", func(target) error { return device("/dev/mem", os.O_RDWR) }},
	{"open the kernel's memory", func(target) error { return device("/proc/kcore", os.O_RDONLY) }},
	{"open the kernel's messages", func(target) error { return device("/dev/kmsg", os.O_RDWR) }},
	{"open the virtual machine monitor", func(target) error { return device("/dev/kvm", os.O_RDWR) }},
	{"open a loop device", func(target) error { return device("/dev/loop-control", os.O_RDWR) }},
	{"open FUSE", func(target) error { return device("/dev/fuse", os.O_RDWR) }},
	{"open the disk", func(target) error { return device("/dev/vda", os.O_RDONLY) }},
	{"open sysrq", func(target) error { return device("/proc/sysrq-trigger", os.O_WRONLY) }},
	{"open the core pattern", func(target) error { return device("/proc/sys/kernel/core_pattern", os.O_WRONLY) }},
	{"open the power switch", func(target) error { return device("/sys/power/state", os.O_WRONLY) }},
	{"open the control groups", func(target) error {
		names, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		if more, _ := filepath.Glob("/sys/fs/cgroup/cgroup.procs"); err == nil {
			names = append(names, more...)
		}
		if len(names) == 0 {
			return os.ErrNotExist
		}
		return needRoot(unwrap(opens(names[0], os.O_WRONLY)))
	}},
	{"read the kernel's symbols", func(target) error { return device("/proc/kallsyms", os.O_RDONLY) }},
	{"list the interfaces", func(target) error { return device("/proc/net/tcp", os.O_RDONLY) }},
	{"watch what is in memory", func(t target) error { // which pages of a file are in memory says what others read
		f, err := os.Open(filepath.Join(t["own"], "bin", "other"))
		if err != nil {
			return err
		}
		defer f.Close()
		mem, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		vec := [1]byte{}
		return call(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&vec)))
	}},
	{"interrupt all processors", func(target) error {
		const globalExpedited = 2
		return missing(call(unix.SYS_MEMBARRIER, globalExpedited, 0, 0))
	}},
	{"write out all disks", func(target) error { unix.Sync(); return syncErr() }},
	{"take the file system's pulse", func(t target) error {
		return passes(call(unix.SYS_SYNCFS, 0), unix.EBADF)
	}},
}

// syncErr tells whether sync was let through: the call itself has no error.
func syncErr() error { return call(unix.SYS_SYNC) }

// device opens a file of the system's that an ordinary user may not, or that there may not be.
func device(path string, flags int) error {
	err := unwrap(opens(path, flags))
	if err == unix.ENXIO || err == unix.ENODEV {
		return cannot("there is no such device")
	}
	return needRoot(err)
}

// unwrap gives the errno in an error of package os.
func unwrap(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}
