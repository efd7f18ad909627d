package give

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Of linux/uinput.h. That of BLKRRPART is another _IO.
const (
	uinputCreate  = unix.BLKRRPART&^0xffff | 'U'<<8 | 1
	uinputSetKind = unix.TUNSETIFF&^0xffff | 'U'<<8 | 100
	uinputSetKey  = uinputSetKind + 1
	uinputSetLED  = uinputSetKind + 5
	uinputNameLen = 80
	uinputDevLen  = uinputNameLen + 4*2 + 4 + 4*4*64 // struct uinput_user_dev
	leftShift     = 42                               // which nothing is typed by
	lampOfCaps    = 1
)

// newKeyboard has the kernel make a keyboard up. What it gives writes to it as a driver would.
func newKeyboard(t *testing.T, name string) (emit func(kind, code uint16)) {
	t.Helper()
	fd, err := unix.Open("/dev/uinput", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("the kernel makes no keyboards up here: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) }) // which takes it away
	dev := make([]byte, uinputDevLen)
	copy(dev[:uinputNameLen-1], name)
	for _, set := range []struct {
		request uint
		value   int
	}{{uinputSetKind, evKey}, {uinputSetKind, evLED}, {uinputSetKey, keyA}, {uinputSetKey, leftShift}, {uinputSetLED, lampOfCaps}} {
		if err == nil {
			err = unix.IoctlSetInt(fd, set.request, set.value)
		}
	}
	if err == nil {
		_, err = unix.Write(fd, dev)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, uinputCreate, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(kind, code uint16) {
		t.Helper()
		if _, err := unix.Write(fd, append(eventOf(0, kind, code), eventOf(0, evSync, 0)...)); err != nil {
			t.Fatal(err)
		}
	}
}

// A keyboard of the kernel's own: its events come with the time at which they came, and its lamps are nobody.
func TestKernelsKeyboard(t *testing.T) {
	const name = "celld's keyboard"
	emit := newKeyboard(t, name)
	text, err := os.ReadFile("/proc/bus/input/devices")
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t, "", "")
	event := ""
	for block := range strings.SplitSeq(string(text), "\n\n") {
		if d := parseDevices(block); len(d) == 1 && d[0].Name == name && d[0].Human {
			f.write("proc/bus/input/devices", block)
			event = d[0].Event
		}
	}
	if event == "" {
		t.Fatalf("it is not in\n%s", text)
	}
	f.roots.dev = "/dev"
	m := newMachine(f.roots, zap.NewNop(), time.Now)
	f.machine.Close()
	f.machine = m
	s := f.look()
	if got := sensor(s, "input").By; got != "input devices" || !m.input.opened[event].timed {
		t.Fatalf("seen by %q, which tells the time: %v", got, m.input.opened[event])
	}
	program, err := os.OpenFile(filepath.Join("/dev/input", event), os.O_WRONLY, 0)
	if err == nil {
		_, err = program.Write(eventOf(0, evLED, lampOfCaps))
		program.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	emit(evLED, lampOfCaps)
	if in := f.glance().Input; !in.Unseen {
		t.Errorf("a lamp is taken for somebody: %+v", in)
	}
	before := time.Now().Add(-time.Microsecond) // they count these
	emit(evKey, leftShift)
	after := time.Now()
	in := f.glance().Input
	if in.Unseen || in.Last.Before(before) || in.Last.After(after) {
		t.Errorf("a key was hit between %v and %v, and is seen as %+v", before, after, in)
	}
	t.Logf("seen as hit %v before it was read", time.Since(in.Last))
}
