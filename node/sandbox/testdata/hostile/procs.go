package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var procAttacks = []attack{
	{"list the processes", func(target) error {
		names, err := os.ReadDir("/proc")
		if err == nil && len(names) < 10 {
			return errors.New("there are none")
		}
		return err
	}},
	{"read a process's environment", func(t target) error { return holds("/proc/"+t["victim"]+"/environ", "SECRET") }},
	{"read a process's command line", func(t target) error { return holds("/proc/"+t["victim"]+"/cmdline", "victim") }},
	{"open a process's memory", func(t target) error { return opens("/proc/"+t["victim"]+"/mem", os.O_RDWR) }},
	{"open a process's root", func(t target) error { return opens("/proc/"+t["victim"]+"/root/etc", os.O_RDONLY) }},
	{"open a process's file", func(t target) error { return opens("/proc/"+t["victim"]+"/exe", os.O_RDONLY) }},
	{"attach to a process", func(t target) error {
		return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.num("victim")), 0, 0)
	}},
	{"trace itself", func(target) error { return call(unix.SYS_PTRACE, unix.PTRACE_TRACEME) }},
	{"read another's memory", func(t target) error { return crossMemory(unix.SYS_PROCESS_VM_READV, t) }},
	{"write another's memory", func(t target) error { return crossMemory(unix.SYS_PROCESS_VM_WRITEV, t) }},
	{"signal a process", func(t target) error { return unix.Kill(t.num("victim"), unix.SIGUSR1) }},
	{"signal the owner", func(t target) error { return unix.Kill(t.num("owner"), 0) }},
	{"signal the parent", func(target) error { return unix.Kill(unix.Getppid(), 0) }},
	{"signal everybody", func(target) error { return unix.Kill(-1, 0) }},
	{"signal the process group", func(target) error { return unix.Kill(0, 0) }},
	{"signal a thread", func(t target) error {
		return call(unix.SYS_TGKILL, uintptr(t.num("victim")), uintptr(t.num("victim")), uintptr(unix.SIGUSR1))
	}},
	{"signal a thread the old way", func(t target) error {
		return call(unix.SYS_TKILL, uintptr(t.num("victim")), uintptr(unix.SIGUSR1))
	}},
	{"queue a signal", func(t target) error {
		info := [128]byte{}
		*(*int32)(unsafe.Pointer(&info[0])) = int32(unix.SIGUSR1)
		*(*int32)(unsafe.Pointer(&info[8])) = -1 // SI_QUEUE
		return call(unix.SYS_RT_SIGQUEUEINFO, uintptr(t.num("victim")), uintptr(unix.SIGUSR1), uintptr(unsafe.Pointer(&info)))
	}},
	{"signal through a descriptor's owner", ownerSignal},
	{"signal through a pidfd", func(t target) error {
		fd, err := unix.PidfdOpen(t.num("victim"), 0)
		if err != nil {
			return missing(err)
		}
		return unix.PidfdSendSignal(fd, unix.SIGUSR1, nil, 0)
	}},
	{"take a process's descriptor", func(t target) error {
		fd, err := unix.PidfdOpen(t.num("victim"), 0)
		if err != nil {
			return missing(err)
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return missing(err)
	}},
	{"change another's limits", func(t target) error {
		var lim unix.Rlimit
		return unix.Prlimit(t.num("victim"), unix.RLIMIT_NOFILE, nil, &lim)
	}},
	{"change another's priority", func(t target) error { return unix.Setpriority(unix.PRIO_PROCESS, t.num("victim"), 1) }},
	{"change another's processors", func(t target) error {
		var set unix.CPUSet
		set.Set(0)
		return unix.SchedSetaffinity(t.num("victim"), &set)
	}},
	{"change another's I/O priority", func(t target) error {
		return call(unix.SYS_IOPRIO_SET, 1, uintptr(t.num("victim")), 2<<13|7)
	}},
	{"compare two processes", func(t target) error {
		return missing(call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(t.num("victim")), 1, 0, 0))
	}},
	{"move another's pages", func(t target) error {
		_, _, errno := unix.Syscall6(unix.SYS_MOVE_PAGES, uintptr(t.num("victim")), 0, 0, 0, 0, 0)
		return missing(errnoError(errno))
	}},
	{"read another's robust list", func(t target) error {
		var head, length uintptr
		return call(unix.SYS_GET_ROBUST_LIST, uintptr(t.num("victim")), uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&length)))
	}},
	{"raise the own priority", func(target) error { return needRoot(unix.Setpriority(unix.PRIO_PROCESS, 0, -5)) }},
	{"take real-time priority", func(target) error {
		var param [8]int32
		param[0] = 1
		err := call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&param)))
		return needRoot(err)
	}},
	{"raise the own limits", func(target) error {
		var lim unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
			return err
		}
		lim.Max++
		lim.Cur = lim.Max
		return needRoot(unix.Prlimit(0, unix.RLIMIT_NOFILE, &lim, nil))
	}},
	{"become root", func(target) error { return needRoot(call(unix.SYS_SETUID, 0)) }},
	{"take root's group", func(target) error { return needRoot(call(unix.SYS_SETGID, 0)) }},
	{"take more groups", func(target) error { return needRoot(unix.Setgroups([]int{0})) }},
	{"take capabilities back", func(target) error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Effective: 1 << unix.CAP_SYS_ADMIN, Permitted: 1 << unix.CAP_SYS_ADMIN}}
		return needRoot(unix.Capset(&header, &data[0]))
	}},
	{"wake itself while it is stopped", wakeItself},
	{"hide from its owner", func(target) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
	{"outlive its guard", func(target) error { return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0) }},
	{"adopt processes", func(target) error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }},
	{"let others trace it", func(target) error {
		err := unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0)
		if err == unix.EINVAL {
			return cannot("the kernel has no Yama")
		}
		return err
	}},
	{"change its memory map's marks", func(target) error {
		err := unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_START_CODE, 0, 0, 0)
		return needRoot(passes(err, unix.EINVAL))
	}},
	{"change its personality", func(target) error {
		return call(unix.SYS_PERSONALITY, 0x0040000) // ADDR_NO_RANDOMIZE
	}},
}

func errnoError(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func opens(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// crossMemory asks for memory of the victim at an address that is not mapped: EFAULT comes after the
// check of rights.
func crossMemory(nr uintptr, t target) error {
	buf := make([]byte, 8)
	local := unix.Iovec{Base: &buf[0]}
	local.SetLen(8)
	remote := unix.RemoteIovec{Base: 8, Len: 8}
	err := call(nr, uintptr(t.num("victim")), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	return passes(err, unix.EFAULT)
}

// ownerSignal makes a pipe's owner the victim and its signal one of its choice.
func ownerSignal(t target) error {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETOWN, t.num("victim")); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETSIG, int(unix.SIGUSR1)); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETFL, unix.O_ASYNC); err != nil {
		return err
	}
	_, err := unix.Write(p[1], []byte{1})
	return err
}

var bombs = []attack{
	{"fork", func(target) error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		return reapChild(pid, errno)
	}},
	{"fork and hide", func(target) error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, 0, 0, 0, 0, 0, 0)
		return reapChild(pid, errno)
	}},
	{"fork with clone3", func(target) error {
		args := [11]uint64{4: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		return reapChild(pid, errno)
	}},
	{"fork bomb of 8", func(target) error {
		for range 8 {
			pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if err := reapChild(pid, errno); err != nil {
				return err
			}
		}
		return nil
	}},
	{"thread bomb of 200", func(target) error { return threads(200) }},
	{"memory bomb of 192 MiB", func(target) error { return touch(192<<20, unix.MAP_PRIVATE|unix.MAP_ANON) }},
	{"shared memory bomb of 192 MiB", func(target) error { return touch(192<<20, unix.MAP_SHARED|unix.MAP_ANON) }},
	{"lock 32 MiB of memory", func(target) error {
		err := needRoot(mlock(32 << 20))
		if err == unix.ENOMEM && os.Geteuid() != 0 {
			return cannot("the user's limit is lower")
		}
		return err
	}},
	{"1000 descriptors", func(target) error {
		for range 1000 {
			if _, err := unix.Dup(1); err != nil {
				return err
			}
		}
		return nil
	}},
	{"fill the disk", fillDisk},
	{"fill the disk with 128 MiB", func(t target) error { return fill(t, 128, false) }},
	{"fill the disk with files that have no name", func(t target) error { return fill(t, 128, true) }},
	{"make 400 files", func(t target) error {
		var made []string
		defer func() {
			for _, name := range made {
				os.Remove(name)
			}
		}()
		for n := range 400 { // twice what a build may have
			name := fmt.Sprintf("%s/hostile-%d", writable(t), n)
			if err := unix.Mknod(name, unix.S_IFREG|0o600, 0); err == unix.EPERM {
				if err := writes(name, os.O_WRONLY|os.O_CREATE); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
			made = append(made, name)
		}
		return nil
	}},
	{"flood the log", func(target) error { // the test sees how much arrives
		block := make([]byte, 64<<10)
		for i := range block {
			block[i] = "flood\n"[i%6]
		}
		for range 128 {
			if _, err := os.Stderr.Write(block); err != nil {
				return err
			}
		}
		return nil
	}},
	{"take all processors", func(target) error {
		begun := time.Now()
		for range 2 {
			go func() {
				for {
				}
			}()
		}
		pause(800 * time.Millisecond)
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			return err
		}
		used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
		if share := float64(used) / float64(time.Since(begun)); share < 0.5 {
			return fmt.Errorf("it had %.2f cores", share)
		}
		return nil
	}},
	{"dump core", func(target) error {
		var lim unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &lim); err != nil {
			return err
		}
		if lim.Max == 1 {
			return errors.New("the limit is 1")
		}
		return nil // 0 too: a core_pattern that begins with | gets it all the same
	}},
	{"have the machine's helper take a core", func(target) error {
		return unix.Prlimit(0, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	}},
	{"bomb of page tables", pageTables},
	{"memory that is a stack", func(target) error { return touch(192<<20, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_GROWSDOWN) }},
	{"memory of huge pages", func(target) error {
		err := touch(2<<20, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_HUGETLB)
		if err == unix.ENOMEM {
			return cannot("the machine has none")
		}
		return err
	}},
	{"shared memory of /dev/zero", func(target) error {
		fd, err := unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	}},
}

// wakeItself stops this process, as who holds it to its share of the processors does, and has a timer
// send the signal that lets it go on.
func wakeItself(target) error {
	type event struct {
		value       uint64
		signal, how int32
		_           [48]byte
	}
	ev := event{signal: int32(unix.SIGCONT)}
	var id int32
	if err := call(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&ev)), uintptr(unsafe.Pointer(&id))); err != nil {
		return err
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(100 * time.Millisecond))}
	if err := call(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0); err != nil {
		return err
	}
	return unix.Kill(os.Getpid(), unix.SIGSTOP) // the timer's signal ends the call
}

// pageTables maps 64 GiB and looks at a page of every 2 MiB: the page is that of all zeroes and counts
// for nothing, the table that it stands in is 4 KiB.
func pageTables(target) error {
	const size, step = 64 << 30, 2 << 20
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	const noHuge = 15
	_ = unix.Madvise(mem, noHuge)
	var sum byte
	for at := 0; at < size; at += step {
		sum += mem[at]
	}
	pause(200 * time.Millisecond)
	if sum != 0 {
		return errors.New("the page is not empty")
	}
	return nil
}

func reapChild(pid uintptr, errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := syscall.Wait4(int(pid), nil, unix.WALL, nil)
	return err
}

func mlock(size int) error {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return unix.Mlock(mem)
}

// touch uses memory, and keeps it long enough for a watchdog to see.
func touch(size, flags int) error {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return err
	}
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	pause(200 * time.Millisecond)
	return nil
}

// writable is a directory that can be written, or the current one.
func writable(t target) string {
	for _, dir := range []string{t["dir"], t["own"]} {
		if os.WriteFile(dir+"/hostile-try", nil, 0o600) == nil {
			os.Remove(dir + "/hostile-try")
			return dir
		}
	}
	return "."
}

// fill writes files of 8 MiB, which it holds open and, if nameless is set, deletes at once.
func fill(t target, mib int, nameless bool) error {
	block := make([]byte, 8<<20)
	for n := range mib / 8 {
		name := fmt.Sprintf("%s/hostile-fill-%d", writable(t), n)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer os.Remove(name)
		defer f.Close()
		if nameless {
			os.Remove(name)
		}
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// fillDisk looks for any place that takes a MiB.
func fillDisk(t target) error {
	var last error
	for _, dir := range []string{t["dir"], ".", t["own"], t["own"] + "/bin", "/tmp", "/var/tmp", "/dev/shm", "/run", "/"} {
		name := dir + "/hostile-fill"
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			last = err
			continue
		}
		_, err = f.Write(make([]byte, 1<<20))
		f.Close()
		os.Remove(name)
		if err == nil {
			return nil
		}
		last = err
	}
	return last
}
