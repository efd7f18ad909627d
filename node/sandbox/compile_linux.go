package sandbox

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// descriptors are what the copies inherit. All numbers are at or above base, so that putting one in
// its place cannot overwrite another.
type descriptors struct {
	base    int
	gate    int // read: the owner has written the id maps
	setup   int // write: announcement and errors
	status  int // write: the end
	life    int // read: the owner lives
	std     [3]int
	kept    map[int]int // target -> here
	join    []int       // tasks files of control groups
	group   int         // directory of a control group (v2) to begin in; -1: none
	late    bool        // the owner puts the guard there
	ruleset int         // of Landlock; -1: none
}

// compiler turns steps into calls.
type compiler struct {
	b     *boot
	d     *descriptors
	slots map[string]int8
	step  uint16
	out   *[]op
	tail  bool // close_range can mark descriptors
}

// compile prepares everything that the copies do.
func compile(p *plan, argv []string, d *descriptors) (*boot, error) {
	filter, self, err := assemble(p.Filter)
	if err != nil {
		return nil, err
	}
	b := &boot{
		filter: filter, self: self, full: ^uint64(0), family: p.Family,
		setup: uintptr(d.setup), status: uintptr(d.status), life: uintptr(d.life),
	}
	flags, err := namespaceFlags(p.Namespaces)
	if err != nil {
		return nil, err
	}
	b.clone = cloneArgs{flags: flags, exitSignal: uint64(unix.SIGCHLD)}
	if d.group >= 0 && !d.late {
		b.clone.flags |= cloneIntoCgroup
		b.clone.cgroup = uint64(d.group)
	}
	open := openDescriptors()
	b.highest = uintptr(slices.Max(append(open, d.base+64)))
	c := &compiler{b: b, d: d, slots: map[string]int8{}}
	c.tail = unix.CloseRange(uint(lastDescriptor), uint(lastDescriptor), unix.CLOSE_RANGE_CLOEXEC) == nil
	for _, side := range []struct {
		steps []step
		out   *[]op
	}{{p.Guard, &b.guard}, {p.Program, &b.program}} {
		c.out = side.out
		for i, s := range side.steps {
			c.step = uint16(i)
			before := len(*c.out)
			if err := c.add(p, s, argv, open); err != nil {
				return nil, fmt.Errorf("%v: %w", s, err)
			}
			if s.Soft {
				for j := before; j < len(*c.out); j++ {
					(*c.out)[j].soft = true
				}
			}
		}
	}
	return b, nil
}

func namespaceFlags(names []string) (flags uint64, err error) {
	known := map[string]uint64{
		"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET,
		"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP,
	}
	for _, n := range names {
		if known[n] == 0 {
			return 0, fmt.Errorf("there is no namespace %q", n)
		}
		flags |= known[n]
	}
	return flags, nil
}

// openDescriptors gives the numbers of this process's descriptors.
func openDescriptors() []int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return []int{1 << 12}
	}
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, n)
		}
	}
	return list
}

func (c *compiler) call(nr int, args ...uintptr) *op {
	o := op{nr: uintptr(nr), step: c.step}
	copy(o.arg[:], args)
	*c.out = append(*c.out, o)
	return &(*c.out)[len(*c.out)-1]
}

// text gives the address of s, ended by a zero byte, for as long as the boot lives.
func (c *compiler) text(s string) uintptr {
	t := append([]byte(s), 0)
	c.b.keep = append(c.b.keep, &t[0])
	return uintptr(unsafe.Pointer(&t[0]))
}

// slot gives the place of a result that has a name.
func (c *compiler) slot(name string) int8 {
	if c.slots[name] == 0 {
		c.slots[name] = int8(len(c.slots) + 1)
	}
	return c.slots[name]
}

// from makes the nth argument of o the result with this name.
func (o *op) fromSlot(n int, slot int8) *op { o.from[n] = slot; return o }

const (
	cwdFD     = ^uintptr(0) - 99 // AT_FDCWD, -100
	rootSlot  = "the new root"
	workSlot  = "the work"
	fsSlot    = "its filesystem"
	holdSlot  = "the directory held"
	readOnly  = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID
	emptyPath = unix.AT_EMPTY_PATH
)

// add appends the calls of one step.
func (c *compiler) add(p *plan, s step, argv []string, open []int) error {
	switch s.Do {
	case doHold, doOpenTree, doPrivate, doWork, doHandOver, doTmpfs, doPutRoot, doMkdir, doMkfile, doSymlink, doBind, doSeal, doPivot, doHostname:
		c.addMount(s)
		if len(c.slots) > maxSlots {
			return fmt.Errorf("more than %d trees", maxSlots)
		}
		return nil
	case doWait:
		c.call(unix.SYS_READ, uintptr(c.d.gate), uintptr(unsafe.Pointer(&c.b.record)), 1).want = 1
	case doAnnounce:
		word := []byte{sayAnnounce}
		c.b.keep = append(c.b.keep, word)
		c.call(unix.SYS_WRITE, c.b.setup, uintptr(unsafe.Pointer(&word[0])), 1).want = 1
	case doJoin:
		// 0 is the writer itself, which the kernel moves without stopping all forks of the machine (25 ms).
		c.call(unix.SYS_WRITE, uintptr(c.d.join[s.N]), c.text("0"), 1)
	case doSession:
		c.call(unix.SYS_SETSID)
	case doInherit:
		c.inherit(open)
	case doRlimit:
		return c.rlimit(s)
	case doNice:
		c.call(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(s.N))
	case doChroot:
		c.call(unix.SYS_CHDIR, c.text(s.What))
		c.call(unix.SYS_CHROOT, c.text("."))
	case doChdir:
		c.call(unix.SYS_CHDIR, c.text(s.What))
	case doUmask:
		c.call(unix.SYS_UMASK, uintptr(s.N))
	case doExec:
		c.exec(p, argv)
	case doExit:
		c.call(unix.SYS_EXIT_GROUP, 0)
	default:
		return c.addRights(s)
	}
	return nil
}

// addRights appends the calls of a step that gives up rights.
func (c *compiler) addRights(s step) error {
	switch s.Do {
	case doSetGroups:
		c.call(sysSetGroups, 0, 0)
	case doSetGID:
		c.call(sysSetResGID, uintptr(s.N), uintptr(s.N), uintptr(s.N))
	case doSetUID:
		c.call(sysSetResUID, uintptr(s.N), uintptr(s.N), uintptr(s.N))
	case doTether:
		c.call(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	case doNoNewPrivs:
		c.call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	case doDropBound:
		for n := range s.N + 1 {
			c.call(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n))
		}
	case doSecureBits:
		c.call(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureBits)
	case doDropCaps:
		header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := &[2]unix.CapUserData{}
		c.b.keep = append(c.b.keep, header, data)
		c.call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)))
	case doLandlock:
		c.call(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(c.d.ruleset))
	case doSignals:
		*c.out = append(*c.out, op{kind: opSignals})
	case doSeccomp:
		*c.out = append(*c.out, op{kind: opSelf})
		prog := &unix.SockFprog{Len: uint16(len(c.b.filter)), Filter: &c.b.filter[0]}
		c.b.keep = append(c.b.keep, prog)
		c.call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(prog)))
	default:
		return fmt.Errorf("nobody knows how")
	}
	return nil
}

// secureBits: user 0 gets nothing by exec, capabilities are not kept or raised, and so it stays. From
// the kernel's include/uapi/linux/securebits.h.
const secureBits = 1<<0 | 1<<1 | 1<<5 | 1<<6 | 1<<7

// addMount appends the calls of a step that builds the new root. The program's process never makes one.
func (c *compiler) addMount(s step) {
	inside := c.text(path.Clean("./" + s.What)) // the new root is the working directory
	switch s.Do {
	case doHold:
		c.call(unix.SYS_OPEN_TREE, cwdFD, c.text(s.What), unix.OPEN_TREE_CLOEXEC).save = c.slot(holdSlot)
	case doOpenTree:
		c.call(unix.SYS_OPEN_TREE, cwdFD, c.text(s.What),
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).save = c.slot(s.What)
	case doPrivate:
		c.call(unix.SYS_MOUNT, 0, c.text("/"), 0, unix.MS_REC|unix.MS_PRIVATE)
	case doWork:
		c.tmpfs(s.What, workSlot, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	case doHandOver:
		c.handOver(c.slot(workSlot))
	case doTmpfs:
		c.tmpfs(s.What, rootSlot, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	case doPutRoot:
		c.call(unix.SYS_MOVE_MOUNT, 0, c.text(""), 0, c.text(""), unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).
			fromSlot(0, c.slot(rootSlot)).fromSlot(2, c.slot(holdSlot))
		c.call(unix.SYS_FCHDIR).fromSlot(0, c.slot(rootSlot))
	case doMkdir:
		c.call(unix.SYS_MKDIRAT, cwdFD, inside, 0o755)
	case doMkfile:
		c.call(unix.SYS_MKNODAT, cwdFD, inside, unix.S_IFREG|0o444, 0)
	case doSymlink:
		c.call(unix.SYS_SYMLINKAT, c.text(s.To), cwdFD, inside)
	case doBind:
		if s.To == kindWords[workRoot] {
			c.call(unix.SYS_MOVE_MOUNT, 0, c.text(""), cwdFD, inside, unix.MOVE_MOUNT_F_EMPTY_PATH).fromSlot(0, c.slot(workSlot))
			return
		}
		c.call(unix.SYS_MOVE_MOUNT, 0, c.text(""), cwdFD, inside, unix.MOVE_MOUNT_F_EMPTY_PATH).fromSlot(0, c.slot(s.What))
		attr := uint64(readOnly | unix.MOUNT_ATTR_NODEV)
		if s.To == kindWords[deviceRoot] {
			attr = readOnly | unix.MOUNT_ATTR_NOEXEC // the device itself can be written to all the same
		}
		c.setAttr(c.slot(s.What), attr)
	case doSeal:
		c.setAttrFlat(c.slot(rootSlot), readOnly|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	case doPivot:
		c.call(unix.SYS_PIVOT_ROOT, c.text("."), c.text("."))
		c.call(unix.SYS_UMOUNT2, c.text("."), unix.MNT_DETACH) // the old root, which now lies on the new one
		c.call(unix.SYS_CHDIR, c.text("/"))
	case doHostname:
		c.call(unix.SYS_SETHOSTNAME, c.text(s.What), uintptr(len(s.What)))
		c.call(unix.SYS_SETDOMAINNAME, c.text(""), 0)
	}
}

// tmpfs makes a file system in memory, which is nowhere yet.
func (c *compiler) tmpfs(options, slot string, attr uintptr) {
	fs := c.slot(fsSlot)
	c.call(unix.SYS_FSOPEN, c.text("tmpfs"), unix.FSOPEN_CLOEXEC).save = fs
	for _, o := range splitOptions(options) {
		c.call(unix.SYS_FSCONFIG, 0, unix.FSCONFIG_SET_STRING, c.text(o[0]), c.text(o[1])).fromSlot(0, fs)
	}
	c.call(unix.SYS_FSCONFIG, 0, unix.FSCONFIG_CMD_CREATE).fromSlot(0, fs)
	c.call(unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, attr).fromSlot(0, fs).save = c.slot(slot)
	c.call(unix.SYS_CLOSE).fromSlot(0, fs)
}

// handOver sends the descriptor in a slot to the owner.
func (c *compiler) handOver(slot int8) {
	h := &handOver{word: sayHandOver}
	control := unix.UnixRights(-1)
	h.base = unix.Iovec{Base: &h.word}
	h.base.SetLen(1)
	h.message = unix.Msghdr{Iov: &h.base, Iovlen: 1, Control: &control[0]}
	h.message.SetControllen(len(control))
	c.b.keep = append(c.b.keep, h, control)
	c.b.handed = (*int32)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
	c.b.handedSlot = slot
	*c.out = append(*c.out, op{kind: opHandOver, step: c.step})
	c.call(unix.SYS_SENDMSG, c.b.setup, uintptr(unsafe.Pointer(&h.message)), unix.MSG_NOSIGNAL).want = 1
}

// handOver is a message with a descriptor.
type handOver struct {
	message unix.Msghdr
	base    unix.Iovec
	word    byte
}

func (c *compiler) setAttr(slot int8, set uint64) { c.mountSetAttr(slot, set, unix.AT_RECURSIVE) }

func (c *compiler) setAttrFlat(slot int8, set uint64) { c.mountSetAttr(slot, set, 0) }

func (c *compiler) mountSetAttr(slot int8, set uint64, flags uintptr) {
	attr := &unix.MountAttr{Attr_set: set}
	c.b.keep = append(c.b.keep, attr)
	c.call(unix.SYS_MOUNT_SETATTR, 0, c.text(""), emptyPath|flags, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr)).
		fromSlot(0, slot)
}

// inherit puts the descriptors in their places and has all others end with exec.
func (c *compiler) inherit(open []int) {
	targets := []int{0, 1, 2}
	for fd, src := range c.d.std {
		c.call(unix.SYS_DUP3, uintptr(src), uintptr(fd), 0)
	}
	for target, src := range c.d.kept {
		targets = append(targets, target)
		c.call(unix.SYS_DUP3, uintptr(src), uintptr(target), 0)
	}
	slices.Sort(targets)
	if !c.tail {
		for _, fd := range open {
			if !slices.Contains(targets, fd) {
				c.call(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC).soft = true // it may be closed by now
			}
		}
		return
	}
	next := 0
	for _, t := range targets {
		if t > next {
			c.call(unix.SYS_CLOSE_RANGE, uintptr(next), uintptr(t-1), unix.CLOSE_RANGE_CLOEXEC)
		}
		next = t + 1
	}
	c.call(unix.SYS_CLOSE_RANGE, uintptr(next), uintptr(lastDescriptor), unix.CLOSE_RANGE_CLOEXEC)
}

func (c *compiler) rlimit(s step) error {
	number, ok := map[string]int{
		"CORE": unix.RLIMIT_CORE, "FSIZE": unix.RLIMIT_FSIZE, "MEMLOCK": unix.RLIMIT_MEMLOCK, "MSGQUEUE": unix.RLIMIT_MSGQUEUE,
		"RTPRIO": unix.RLIMIT_RTPRIO, "NOFILE": unix.RLIMIT_NOFILE, "SIGPENDING": unix.RLIMIT_SIGPENDING,
		"STACK": unix.RLIMIT_STACK, "DATA": unix.RLIMIT_DATA, "NPROC": unix.RLIMIT_NPROC,
	}[s.What]
	if !ok {
		return fmt.Errorf("there is no limit %q", s.What)
	}
	var now unix.Rlimit
	if err := unix.Prlimit(0, number, nil, &now); err != nil {
		return err
	}
	value := min(uint64(s.N), now.Max) // nobody may raise it
	limit := &[2]uint64{value, value}
	c.b.keep = append(c.b.keep, limit)
	c.call(unix.SYS_PRLIMIT64, 0, uintptr(number), uintptr(unsafe.Pointer(limit)), 0)
	return nil
}

func (c *compiler) exec(p *plan, argv []string) {
	list := func(strings []string) uintptr {
		pointers := make([]*byte, len(strings)+1)
		for i, s := range strings {
			t, err := syscall.BytePtrFromString(s)
			if err != nil {
				t = new(byte) // Validate has refused it
			}
			pointers[i] = t
		}
		c.b.keep = append(c.b.keep, pointers)
		return uintptr(unsafe.Pointer(&pointers[0]))
	}
	c.call(unix.SYS_EXECVE, c.text(p.Path), list(argv), list(p.Env))
}
