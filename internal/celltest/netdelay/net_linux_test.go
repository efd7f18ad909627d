package netdelay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair makes two machines that are connected. Who may not make any skips the test.
func pair(t *testing.T, p Path) (n *Net, a, b *Machine) {
	t.Helper()
	n, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	a, err = n.Machine(netip.MustParseAddr("11.0.1.1"))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrNotExist) {
		t.Skipf("no network can be made here: %v", err)
	}
	if err == nil {
		b, err = n.Machine(netip.MustParseAddr("11.0.2.1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Connect(a, b, p)
	return n, a, b
}

// echo answers on a machine.
func echo(t *testing.T, m *Machine) string {
	t.Helper()
	var pc net.PacketConn
	var err error
	m.Do(func() { pc, err = net.ListenPacket("udp4", m.Addr.String()+":0") })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { pc.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, MTU)
		for {
			size, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:size], from) // it is UDP
		}
	}()
	return pc.LocalAddr().String()
}

func dial(t *testing.T, m *Machine, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	m.Do(func() { c, err = net.Dial("udp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends one packet and gives how long its echo took; 0: it did not come.
func ask(t *testing.T, c net.Conn, patience time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 8)); err != nil {
		return 0
	}
	return time.Since(begin)
}

func TestRoundTrip(t *testing.T) {
	for _, delay := range []time.Duration{2 * time.Millisecond, 30 * time.Millisecond} {
		_, a, b := pair(t, Path{Delay: delay})
		c := dial(t, a, echo(t, b))
		least := time.Hour
		for range 20 {
			if rtt := ask(t, c, 10*time.Second); rtt > 0 {
				least = min(least, rtt)
			}
		}
		if least < 2*delay || least > 2*delay+5*time.Millisecond {
			t.Errorf("the way takes %v, the fastest of 20 round trips %v", delay, least)
		}
		t.Logf("%v one way: the fastest of 20 round trips takes %v", delay, least)
	}
}

func TestLossAndCut(t *testing.T) {
	n, a, b := pair(t, Path{Loss: 0.3})
	c := dial(t, a, echo(t, b))
	came := 0
	for range 100 {
		if ask(t, c, 20*time.Millisecond) > 0 {
			came++
		}
	}
	if came < 20 || came > 80 { // 49 are expected: both ways lose some
		t.Errorf("of 100 round trips %d came back", came)
	}
	n.Connect(a, b, Path{Cut: true})
	if rtt := ask(t, c, 50*time.Millisecond); rtt != 0 {
		t.Errorf("an echo came through a path that is cut, after %v", rtt)
	}
	n.Connect(a, b, Path{})
	if ask(t, c, 10*time.Second) == 0 {
		t.Error("no echo once the path is whole again")
	}
}

// TCP works, as fast as the way allows, and to nobody who is not connected.
func TestStream(t *testing.T) {
	_, a, b := pair(t, Path{Delay: 5 * time.Millisecond})
	var l net.Listener
	var err error
	b.Do(func() { l, err = net.Listen("tcp4", b.Addr.String()+":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const size = 4 << 20
	got := make(chan int)
	go func() {
		c, err := l.Accept()
		sum := 0
		for buf := make([]byte, 64<<10); err == nil; {
			var k int
			k, err = c.Read(buf)
			sum += k
		}
		got <- sum
	}()
	var c net.Conn
	a.Do(func() { c, err = net.Dial("tcp4", l.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if sum := <-got; sum != size {
		t.Errorf("%d bytes of %d came", sum, size)
	}
	t.Logf("%d MiB in %v", size>>20, time.Since(begin))
	if c, err := net.DialTimeout("tcp4", l.Addr().String(), 100*time.Millisecond); err == nil {
		c.Close()
		t.Error("this machine is on the network too")
	}
}

func TestProcesses(t *testing.T) {
	_, a, b := pair(t, Path{})
	cmd := exec.Command("sleep", "60")
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	pids, err := a.Processes()
	if err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("the processes of a are %v, %v; started was %d", pids, err, cmd.Process.Pid)
	}
	if pids, err := b.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("the processes of b are %v, %v", pids, err)
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	if err := a.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}
