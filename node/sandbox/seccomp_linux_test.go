//go:build linux && (386 || amd64 || arm || arm64)

package sandbox

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a filter answers, from the kernel's include/uapi/linux/seccomp.h.
const (
	answerAllow = 0x7fff0000
	answerErrno = 0x00050000
)

// machine runs an assembled filter as the kernel does.
type machine struct {
	t    *testing.T
	vm   *bpf.VM
	info *arch.Info
}

const ownPID = 4242

func newMachine(t *testing.T, tier Tier, abi int, build bool) *machine {
	prog, self, err := assemble(filterRules(tier, abi, build))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range self {
		prog[at].K = ownPID
	}
	raw := make([]bpf.RawInstruction, len(prog))
	for i, in := range prog {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	list, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter cannot be read back")
	}
	vm, err := bpf.NewVM(list)
	if err != nil {
		t.Fatal(err)
	}
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v, ABI %d: %d instructions", tier, abi, len(prog))
	return &machine{t, vm, info}
}

// ask gives the answer to a call. The kernel's words are in the machine's order; those of this machine
// are read as of the network's.
func (m *machine) ask(archID, nr uint32, args ...uint64) uint32 {
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], archID)
	for i, a := range args {
		low, high := 16+8*i, 16+8*i+4
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			low, high = high, low
		}
		binary.BigEndian.PutUint32(data[low:], uint32(a))
		binary.BigEndian.PutUint32(data[high:], uint32(a>>32))
	}
	n, err := m.vm.Run(data)
	if err != nil {
		m.t.Fatal(err)
	}
	return uint32(n)
}

func (m *machine) call(name string, args ...uint64) uint32 {
	nr, ok := m.info.SyscallNames[name]
	if !ok {
		m.t.Skipf("this architecture has no %s", name)
	}
	return m.ask(uint32(m.info.ID), uint32(nr), args...)
}

func TestFilterAnswers(t *testing.T) {
	const eperm, enosys = answerErrno | uint32(unix.EPERM), answerErrno | uint32(unix.ENOSYS)
	const thread, high = 0x3d0f00, 1 << 32
	for _, c := range []struct {
		tier Tier
		abi  int
		name string
		args []uint64
		want uint32
	}{
		{T1, 7, "read", nil, answerAllow},
		{T1, 7, "execve", nil, answerAllow},
		{T1, 7, "socket", []uint64{unix.AF_UNIX, unix.SOCK_STREAM}, eperm},
		{T1, 7, "connect", nil, eperm},
		{T1, 7, "sendmsg", nil, eperm},
		{T1, 7, "recvmsg", nil, eperm},
		{T1, 7, "clone3", nil, enosys},
		{T1, 7, "io_uring_setup", nil, enosys},
		{T1, 7, "clone", []uint64{thread}, answerAllow},
		{T1, 7, "clone", []uint64{0x50f00}, answerAllow},  // Go
		{T1, 7, "clone", []uint64{0x7d0f00}, answerAllow}, // musl
		{T1, 7, "clone", []uint64{uint64(unix.SIGCHLD)}, eperm},
		{T1, 7, "clone", []uint64{0}, eperm},
		{T1, 7, "clone", []uint64{thread | unix.CLONE_NEWNET}, eperm},
		{T1, 7, "clone", []uint64{thread | unix.CLONE_NEWCGROUP}, eperm},
		{T1, 7, "clone", []uint64{thread | unix.CLONE_NEWTIME}, eperm},
		{T1, 7, "clone", []uint64{thread | unix.CLONE_UNTRACED}, eperm},
		{T1, 7, "clone", []uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, eperm},
		{T1, 7, "kill", []uint64{ownPID, 9}, answerAllow},
		{T1, 7, "kill", []uint64{1, 9}, eperm},
		{T1, 7, "kill", []uint64{0, 9}, eperm},
		{T1, 7, "kill", []uint64{1<<64 - 1, 9}, eperm},
		{T1, 7, "kill", []uint64{ownPID | high, 9}, eperm},
		{T2, 5, "tgkill", []uint64{ownPID, 1, 9}, answerAllow},
		{T2, 5, "tgkill", []uint64{ownPID + 1, 1, 9}, eperm},
		{T2, 5, "tkill", []uint64{1, 9}, eperm},
		{T2, 6, "tkill", []uint64{1, 9}, answerAllow}, // Landlock keeps signals inside
		{T3, 0, "tkill", []uint64{1, 9}, eperm},       // others may have the same user
		{T3, 7, "tkill", []uint64{1, 9}, eperm},
		{T1, 7, "prlimit64", []uint64{0, 7, 1}, answerAllow},
		{T1, 7, "prlimit64", []uint64{0, unix.RLIMIT_CORE, 0, 1}, answerAllow}, // only asks
		{T1, 7, "prlimit64", []uint64{0, unix.RLIMIT_CORE, 1}, eperm},
		{T1, 7, "prlimit64", []uint64{0, unix.RLIMIT_CORE, high}, eperm},
		{T1, 7, "setrlimit", []uint64{unix.RLIMIT_CORE, 1}, eperm},
		{T1, 7, "setrlimit", []uint64{unix.RLIMIT_NOFILE, 1}, answerAllow},
		{T1, 7, "membarrier", []uint64{8}, answerAllow},
		{T1, 7, "membarrier", []uint64{1}, eperm}, // of all processes
		{T1, 7, "membarrier", []uint64{2}, eperm},
		{T1, 7, "timer_create", nil, enosys}, // SIGCONT to itself while it is stopped
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_PRIVATE | unix.MAP_ANON}, answerAllow},
		{T1, 7, "mmap", []uint64{0, 4096, 1, unix.MAP_SHARED}, answerAllow},
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_STACK | unix.MAP_NORESERVE}, answerAllow},
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_SHARED | unix.MAP_ANON}, eperm},
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_SHARED_VALIDATE | unix.MAP_ANON}, eperm},
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_GROWSDOWN}, eperm},
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_PRIVATE | unix.MAP_GROWSDOWN}, eperm},
		{T1, 7, "mmap", []uint64{0, 4096, 3, unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_HUGETLB}, eperm},
		{T1, 7, "prlimit64", []uint64{ownPID + 1, 7}, eperm},
		{T1, 7, "prctl", []uint64{unix.PR_SET_NAME}, answerAllow},
		{T1, 7, "prctl", []uint64{unix.PR_SET_DUMPABLE}, eperm},
		{T1, 7, "prctl", []uint64{unix.PR_SET_PDEATHSIG}, eperm},
		{T1, 7, "prctl", []uint64{unix.PR_SET_SECCOMP}, eperm},
		{T1, 7, "ioctl", []uint64{1, unix.TCGETS}, answerAllow},
		{T1, 7, "ioctl", []uint64{1, unix.TIOCSTI}, eperm},
		{T1, 7, "ioctl", []uint64{1, unix.TIOCSTI | high}, eperm},
		{T1, 7, "ioctl", []uint64{1, unix.TCGETS | high}, eperm}, // the kernel reads 32 bits, the filter all
		{T1, 7, "ioctl", []uint64{1, unix.TIOCLINUX}, eperm},
		{T1, 7, "fcntl", []uint64{1, unix.F_GETFL}, answerAllow},
		{T1, 7, "fcntl", []uint64{1, unix.F_SETOWN}, eperm},
		{T1, 7, "fcntl", []uint64{1, unix.F_SETLK}, eperm},
		{T1, 7, "fcntl", []uint64{1, unix.F_SETPIPE_SZ}, eperm},
		{T1, 7, "sendto", []uint64{3, 1, 1, 0, 0, 0}, answerAllow},
		{T1, 7, "sendto", []uint64{3, 1, 1, 0, 0x7fff0000, 16}, eperm},
		{T1, 7, "sendto", []uint64{3, 1, 1, 0, high, 16}, eperm},
		{T1, 7, "recvfrom", []uint64{3, 1, 1, 0, 0, 0}, answerAllow},
		{T1, 7, "socketpair", []uint64{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC}, answerAllow},
		{T1, 7, "socketpair", []uint64{unix.AF_UNIX, unix.SOCK_DGRAM}, eperm},
		{T1, 7, "socketpair", []uint64{unix.AF_TIPC, unix.SOCK_STREAM}, eperm},
		{T1, 7, "openat", []uint64{0, 0, unix.O_WRONLY | unix.O_CREAT}, answerAllow}, // Landlock's and the mounts'
		{T2, 2, "openat", []uint64{0, 0, unix.O_RDONLY}, answerAllow},
		{T2, 2, "openat", []uint64{0, 0, unix.O_RDONLY | unix.O_TRUNC}, eperm},
		{T3, 0, "openat", []uint64{0, 0, unix.O_RDONLY | unix.O_CLOEXEC}, answerAllow},
		{T3, 0, "openat", []uint64{0, 0, unix.O_WRONLY}, eperm},
		{T3, 0, "openat", []uint64{0, 0, unix.O_RDWR}, eperm},
		{T3, 0, "openat", []uint64{0, 0, unix.O_RDONLY | unix.O_CREAT}, eperm},
		{T3, 0, "openat", []uint64{0, 0, 0x400000 | unix.O_DIRECTORY}, eperm}, // O_TMPFILE
		{T1, 7, "openat2", nil, enosys},
		{T1, 7, "ptrace", nil, eperm},
		{T1, 7, "unshare", nil, eperm},
		{T1, 7, "mount", nil, eperm},
		{T1, 7, "bpf", nil, eperm},
		{T1, 7, "keyctl", nil, eperm},
		{T1, 7, "rt_sigqueueinfo", nil, eperm},
		{T1, 7, "setsockopt", nil, eperm},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := newMachine(t, c.tier, c.abi, false).call(c.name, c.args...); got != c.want {
				t.Errorf("%v: %s(%#x): %#x, not %#x", c.tier, c.name, c.args, got, c.want)
			}
		})
	}
}

func TestBuildFilterAnswers(t *testing.T) {
	const eperm = answerErrno | uint32(unix.EPERM)
	m := newMachine(t, T1, 7, true)
	for _, c := range []struct {
		name string
		args []uint64
		want uint32
	}{
		{"clone", []uint64{uint64(unix.SIGCHLD)}, answerAllow},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, answerAllow},
		{"clone", []uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, eperm},
		{"clone", []uint64{unix.CLONE_NEWTIME | uint64(unix.SIGCHLD)}, eperm},
		{"clone", []uint64{unix.CLONE_PARENT | uint64(unix.SIGCHLD)}, eperm},
		{"kill", []uint64{7, 9}, answerAllow},
		{"openat", []uint64{0, 0, unix.O_WRONLY | unix.O_CREAT, 0o755}, answerAllow},
		{"openat", []uint64{0, 0, unix.O_WRONLY | unix.O_CREAT, 0o4755}, eperm},
		{"openat", []uint64{0, 0, 0x400000 | unix.O_WRONLY, 0o2755}, eperm},
		{"openat", []uint64{0, 0, unix.O_WRONLY, 0o4755}, answerAllow}, // no file is made: the mode is nothing
		{"open", []uint64{0, unix.O_WRONLY | unix.O_CREAT, 0o4755}, eperm},
		{"creat", []uint64{0, 0o6755}, eperm},
		{"chmod", []uint64{0, 0o755}, answerAllow},
		{"chmod", []uint64{0, 0o4755}, eperm},
		{"fchmod", []uint64{0, 0o2755}, eperm},
		{"fchmodat", []uint64{0, 0, 0o4755}, eperm},
		{"mknodat", nil, eperm},
		{"chown", nil, eperm},
		{"fchownat", nil, eperm},
		{"setxattr", nil, eperm},
		{"mount", nil, eperm},
		{"unshare", nil, eperm},
		{"socket", nil, eperm},
		{"ptrace", nil, eperm},
		{"setuid", nil, eperm},
		{"mmap", []uint64{0, 4096, 3, unix.MAP_SHARED}, answerAllow},
		{"mmap", []uint64{0, 4096, 3, unix.MAP_SHARED | unix.MAP_ANON}, eperm},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := *m
			m.t = t
			if got := m.call(c.name, c.args...); got != c.want {
				t.Errorf("%s(%#x): %#x, not %#x", c.name, c.args, got, c.want)
			}
		})
	}
}

// Another interface of the same processor has other numbers for its calls.
func TestFilterRefusesOtherInterfaces(t *testing.T) {
	m := newMachine(t, T1, 7, false)
	read := uint32(m.info.SyscallNames["read"])
	for _, id := range []uint32{uint32(arch.I386.ID), uint32(arch.ARM.ID), uint32(arch.X86_64.ID), 0} {
		if id != uint32(m.info.ID) {
			for nr := range uint32(600) {
				if got := m.ask(id, nr); got == answerAllow {
					t.Errorf("call %d of architecture %#x is let through", nr, id)
				}
			}
		}
	}
	if m.info.ID == arch.X86_64.ID {
		if got := m.ask(uint32(m.info.ID), 0x40000000|read); got == answerAllow {
			t.Error("x32 is let through")
		}
	}
}

// About a hundred calls, as was measured to be enough.
func TestFilterSize(t *testing.T) {
	m := newMachine(t, T1, 7, false)
	allowed := 0
	for _, nr := range m.info.SyscallNames {
		if m.ask(uint32(m.info.ID), uint32(nr)) == answerAllow {
			allowed++
		}
	}
	t.Logf("%d of %d calls are allowed whatever their arguments", allowed, len(m.info.SyscallNames))
	if allowed > 150 {
		t.Errorf("%d calls are allowed", allowed)
	}
}
