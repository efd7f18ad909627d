package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// setupTimeout is how long the steps up to exec may take: they touch the disk, but wait for nobody.
const setupTimeout = 10 * time.Second

// launched is a program that has passed exec, or has been killed since.
type launched struct {
	plan   *plan
	guard  int
	pid    int      // 0 if the program was not seen to start
	pidfd  int      // -1 on an old kernel
	status *os.File // from the guard: the end
	life   *os.File // to the guard: closed when the program shall end
	work   *work    // of a build, until its outputs have been taken
	peak   int64    // KiB: the most that this process had in memory before the fork
}

// errGroup says that a control group could not be entered.
var errGroup = errors.New("cannot enter the control group")

// groupFailed says that a program was not started for want of its control group.
func groupFailed(err error) bool {
	var failed *stepError
	return errors.Is(err, errGroup) || errors.As(err, &failed) && failed.Join
}

// stepError is a step that failed.
type stepError struct {
	Step  string
	Join  bool // it was to enter a control group
	Exec  bool // it was the last one: the program itself cannot be run
	Errno syscall.Errno
}

func (e *stepError) Error() string {
	return fmt.Sprintf("the step %q failed: %v", e.Step, e.Errno)
}

// Unwrap gives the errno.
func (e *stepError) Unwrap() error { return e.Errno }

// launch carries out a plan. std are the standard descriptors, kept those that the program inherits
// by their numbers; all remain the caller's.
func launch(p *plan, argv []string, std [3]*os.File, kept map[int]*os.File, g *group) (l *launched, err error) {
	var files fileSet
	defer files.close() // the copies have their own
	d, ours, err := files.prepare(p, std, kept, g)
	if err != nil {
		return nil, err
	}
	boot, err := compile(p, argv, d)
	if err != nil {
		ours.close()
		return nil, err
	}
	l = &launched{plan: p, pidfd: -1, status: ours.status, life: ours.life}
	defer ours.setup.Close()
	defer ours.gate.Close()
	if ours.ruleset != nil {
		defer ours.ruleset.Close()
	}
	l.peak = ownPeak()
	l.guard, err = fork(boot)
	if err != nil && d.group >= 0 && !d.late {
		err = fmt.Errorf("%w: %w", errGroup, err)
	}
	files.close()
	if err != nil {
		l.status.Close()
		l.life.Close()
		return nil, err
	}
	if err = g.take(l.guard); err == nil {
		err = l.open(p, ours.gate)
	}
	if err == nil {
		err = l.await(ours, p)
	}
	if err != nil {
		l.abandon()
		return nil, err
	}
	return l, nil
}

// fork makes the guard, on a thread that nothing else uses meanwhile.
func fork(b *boot) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock() // so that no descriptor of somebody else's is half way to being closed on exec
	pid, errno := b.spawn()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, &stepError{Step: "clone", Errno: errno}
	}
	return int(pid), nil
}

// ownPeak gives, in KiB, the most memory that this process had. What the kernel says of a child begins
// with what it had as a copy of this process, which is no more.
func ownPeak() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return int64(u.Maxrss)
}

// open writes the id maps and lets the guard begin.
func (l *launched) open(p *plan, gate *os.File) error {
	if slices.Contains(p.Namespaces, "user") {
		proc := "/proc/" + strconv.Itoa(l.guard) + "/"
		if !p.Groups { // an ordinary user may map his group only if groups can no longer be dropped
			if err := writeExisting(proc+"setgroups", "deny"); err != nil {
				return &stepError{Step: "setgroups deny", Errno: errnoOf(err)}
			}
		}
		if err := writeExisting(proc+"uid_map", fmt.Sprintf("0 %d 1", p.OutUID)); err != nil {
			return &stepError{Step: "uid_map", Errno: errnoOf(err)}
		}
		if err := writeExisting(proc+"gid_map", fmt.Sprintf("0 %d 1", p.OutGID)); err != nil {
			return &stepError{Step: "gid_map", Errno: errnoOf(err)}
		}
	}
	if _, err := gate.Write([]byte{1}); err != nil {
		return &stepError{Step: "open the gate", Errno: errnoOf(err)}
	}
	return nil
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}

// await reads what the copies say until exec, which closes their end.
func (l *launched) await(ours ownerEnds, p *plan) error {
	var word [16]byte
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4))
	for {
		n, oobn, err := receive(ours.setup, word[:], control)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return &stepError{Step: "wait for exec", Errno: errnoOf(err)} // EAGAIN: not within setupTimeout
		case n == 0 && l.pid == 0:
			return &stepError{Step: "start", Errno: unix.ECHILD} // somebody killed it
		case n == 0:
			return nil
		case word[0] == sayAnnounce:
			l.announced(control[:oobn])
		case word[0] == sayHandOver:
			if err := l.handedOver(control[:oobn], ours, p); err != nil {
				return err
			}
		default:
			return failedStep(p, word[:n])
		}
	}
}

// receive waits for a message. It blocks the thread: for a millisecond that is cheaper than a poller.
func receive(f *os.File, word, control []byte) (n, oobn int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	if ctlErr := conn.Control(func(fd uintptr) {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), word, control, unix.MSG_CMSG_CLOEXEC)
	}); ctlErr != nil {
		return 0, 0, ctlErr
	}
	return n, oobn, err
}

// announced takes in the number of the program's process, as it is here: the kernel translates it.
func (l *launched) announced(control []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			l.pid = int(cred.Pid)
		}
	}
	if fd, err := unix.PidfdOpen(l.pid, 0); err == nil {
		l.pidfd = fd
	}
}

// handedOver takes the file system that a build works in, fills it, and lets the guard go on.
func (l *launched) handedOver(control []byte, ours ownerEnds, p *plan) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return &stepError{Step: string(doHandOver), Errno: errnoOf(err)}
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil || len(fds) == 0 {
			continue
		}
		if l.work, err = openWork(fds[0]); err != nil {
			return fmt.Errorf("cannot open what a build works in: %w", err)
		}
		if err := l.work.fill(p.Dir, p.Cell, p.WorkUID); err != nil {
			return fmt.Errorf("cannot copy %s: %w", p.Dir, err)
		}
		if err := allowBeneath(int(ours.ruleset.Fd()), fds[0], rightsWork&p.Landlock.FS); err != nil {
			return &stepError{Step: "landlock rule for the work", Errno: errnoOf(err)}
		}
		if _, err := ours.gate.Write([]byte{1}); err != nil {
			return &stepError{Step: "open the gate", Errno: errnoOf(err)}
		}
		return nil
	}
	return &stepError{Step: string(doHandOver), Errno: unix.EPROTO}
}

func failedStep(p *plan, word []byte) error {
	if len(word) < 6 || word[0] != sayError {
		return &stepError{Step: "hear what failed", Errno: unix.EPROTO}
	}
	steps := p.Guard
	if word[1] == byProgram {
		steps = p.Program
	}
	e := &stepError{Step: "fork", Errno: syscall.Errno(uint16(word[4]) | uint16(word[5])<<8)}
	if n := int(word[2]) | int(word[3])<<8; n < len(steps) {
		e.Step, e.Exec, e.Join = steps[n].String(), steps[n].Do == doExec, steps[n].Do == doJoin
	}
	return e
}

// abandon ends what has been started, and waits for it.
func (l *launched) abandon() {
	l.kill()
	_ = unix.Kill(l.guard, unix.SIGKILL) // it is not reaped before release, and may wait for the gate
	l.release()
	l.dropWork()
}

func (l *launched) dropWork() {
	if l.work != nil {
		l.work.close()
		l.work = nil
	}
}

// release lets the guard go, which kills what is left, and waits for it.
func (l *launched) release() {
	l.life.Close()
	for {
		if _, err := unix.Wait4(l.guard, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	l.status.Close()
	if l.pidfd >= 0 {
		unix.Close(l.pidfd)
		l.pidfd = -1
	}
}

// signal sends sig to the program, which is not reaped before release: its number is its own.
func (l *launched) signal(sig syscall.Signal) {
	switch {
	case l.pidfd >= 0:
		_ = unix.PidfdSendSignal(l.pidfd, sig, nil, 0) // it can only be gone already
	case l.pid > 0:
		_ = unix.Kill(l.pid, sig)
	}
}

func (l *launched) kill() { l.signal(unix.SIGKILL) }

// explain makes an error for people of what failed in a tier.
func explain(t Tier, f facts, err error) *cellproto.Error {
	var failed *stepError
	e := cellproto.Errorf("start "+f.Program+" in "+t.String(), cellproto.Unavailable, "%w", err)
	if !errors.As(err, &failed) {
		if kind := cellproto.KindOf(err); kind == cellproto.TooLarge {
			e.Kind, e.Hint = kind, cellproto.HintOf(err)
		}
		return e
	}
	if !failed.Exec {
		if failed.Errno == unix.EACCES && f.Root {
			return e.WithHint("What the program may read must be reachable for root without its privileges, or for everybody (chmod o+rx).")
		}
		return e
	}
	switch failed.Errno {
	case unix.EACCES:
		if e.Kind = cellproto.Denied; f.Root {
			return e.WithHint("It runs as user %d: %s and all above the program must be readable for everybody (chmod o+rx).", f.UID, f.Dir)
		}
	case unix.ENOENT:
		if e.Kind = cellproto.NotFound; f.Dynamic {
			return e.WithHint("Its interpreter or dynamic linker cannot be seen from inside; show its directory with --read, or link the program statically.")
		}
	case unix.ENOEXEC:
		e.Kind = cellproto.BadInput
		return e.WithHint("It is not a program for this machine; a script begins with #! and its interpreter.")
	}
	return e
}
