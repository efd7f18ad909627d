package netdelay

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const device = "net0" // a machine's only one besides loopback

// Machine is a network namespace with one address.
type Machine struct {
	Addr netip.Addr

	n       *Net
	inode   string        // of the namespace, as /proc names it
	device  *os.File      // the TUN device
	calls   chan func()   // run on the thread that is in the namespace
	closed  chan struct{} // no more of them
	closing sync.Once
}

// Machine makes a machine with an address of 11.0.0.0/8, which libp2p takes for public ones; they exist
// within the namespaces only.
func (n *Net) Machine(addr netip.Addr) (*Machine, error) {
	if !addr.Is4() || addr.As4()[0] != 11 {
		return nil, fmt.Errorf("%v is not within 11.0.0.0/8", addr)
	}
	m := &Machine{Addr: addr, n: n, calls: make(chan func()), closed: make(chan struct{})}
	made := make(chan error)
	n.work.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine, and goes nowhere else
		err := m.enter()
		made <- err
		if err == nil {
			m.stay()
		}
	})
	if err := <-made; err != nil {
		return nil, fmt.Errorf("cannot make the machine %v: %w", addr, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.machines[addr] != nil {
		m.close()
		return nil, fmt.Errorf("there is a machine %v already", addr)
	}
	n.machines[addr] = m
	n.work.Go(m.read)
	return m, nil
}

// enter has the current thread be in a fresh namespace, with its devices up.
func (m *Machine) enter() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if m.inode, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := m.configure(fd); err != nil {
		unix.Close(fd)
		return err
	}
	m.device = os.NewFile(uintptr(fd), device) // only now: before, it cannot be polled
	return nil
}

func (m *Machine) configure(tun int) error {
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("make the device: %w", err)
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	set := func(name string, req uint, value func(*unix.Ifreq) error) error {
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			err = value(ifr)
		}
		if err == nil {
			err = unix.IoctlIfreq(sock, req, ifr)
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
		return nil
	}
	inet := func(a netip.Addr) func(*unix.Ifreq) error {
		return func(ifr *unix.Ifreq) error { return ifr.SetInet4Addr(a.AsSlice()) }
	}
	up := func(ifr *unix.Ifreq) error {
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_MULTICAST)
		return nil
	}
	return errors.Join(
		set("lo", unix.SIOCSIFFLAGS, up),
		set(device, unix.SIOCSIFADDR, inet(m.Addr)),
		set(device, unix.SIOCSIFNETMASK, inet(netip.AddrFrom4([4]byte{255, 0, 0, 0}))),
		set(device, unix.SIOCSIFMTU, func(ifr *unix.Ifreq) error { ifr.SetUint32(MTU); return nil }),
		set(device, unix.SIOCSIFFLAGS, up),
	)
}

// stay runs what is to be run in the namespace.
func (m *Machine) stay() {
	for {
		select {
		case call := <-m.calls:
			call()
		case <-m.closed:
			return
		}
	}
}

// read takes what the machine sends.
func (m *Machine) read() {
	buf := make([]byte, MTU)
	for {
		size, err := m.device.Read(buf)
		if err != nil {
			return // it was closed
		}
		m.n.send(m, buf[:size])
	}
}

func (m *Machine) close() {
	m.closing.Do(func() {
		close(m.closed)
		m.device.Close()
	})
}

// Do runs f on the machine's thread: sockets that it makes, and processes that it starts, are the machine's.
func (m *Machine) Do(f func()) {
	done := make(chan struct{})
	select {
	case m.calls <- func() { defer close(done); f() }:
		<-done
	case <-m.closed:
	}
}

// Start starts a process on the machine.
func (m *Machine) Start(cmd *exec.Cmd) error {
	err := errors.New("the network is closed")
	m.Do(func() { err = cmd.Start() })
	return err
}

// Processes gives the processes on the machine.
func (m *Machine) Processes() ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, link := range links {
		inode, err := os.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended, or is not ours
		}
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err == nil && inode == m.inode && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killTime bounds how long processes may take to end that were killed: those of a control group that has used
// up its part of a busy processor do so only when it gets more.
const killTime = time.Minute

// Kill kills all processes on the machine, as a power cut would, and waits until they are gone. What they
// had sent so far still arrives.
func (m *Machine) Kill() error {
	for deadline := time.Now().Add(killTime); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		pids, err := m.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids { // one that was just being started is found the next time
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return fmt.Errorf("the processes of %v do not end", m.Addr)
}
