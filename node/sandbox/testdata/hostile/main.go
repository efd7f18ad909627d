// Command hostile is what the sandbox is tested against: one attack a run. Each is a small
// demonstration that harms nothing: it shows that the way is open, and goes no further.
//
//	hostile -list            prints classes and names
//	hostile -victim          is a process that is attacked
//	hostile control          succeeds
//	hostile -under COMMAND   runs a command as its child
//	hostile NAME KEY=VALUE   attacks what the values name
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit statuses.
const (
	open       = 0  // the attack succeeded
	shut       = 1  // it failed
	impossible = 77 // it cannot succeed on this machine, for this user, with or without a sandbox
)

// attack is one try. try returns nil if it succeeded.
type attack struct {
	name string
	try  func(target) error
}

// target holds what the test has laid out.
type target map[string]string

func (t target) num(key string) int {
	var n int
	fmt.Sscan(t[key], &n)
	return n
}

// cannot is a reason why an attack says nothing here.
type cannot string

func (c cannot) Error() string { return string(c) }

func main() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "-list":
		for _, c := range classes() {
			for _, a := range c.attacks {
				fmt.Printf("%s\t%s\n", c.name, a.name)
			}
		}
		return
	case len(os.Args) > 1 && os.Args[1] == "-victim":
		victim()
		return
	case len(os.Args) > 2 && os.Args[1] == "-under":
		under(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "-raised":
		finish(raised())
	case len(os.Args) > 1 && os.Args[1] == "control":
		finish(nil) // what shows that a program runs at all
	}
	t := target{}
	for _, kv := range os.Args[2:] {
		key, value, _ := strings.Cut(kv, "=")
		t[key] = value
	}
	for _, a := range attacks() {
		if a.name == os.Args[1] {
			finish(a.try(t))
		}
	}
	finish(fmt.Errorf("there is no attack %q", os.Args[1]))
}

// under runs a command as its child, and tells it its own number.
func under(args []string) {
	args = append(args, fmt.Sprint("owner=", os.Getpid()))
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2, 3, 4, 5}})
	if err != nil {
		finish(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		finish(err)
	}
	os.Exit(status.ExitStatus())
}

// raised says whether the kernel has given this process more rights than who started it has.
func raised() error {
	vec, err := unix.Auxv()
	if err != nil {
		return err
	}
	const secure = 23 // AT_SECURE
	for _, entry := range vec {
		if entry[0] == secure && entry[1] != 0 {
			return nil
		}
	}
	return errors.New("it has no more rights than before")
}

func finish(err error) {
	var c cannot
	switch {
	case err == nil:
		os.Exit(open)
	case errors.As(err, &c):
		fmt.Print(err)
		os.Exit(impossible)
	}
	fmt.Print(err)
	os.Exit(shut)
}

// victim waits until its standard input ends.
func victim() {
	signal.Ignore(syscall.SIGUSR1, syscall.SIGUSR2)
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// class is attacks of one sort.
type class struct {
	name    string
	attacks []attack
}

func classes() []class {
	return []class{
		{"files", fileAttacks}, {"processes and rights", procAttacks}, {"sockets and terminals", socketAttacks},
		{"shared memory, queues, keys", ipcAttacks}, {"namespaces and mounts", spaceAttacks}, {"kernel and devices", kernelAttacks},
		{"bombs and floods", bombs}, {"other call interfaces", abiAttacks},
	}
}

func attacks() (all []attack) {
	for _, c := range classes() {
		all = append(all, c.attacks...)
	}
	return all
}

// call makes a system call and gives its error.
func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

// passes says that a call got past the check of its caller's rights: it failed with want, which comes
// after that check, or it succeeded.
func passes(err error, want ...syscall.Errno) error {
	for _, w := range want {
		if err == w {
			return nil
		}
	}
	if err == syscall.ENOSYS {
		return missing(err)
	}
	return err
}

// missing says that the kernel does not have the call; the sandbox says the same of some that it has.
func missing(err error) error {
	if err == syscall.ENOSYS || err == syscall.EOPNOTSUPP || err == syscall.EAFNOSUPPORT || err == syscall.EPROTONOSUPPORT {
		return cannot("the kernel does not have it: " + err.Error())
	}
	return err
}

// needRoot makes a refusal no finding for an ordinary user, who is refused everywhere.
func needRoot(err error) error {
	if err != nil && os.Geteuid() != 0 && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)) {
		return cannot("it needs root: " + err.Error())
	}
	return err
}

func pause(d time.Duration) { time.Sleep(d) }
