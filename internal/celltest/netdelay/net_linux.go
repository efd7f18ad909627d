package netdelay

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Net is a network of machines.
type Net struct {
	wake *os.File // an eventfd: there is something that is due earlier
	ctx  context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	machines map[netip.Addr]*Machine
	paths    map[[2]*Machine]Path // by both orders
	road     road
	seq      uint64
	lost     int // packets for which there was no room
}

// New makes a network without machines. The seed decides which packets are lost.
func New(seed uint64) (*Net, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot make an eventfd: %w", err)
	}
	n := &Net{
		wake: os.NewFile(uintptr(fd), "wake"), random: rand.New(rand.NewPCG(seed, seed)),
		machines: map[netip.Addr]*Machine{}, paths: map[[2]*Machine]Path{},
	}
	n.ctx, n.end = context.WithCancel(context.Background())
	n.work.Go(n.deliver)
	return n, nil
}

// Close ends the network. Machines lose their device, and their namespaces go with their last process.
func (n *Net) Close() {
	n.end()
	n.signal()
	n.mu.Lock()
	for _, m := range n.machines {
		m.close()
	}
	n.mu.Unlock()
	n.work.Wait()
	n.wake.Close()
}

// Connect says what the way between two machines is from now on. Without a word of it there is none.
func (n *Net) Connect(a, b *Machine, p Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths[[2]*Machine{a, b}], n.paths[[2]*Machine{b, a}] = p, p
}

// Dropped is how many packets found the network full.
func (n *Net) Dropped() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost
}

// send takes a packet on its way, which it copies.
func (n *Net) send(from *Machine, packet []byte) {
	dst, ok := destination(packet)
	if !ok {
		return // IPv6 asks for routers
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !dst.IsMulticast() {
		n.sendTo(from, n.machines[dst], packet, now)
		return
	}
	for _, to := range n.machines { // whoever has not joined the group drops it
		n.sendTo(from, to, packet, now)
	}
}

// sendTo takes a packet on its way to one machine, if there is a way. n.mu is held.
func (n *Net) sendTo(from, to *Machine, packet []byte, now time.Time) {
	p, ok := n.paths[[2]*Machine{from, to}]
	if !ok || p.Cut || p.Loss > 0 && n.random.Float64() < p.Loss {
		return
	}
	if len(n.road) >= maxWaiting {
		n.lost++
		return
	}
	n.seq++
	due := now.Add(p.Delay)
	first := len(n.road) == 0 || due.Before(n.road[0].due)
	heap.Push(&n.road, parcel{due: due, seq: n.seq, from: from, to: to, data: append([]byte(nil), packet...)})
	if first {
		n.signal()
	}
}

// signal has deliver look at what is due.
func (n *Net) signal() {
	_, _ = n.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // it only fails when it is signaled already, or closed
}

// deliver hands packets over when they are due. It has a thread of its own, since the runtime's timers are
// a millisecond late when the machine is idle.
func (n *Net) deliver() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	raw, err := n.wake.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // the file is open until Close has waited for this
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		buf := make([]byte, 8)
		for n.ctx.Err() == nil {
			wait := n.handOver(time.Now())
			if _, err := unix.Ppoll(poll, wait, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			_, _ = unix.Read(int(fd), buf) // there may be nothing in it
		}
	})
}

// handOver gives each machine what is due, and says how long there is nothing to do; nil: until something
// comes.
func (n *Net) handOver(now time.Time) *unix.Timespec {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.road) > 0 {
		if wait := n.road[0].due.Sub(now); wait > 0 {
			t := unix.NsecToTimespec(wait.Nanoseconds())
			return &t
		}
		p := heap.Pop(&n.road).(parcel)
		if !n.paths[[2]*Machine{p.from, p.to}].Cut {
			_, _ = p.to.device.Write(p.data) // a device that is gone takes nothing
		}
	}
	return nil
}
