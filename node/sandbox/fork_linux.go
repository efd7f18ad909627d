package sandbox

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// op is one system call, with everything that it needs prepared: between fork and exec there is no
// Go runtime, so that nothing may be allocated, grow a stack or be preempted there.
type op struct {
	nr   uintptr
	arg  [6]uintptr
	from [6]int8 // where not 0: the argument is slots[from-1]
	save int8    // where not 0: the result goes to slots[save-1]
	want uintptr // where not 0: any other result is a failure
	soft bool
	kind opKind
	step uint16 // its step, for errors
}

type opKind uint8

const (
	opCall     opKind = iota
	opSignals         // all handlers to their defaults, no signal blocked
	opSelf            // the process's own number into the filter
	opHandOver        // slots[handedSlot-1] into the message at handed
)

const maxSlots = 96 // as many trees as a plan can hold

// boot is what the two copies of this process work from. Every pointer in an op points into it, or to
// what keep holds; it lies on the heap, where nothing moves.
type boot struct {
	guard, program []op
	slots          [maxSlots]uintptr
	filter         []unix.SockFilter
	self           []int // indices of filter that hold the process's own number
	setup          uintptr
	status         uintptr
	life           uintptr
	highest        uintptr // descriptor, where close_range is missing

	action [4]uint64 // a kernel sigaction: all zero is the default
	mask   uint64    // no signal
	full   uint64    // all signals
	old    uint64    // what was blocked before
	record [8]byte   // an error on its way to the owner
	polls  [2]unix.PollFd
	tick   unix.Timespec
	info   [128]byte // siginfo
	end    endRecord
	clone  cloneArgs
	keep   []any

	handed     *int32 // in a message to the owner
	handedSlot int8
	family     bool // the program may have descendants
}

// endRecord is what the guard writes when the program has ended.
type endRecord struct {
	Status uint32
	_      uint32
	Usage  unix.Rusage
}

// cloneArgs is the kernel's struct clone_args, version 2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

const (
	cloneIntoCgroup = 0x200000000
	sigSetBytes     = 8
	signals         = 64
	lastDescriptor  = ^uint32(0)
	guardTick       = 20e6                   // ns
	siPID           = 4*3 + 4*(^uint(0)>>63) // of siginfo: after three numbers, and a gap on 64 bits
)

// Words on the channel from the copies to the owner.
const (
	sayHandOver = 'D' // from the guard: a descriptor comes with it
	sayAnnounce = 'P' // from the program's process: its number is in the credentials
	sayError    = 'E' // and who, step, errno
	byGuard     = 0
	byProgram   = 1
)

// Words between the guard and the owner about the end.
const (
	sayEnded = 'X' // from the guard: the program has ended and waits to be reaped
	sayReap  = 'R' // from the owner: it has seen what it wants to see
	sayHalt  = 'H' // from the owner: stop all that the program has started, and it
	sayGoOn  = 'G' // from the owner: let them go on
)

// spawn forks the guard, into its control group if it has one, and gives its number. The caller has
// locked its thread.
//
//go:norace
//go:nosplit
func (b *boot) spawn() (pid uintptr, errno syscall.Errno) {
	// A signal that came to a copy would run the runtime's handler in it.
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.full)),
		uintptr(unsafe.Pointer(&b.old)), sigSetBytes, 0, 0)
	if b.clone.cgroup != 0 {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&b.clone)),
			unsafe.Sizeof(b.clone), 0, 0, 0, 0)
	} else {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(b.clone.flags)|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	}
	if errno == 0 && pid == 0 {
		runGuard(b)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.old)), 0, sigSetBytes, 0, 0)
	return pid, errno
}

// runGuard is the guard: it makes the place, forks the program's process and stays until that has
// ended or the owner has. In a pid namespace it is number 1: nothing survives it.
//
//go:norace
//go:nosplit
func runGuard(b *boot) {
	if !runOps(b, b.guard, byGuard) {
		quit(1)
	}
	// A parent that ignores the end of its children hands that on, and there would be nothing to wait for.
	syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&b.action)), 0, sigSetBytes, 0, 0)
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		sayFailed(b, byGuard, uint16(len(b.guard)), errno)
		quit(1)
	}
	if pid == 0 {
		runOps(b, b.program, byProgram)
		quit(1)
	}
	closeAllBut(b, b.status, b.life)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	awaitEnd(b, pid)
	syscall.RawSyscall6(unix.SYS_WAIT4, pid, uintptr(unsafe.Pointer(&b.end.Status)), 0,
		uintptr(unsafe.Pointer(&b.end.Usage)), 0, 0)
	syscall.RawSyscall6(unix.SYS_WRITE, b.status, uintptr(unsafe.Pointer(&b.end)), unsafe.Sizeof(b.end), 0, 0, 0)
	quit(0)
}

// awaitEnd returns when the program has ended and the owner knows it, or when the owner has ended:
// then it has killed the program.
//
//go:norace
//go:nosplit
func awaitEnd(b *boot, pid uintptr) {
	b.polls[0] = unix.PollFd{Fd: int32(b.life), Events: unix.POLLIN}
	b.polls[1] = unix.PollFd{Fd: -1, Events: unix.POLLIN}
	var tick uintptr
	if fd, _, errno := syscall.RawSyscall6(unix.SYS_PIDFD_OPEN, pid, 0, 0, 0, 0, 0); errno == 0 {
		b.polls[1].Fd = int32(fd)
	} else {
		tick = uintptr(unsafe.Pointer(&b.tick)) // an old kernel: look from time to time
	}
	if b.family {
		tick = uintptr(unsafe.Pointer(&b.tick)) // orphans come at any time
	}
	for {
		b.tick.Nsec = guardTick // the kernel has left there what was left of it
		syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&b.polls)), 2, tick, 0, sigSetBytes, 0)
		_, _, errno := syscall.RawSyscall6(unix.SYS_WAITID, unix.P_PID, pid, uintptr(unsafe.Pointer(&b.info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
		if errno != 0 || b.info[0]|b.info[3] != 0 { // si_signo: it has ended
			break
		}
		if b.polls[0].Revents != 0 && !obey(b) {
			syscall.RawSyscall6(unix.SYS_KILL, pid, uintptr(unix.SIGKILL), 0, 0, 0, 0)
			return
		}
		if b.family {
			reapOrphans(b, pid)
		}
	}
	b.record[0] = sayEnded
	syscall.RawSyscall6(unix.SYS_WRITE, b.status, uintptr(unsafe.Pointer(&b.record)), 1, 0, 0, 0)
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_READ, b.life, uintptr(unsafe.Pointer(&b.record)), 1, 0, 0, 0)
		if errno != 0 || n != 1 || b.record[0] == sayReap {
			return
		}
	}
}

// obey reads a word of the owner's and does it. It reports false if the owner has ended. To stop all
// processes of a namespace at once, so that none can wake another, is what only number 1 of it can do.
//
//go:norace
//go:nosplit
func obey(b *boot) bool {
	n, _, errno := syscall.RawSyscall6(unix.SYS_READ, b.life, uintptr(unsafe.Pointer(&b.record)), 1, 0, 0, 0)
	if errno != 0 || n != 1 || !b.family {
		return false
	}
	switch b.record[0] {
	case sayHalt:
		syscall.RawSyscall6(unix.SYS_KILL, ^uintptr(0), uintptr(unix.SIGSTOP), 0, 0, 0, 0)
	case sayGoOn:
		syscall.RawSyscall6(unix.SYS_KILL, ^uintptr(0), uintptr(unix.SIGCONT), 0, 0, 0, 0)
	}
	return true
}

// reapOrphans collects what has ended and has lost its parent, all but the program itself.
//
//go:norace
//go:nosplit
func reapOrphans(b *boot, program uintptr) {
	for {
		b.info = [128]byte{}
		_, _, errno := syscall.RawSyscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&b.info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
		orphan := uintptr(*(*int32)(unsafe.Pointer(&b.info[siPID])))
		if errno != 0 || orphan == 0 || orphan == program {
			b.info = [128]byte{}
			return // the program, if it is that, is looked at next
		}
		syscall.RawSyscall6(unix.SYS_WAIT4, orphan, 0, 0, 0, 0, 0)
	}
}

// runOps makes the calls in turn. It reports whether all went well; if not it has told the owner.
//
//go:norace
//go:nosplit
func runOps(b *boot, ops []op, who byte) bool {
	for i := range ops {
		o := &ops[i]
		switch o.kind {
		case opSignals:
			freshSignals(b)
			continue
		case opSelf:
			pid, _, _ := syscall.RawSyscall6(unix.SYS_GETPID, 0, 0, 0, 0, 0, 0)
			for _, at := range b.self {
				b.filter[at].K = uint32(pid)
			}
			continue
		case opHandOver:
			*b.handed = int32(b.slots[b.handedSlot-1])
			continue
		}
		for j := range o.from {
			if o.from[j] != 0 {
				o.arg[j] = b.slots[o.from[j]-1]
			}
		}
		r, _, errno := syscall.RawSyscall6(o.nr, o.arg[0], o.arg[1], o.arg[2], o.arg[3], o.arg[4], o.arg[5])
		if errno == 0 && o.want != 0 && r != o.want {
			errno = unix.EPIPE
		}
		if errno != 0 && !o.soft {
			sayFailed(b, who, o.step, errno)
			return false
		}
		if o.save != 0 {
			b.slots[o.save-1] = r
		}
	}
	return true
}

//go:norace
//go:nosplit
func freshSignals(b *boot) {
	for sig := uintptr(1); sig <= signals; sig++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&b.action)), 0, sigSetBytes, 0, 0)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.mask)), 0, sigSetBytes, 0, 0)
}

//go:norace
//go:nosplit
func sayFailed(b *boot, who byte, step uint16, errno syscall.Errno) {
	b.record = [8]byte{sayError, who, byte(step), byte(step >> 8), byte(errno), byte(errno >> 8)}
	syscall.RawSyscall6(unix.SYS_WRITE, b.setup, uintptr(unsafe.Pointer(&b.record)), uintptr(len(b.record)), 0, 0, 0)
}

// closeAllBut closes all descriptors but two: the guard must not hold open what others wait on.
//
//go:norace
//go:nosplit
func closeAllBut(b *boot, x, y uintptr) {
	if x > y {
		x, y = y, x
	}
	_, _, errno := syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, y+1, uintptr(lastDescriptor), 0, 0, 0, 0)
	if errno == 0 {
		syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, 0, x-1, 0, 0, 0, 0)
		if y > x+1 {
			syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, x+1, y-1, 0, 0, 0, 0)
		}
		return
	}
	for fd := uintptr(0); fd <= b.highest; fd++ {
		if fd != x && fd != y {
			syscall.RawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		}
	}
}

//go:norace
//go:nosplit
func quit(code uintptr) {
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0)
	}
}
