package sandbox

import (
	"fmt"
	"slices"
	"strings"
)

// callRule says what becomes of a system call. The first rule whose conditions all hold decides; a
// call without one fails with EPERM.
type callRule struct {
	Name   string
	When   []cond
	NoCall bool // it fails with ENOSYS: programs then do without
}

// cond is a condition on an argument, of 64 bits.
type cond struct {
	Arg   uint32
	Is    relation
	Value uint64
}

type relation uint8

const (
	equals  relation = iota
	has              // all bits of Value; Value has one
	lacks            // all bits of Value
	isSelf           // the process's own number
	isEmpty          // 0
)

func (c cond) String() string {
	word := [...]string{equals: "=", has: "has", lacks: "lacks", isSelf: "is the process itself", isEmpty: "is 0"}[c.Is]
	if c.Is == isSelf || c.Is == isEmpty {
		return fmt.Sprintf("arg%d %s", c.Arg, word)
	}
	return fmt.Sprintf("arg%d %s %#x", c.Arg, word, c.Value)
}

func (r callRule) String() string {
	s := r.Name
	for i, c := range r.When {
		s += [...]string{" if ", " and "}[min(i, 1)] + c.String()
	}
	if r.NoCall {
		s += ": no such call"
	}
	return s
}

// plainCalls are allowed with any arguments. Names that an architecture does not have are skipped: no
// name stands for different calls on different ones. What they can reach is bounded by Landlock, the
// mounts and the descriptors; none makes a new socket, process, namespace, key, mount or device.
func plainCalls() []string {
	return strings.Fields(`
		read write readv writev pread64 pwrite64 preadv preadv2 pwritev pwritev2 close close_range
		lseek _llseek access faccessat faccessat2 stat lstat fstat stat64 lstat64 fstat64 fstatat64
		newfstatat statx readlink readlinkat getdents getdents64 getcwd chdir fchdir dup dup2 dup3 pipe
		pipe2 fstatfs fstatfs64 statfs statfs64 sendfile
		sendfile64 umask execve
		poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1
		epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
		timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64
		mprotect munmap mremap madvise brk msync
		futex futex_time64 futex_waitv set_robust_list rseq set_tid_address set_thread_area
		get_thread_area arch_prctl cacheflush set_tls gettid getpid getppid
		sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max
		sched_get_priority_min exit exit_group restart_syscall
		rt_sigaction rt_sigprocmask rt_sigreturn sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
		rt_sigtimedwait_time64 sigaltstack pause wait4 waitid waitpid
		clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
		clock_nanosleep_time64 nanosleep gettimeofday time times getitimer setitimer alarm
		getuid geteuid getgid getegid getuid32 geteuid32 getgid32 getegid32 getgroups getgroups32
		getresuid getresuid32 getresgid getresgid32 getpgrp getrlimit ugetrlimit getrusage
		uname getrandom getcpu
		shutdown getsockopt getsockname getpeername`)
}

// missingCalls answer "no such call": a program that is told so does without, while one that is told
// "not permitted" gives up. A timer of timer_create could send SIGCONT, which wakes a program that was
// stopped to hold its share of the processors: those that are here send SIGALRM or end a poll. With fadvise64 it could
// read one file from the disk again and again.
func missingCalls() []string {
	return strings.Fields(`clone3 openat2 io_uring_setup memfd_create memfd_secret userfaultfd
		copy_file_range pidfd_open pidfd_send_signal landlock_create_ruleset futex_wait futex_wake
		futex_requeue map_shadow_stack mseal process_madvise fchmodat2 cachestat sysinfo timer_create
		fadvise64 fadvise64_64 arm_fadvise64_64`)
}

// Numbers of the kernel's interface that are the same on every architecture that has a filter.
const (
	cloneThread = 0x00010000
	// Flags that no thread needs: new namespaces, and what concerns tracing and parents.
	cloneVfork     = 0x00004000
	cloneForbidden = 0x7e020000 | 0x00000080 | 0x00002000 | cloneVfork | 0x00008000 | 0x00800000

	openWrite    = 0x3      // O_WRONLY | O_RDWR
	openCreate   = 0x40     // O_CREAT
	openTruncate = 0x200    // O_TRUNC
	openTmpfile  = 0x400000 // __O_TMPFILE

	modeSetID = 0o6000 // S_ISUID | S_ISGID

	// Memory that counts for nothing that is limited: shared memory without a file and stacks do not for
	// RLIMIT_DATA, pages of the huge pool do not for the resident memory.
	mapShared    = 0x1
	mapGrowsDown = 0x100
	mapAnonymous = 0x20
	mapHuge      = 0x40000

	unixFamily    = 1
	sockStream    = 1
	sockSeqpacket = 5
	sockFlags     = 0x80800 // SOCK_CLOEXEC | SOCK_NONBLOCK
)

// buildCalls are what a build may call besides: in T1, in a process namespace of its own, and where the
// mounts and Landlock leave nothing to write to but its copy of Dir. Make sets its users to what they are
// before each command; without capabilities it could set them to nothing else.
func buildCalls() []string {
	return strings.Fields(`
		fork vfork setpgid getpgid getsid setsid kill tgkill getpriority setresuid setresgid setresuid32 setresgid32
		mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
		truncate truncate64 ftruncate ftruncate64 fallocate fsync fdatasync sync_file_range
		sync_file_range2 utime utimes utimensat utimensat_time64 futimesat flock
		getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr`)
}

// buildRules are those of buildCalls and calls with conditions. No file gets the set-user-id bit: the
// owner copies none that has it, and this is the second lock.
func buildRules() (rules []callRule) {
	for _, name := range buildCalls() {
		rules = append(rules, callRule{Name: name})
	}
	for name, arg := range map[string]uint32{"chmod": 1, "fchmod": 1, "fchmodat": 2, "creat": 1} {
		rules = append(rules, callRule{Name: name, When: []cond{{arg, lacks, modeSetID}}})
	}
	for name, arg := range map[string]uint32{"open": 1, "openat": 2} {
		rules = append(rules, callRule{Name: name, When: []cond{{arg, lacks, openCreate | openTmpfile}}},
			callRule{Name: name, When: []cond{{arg + 1, lacks, modeSetID}}})
	}
	slices.SortStableFunc(rules, func(a, b callRule) int { return strings.Compare(a.Name, b.Name) })
	// The standard library of Rust, hence cargo, has a pair of these for each process that it starts. They are
	// connected: an address that is given to them is not looked at.
	for _, flags := range []uint64{0, 0x80000, 0x800, sockFlags} {
		rules = append(rules, callRule{Name: "socketpair", When: []cond{{0, equals, unixFamily}, {1, equals, sockSeqpacket | flags}}})
	}
	rules = append(rules, callRule{Name: "clone", When: []cond{{0, lacks, cloneForbidden &^ cloneVfork}}})
	for _, name := range []string{"fcntl", "fcntl64"} {
		for _, lock := range []uint64{5, 6, 7, 12, 13, 14, 36, 37, 38} { // of its own files; 12 to 14 on 32 bits
			rules = append(rules, callRule{Name: name, When: []cond{{1, equals, lock}}})
		}
	}
	return rules
}

// filterRules gives the seccomp policy of a tier. It is a pure function.
func filterRules(t Tier, abi int, build bool) []callRule {
	var rules []callRule
	for _, name := range plainCalls() {
		rules = append(rules, callRule{Name: name})
	}
	for _, name := range missingCalls() {
		rules = append(rules, callRule{Name: name, NoCall: true})
	}
	if build {
		rules = append(rules, buildRules()...)
	} else {
		rules = append(rules, openRules(t, abi)...)
	}
	when := func(name string, conds ...cond) { rules = append(rules, callRule{Name: name, When: conds}) }
	each := func(name string, arg uint32, values ...uint64) {
		for _, v := range values {
			when(name, cond{arg, equals, v})
		}
	}
	if !build {
		// A thread, never a process or a namespace.
		when("clone", cond{0, has, cloneThread}, cond{0, lacks, cloneForbidden})
		// Signals to itself: numbers of processes mean the same outside, where there is no namespace.
		when("kill", cond{0, isSelf, 0})
		when("tgkill", cond{0, isSelf, 0})
	}
	// musl's raise, where the kernel keeps it inside. In T3 another program of the same directory, or all
	// that run as nobody, may have the same user.
	if t == T1 || t == T2 && abi >= abiScopes {
		rules = append(rules, callRule{Name: "tkill"})
	}
	each("membarrier", 0, 0, 8, 16, 32, 64) // of its own threads, not of the whole machine's
	for _, name := range []string{"mmap", "mmap2"} {
		when(name, cond{3, lacks, mapGrowsDown | mapHuge | mapAnonymous})
		when(name, cond{3, lacks, mapGrowsDown | mapHuge | mapShared})
	}
	// Its own limits, lower. Not that of cores: 1 is what keeps a helper of the machine's (core_pattern)
	// from being started for it, and 0 does not.
	when("prlimit64", cond{0, isEmpty, 0}, cond{2, isEmpty, 0})
	for _, limit := range []uint64{0, 3, 7, 9} { // CPU, STACK, NOFILE, AS
		when("prlimit64", cond{0, isEmpty, 0}, cond{1, equals, limit})
		when("setrlimit", cond{0, equals, limit})
	}
	each("prctl", 0, 15, 16, 3, 23, 38, 39, 0x53564d41)              // names, what it may look up, no_new_privs, names of memory
	each("ioctl", 1, 0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451) // is it a terminal, its size; bytes waiting; flags
	for _, name := range []string{"fcntl", "fcntl64"} {
		// Duplicates, flags and the size of a pipe. Not F_SETOWN and F_SETSIG, which send signals, and no
		// locks, which others would wait for.
		each(name, 1, 0, 1, 2, 3, 4, 1030, 1032)
	}
	// Bytes over what it inherits. An address would let a datagram go elsewhere.
	when("sendto", cond{4, isEmpty, 0})
	when("recvfrom", cond{4, isEmpty, 0})
	// A pair within itself, as event loops have; of datagrams one could send elsewhere.
	for _, flags := range []uint64{0, 0x80000, 0x800, sockFlags} {
		when("socketpair", cond{0, equals, unixFamily}, cond{1, equals, sockStream | flags})
	}
	return rules
}

// openRules bounds what a file may be opened for where Landlock does not.
func openRules(t Tier, abi int) []callRule {
	var flags uint64
	switch {
	case t == T3: // only the file's owner and mode stand in the way
		flags = openWrite | openCreate | openTruncate | openTmpfile
	case t == T2 && abi < abiTruncate: // O_RDONLY|O_TRUNC writes, and older versions do not see it
		flags = openTruncate
	default:
		return []callRule{{Name: "open"}, {Name: "openat"}}
	}
	return []callRule{
		{Name: "open", When: []cond{{1, lacks, flags}}},
		{Name: "openat", When: []cond{{2, lacks, flags}}},
	}
}
