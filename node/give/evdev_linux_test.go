package give

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// What people do, and what programs have a keyboard do.
const (
	evKey, evAbsolute = 0x01, 0x03
	keyDown           = keyA
)

// eventOf is a record as the kernel writes it.
func eventOf(at time.Duration, kind, code uint16) (b []byte) {
	for _, n := range []time.Duration{at / time.Second, at % time.Second / time.Microsecond} {
		if wordBytes == 4 {
			b = binary.NativeEndian.AppendUint32(b, uint32(n))
		} else {
			b = binary.NativeEndian.AppendUint64(b, uint64(n))
		}
	}
	b = binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, kind), code)
	return binary.NativeEndian.AppendUint32(b, 1)
}

// plug has a pipe stand for the file of the keyboard. What it gives writes to it.
func (f *fakeMachine) plug() (write func([]byte)) {
	f.t.Helper()
	f.write("proc/bus/input/devices", keyboard)
	f.write("dev/input/.keep", "")
	path := filepath.Join(f.root, "dev/input/event3")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		f.t.Fatal(err)
	}
	kernel, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { unix.Close(kernel) })
	return func(b []byte) {
		if _, err := unix.Write(kernel, b); err != nil {
			f.t.Error(err)
		}
	}
}

// uptime is what the clock of the machine's events shows.
func (f *fakeMachine) uptime() time.Duration { return f.input.mono() }

func TestInputDevice(t *testing.T) {
	f := newFake(t, "", "")
	write := f.plug()
	s := f.look()
	if got := sensor(s, "input"); got.By != "input devices" || got.Says != "none for 0s: the watching of event3 began" {
		t.Errorf("seen by %q, it says %q", got.By, got.Says)
	}
	f.later(time.Minute)
	if got := f.idle(f.glance().Input); got != time.Minute {
		t.Errorf("idle for %v", got)
	}
	write(eventOf(f.uptime(), evKey, keyDown))
	s = f.glance()
	if got := f.idle(s.Input); got != 0 || s.Input.Unseen {
		t.Errorf("an event is not seen: idle for %v", got)
	}
	if got, want := sensor(s, "input").Says, `none for 0s, after event3 "AT Translated Set 2 keyboard"`; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	f.later(time.Minute)
	f.write("proc/bus/input/devices", "") // unplugged
	if s := f.look(); s.Input.State != Absent || len(f.input.opened) != 0 {
		t.Errorf("after it was unplugged: %v, %d open", s.Input.State, len(f.input.opened))
	}
}

// An event that lay there for long came when it says so, if its clock can be believed, and else just now.
func TestInputHasItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		events []time.Duration // when they come, after the look before
		timed  bool
		idle   time.Duration // half a minute after that
	}{
		"one":                  {[]time.Duration{5 * time.Second}, true, 25 * time.Second},
		"several":              {[]time.Duration{time.Second, 20 * time.Second, 21 * time.Second}, true, 9 * time.Second},
		"out of order":         {[]time.Duration{20 * time.Second, time.Second}, true, 10 * time.Second},
		"just now":             {[]time.Duration{30 * time.Second}, true, 0},
		"before it was read":   {[]time.Duration{-time.Second}, true, 0},
		"to come":              {[]time.Duration{31 * time.Second}, true, 0},
		"of the wall":          {[]time.Duration{500_000 * time.Hour}, true, 0},
		"one of them is wrong": {[]time.Duration{5 * time.Second, -uptime}, true, 0},
		"by no such clock":     {[]time.Duration{5 * time.Second}, false, 0},
	} {
		f := newFake(t, "", "")
		f.input.timed = func(int) bool { return c.timed }
		write := f.plug()
		f.look()
		f.later(time.Hour)
		f.look()
		for _, after := range c.events {
			write(eventOf(f.uptime()+after, evKey, keyDown))
		}
		f.later(30 * time.Second)
		if got := f.idle(f.look().Input); got != c.idle {
			t.Errorf("%s: idle for %v, want %v", name, got, c.idle)
		}
	}
}

// What programs tell a keyboard is nobody's input, although it is read from it.
func TestProgramsAreNobody(t *testing.T) {
	for _, c := range []struct {
		name       string
		kind, code uint16
		human      bool
	}{
		{"a lamp", evLED, 1, false},
		{"how it repeats", evRepeat, 0, false},
		{"a sound", evSound, 2, false},
		{"a rumble", evForceStatus, 0, false},
		{"the end of a record", evSync, 0, false},
		{"more than there was room for", evSync, syncDropped, true},
		{"a key", evKey, keyDown, true},
		{"a finger", evAbsolute, 0, true},
		{"what is not known", 0x1e, 0, true},
	} {
		f := newFake(t, "", "")
		write := f.plug()
		f.look()
		f.later(time.Hour)
		write(eventOf(f.uptime(), c.kind, c.code))
		write(eventOf(f.uptime(), evSync, 0))
		if got := f.idle(f.look().Input) == 0; got != c.human {
			t.Errorf("%s: taken for somebody: %v", c.name, got)
		}
	}
	f := newFake(t, "", "")
	write := f.plug()
	f.look()
	f.later(time.Hour)
	write([]byte("half a record"))
	if got := f.idle(f.look().Input); got != 0 {
		t.Errorf("what is not understood: idle for %v", got)
	}
}

// With nothing hosted nobody looks for half a minute: the quiet minute begins with the key nonetheless, not with the look
// that finds it, and a lamp is no key.
func TestQuietMinuteBeginsWithTheKey(t *testing.T) {
	f := newFake(t, "", "")
	write := f.plug()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		m := newMachine(f.roots, zap.NewNop(), time.Now)
		m.input.mono = func() time.Duration { return uptime + time.Since(begin) }
		m.input.timed = func(int) bool { return true }
		h := &fakeHosted{from: begin}
		g := New(Config{Dir: t.TempDir()}, Deps{Sensors: m, Limiter: &fakeLimiter{}, Log: zap.NewNop()})
		g.Attach(h)
		g.Start()
		defer g.Stop()
		if err := g.Change(context.Background(), func(s *Settings) { s.On, s.Busy = true, 100 }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Second - time.Since(begin))
		write(eventOf(m.input.mono(), evKey, keyDown))
		time.Sleep(35 * time.Second)
		write(eventOf(m.input.mono(), evLED, 1))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		said := strings.Join(h.said(), "\n")
		if !strings.Contains(said, "1m5s resume") {
			t.Errorf("a key at 5s and a lamp at 40s:\n%s", said)
		}
	})
}

// shut has the open file of the keyboard be one that cannot be read.
func (f *fakeMachine) shut() {
	f.t.Helper()
	dir, err := unix.Open(f.root, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer unix.Close(dir)
	if err := unix.Dup3(dir, f.input.opened["event3"].fd, unix.O_CLOEXEC); err != nil {
		f.t.Fatal(err)
	}
}

// A device that fails counts as somebody once, and says so. From then on something else tells of it, or nobody can
// say; it is watched again when it works again.
func TestInputDeviceFails(t *testing.T) {
	f := newFake(t, "", "")
	f.plug()
	f.look()
	f.later(time.Hour)
	path := filepath.Join(f.root, "dev/input/event3")
	f.shut()
	if err := os.Rename(path, path+".pipe"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil { // it can be opened, and not read
		t.Fatal(err)
	}
	s := f.glance()
	if got, want := sensor(s, "input").Says, "none for 0s: event3: read: is a directory"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	if got, want := Decide(f.now, onSettings(), State{}, s).Why, "somebody may be at this machine: event3: read: is a directory"; got != want {
		t.Errorf("it pauses because %q, want %q", got, want)
	}
	for range 3 {
		f.later(LookEvery)
		s = f.look()
	}
	if got := sensor(s, "input"); got.By != "i8042 interrupts; event3: read: is a directory" || f.idle(s.Input) != 2*LookEvery {
		t.Errorf("a minute and a half later, by interrupts: %+v, idle for %v", got, f.idle(s.Input))
	}
	if d := Decide(f.now, onSettings(), State{}, s); !d.Run {
		t.Errorf("it holds giving off: %s", d.Why)
	}
	f.write("proc/interrupts", "LOC:     229421     222554   Local timer interrupts\n")
	f.later(LookEvery)
	s = f.look()
	want := "nobody can say whether somebody is at this machine: event3: read: is a directory; nothing else tells of it"
	if got := Decide(f.now, onSettings(), State{}, s).Why; got != want || s.Input.State != Unknown {
		t.Errorf("without interrupts it pauses because %q, want %q", got, want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".pipe", path); err != nil {
		t.Fatal(err)
	}
	f.later(LookEvery)
	if s = f.look(); sensor(s, "input").By != "input devices" || f.idle(s.Input) != 0 || !s.Input.Unseen {
		t.Errorf("when it works again: %+v, %+v", sensor(s, "input"), s.Input)
	}
}
