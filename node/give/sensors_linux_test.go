package give

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeMachine is a machine whose kernel says what the test writes, and whose clock it sets.
type fakeMachine struct {
	*machine
	t    *testing.T
	root string
	now  time.Time
	seen Snapshot // last
}

const (
	keyboard = `I: Bus=0011 Vendor=0001 Product=0001 Version=ab41
N: Name="AT Translated Set 2 keyboard"
P: Phys=isa0060/serio0/input0
S: Sysfs=/devices/platform/i8042/serio0/input/input3
U: Uniq=
H: Handlers=sysrq kbd leds event3
B: PROP=0
B: EV=120013
B: KEY=402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe
B: MSC=10
B: LED=7
`
	usbMouse = `I: Bus=0003 Vendor=046d Product=c077 Version=0111
N: Name="Logitech USB Optical Mouse"
P: Phys=usb-0000:00:14.0-2/input0
S: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/0003:046D:C077.0001/input/input7
H: Handlers=mouse0 event7
B: PROP=0
B: EV=17
B: KEY=ff0000 0 0 0 0
B: REL=1943
B: MSC=10
`
	bluetoothMouse = `I: Bus=0005 Vendor=046d Product=b342 Version=0011
N: Name="MX Anywhere"
P: Phys=aa:bb:cc:dd:ee:ff
S: Sysfs=/devices/virtual/misc/uhid/0005:046D:B342.0003/input/input21
H: Handlers=mouse1 event21
B: PROP=0
B: EV=17
B: KEY=ff0000 0 0 0 0
B: REL=1943
B: MSC=10
`
	touchpad = `I: Bus=0018 Vendor=04f3 Product=2f65 Version=0100
N: Name="ELAN0501:00 04F3:2F65 Touchpad"
P: Phys=i2c-ELAN0501:00
S: Sysfs=/devices/pci0000:00/0000:00:15.1/i2c_designware.1/i2c-9/i2c-ELAN0501:00/input/input9
H: Handlers=mouse1 event9
B: EV=b
B: KEY=e520 10000 0 0 0 0
B: ABS=2e0800000000003
`
	powerButton = `I: Bus=0019 Vendor=0000 Product=0001 Version=0000
N: Name="Power Button"
P: Phys=LNXPWRBN/button/input0
S: Sysfs=/devices/LNXSYSTM:00/LNXPWRBN:00/input/input0
H: Handlers=kbd event0
B: EV=3
B: KEY=10000000000000 0
`
	lidSwitch = `I: Bus=0019 Vendor=0000 Product=0005 Version=0000
N: Name="Lid Switch"
P: Phys=PNP0C0D/button/input0
S: Sysfs=/devices/LNXSYSTM:00/LNXSYBUS:00/PNP0C0D:00/input/input1
H: Handlers=event1
B: EV=21
B: SW=1
`
	madeUp = `I: Bus=0003 Vendor=1234 Product=5678 Version=0001
N: Name="remapper virtual keyboard"
P: Phys=py-evdev-uinput
S: Sysfs=/devices/virtual/input/input20
H: Handlers=sysrq kbd event20
B: EV=3
B: KEY=402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe
`
	interrupts = `           CPU0       CPU1
  1:         %0          0  IR-IO-APIC    1-edge      i8042
 12:          0          5  IR-IO-APIC   12-edge      i8042
 16:         %2          0  IR-IO-APIC   16-fasteoi   intel-gpio 80 ELAN0501:00
127:          7         %1  IR-PCI-MSI-0000:00:14.0  0-edge      xhci_hcd
LOC:     229421     222554   Local timer interrupts
`
	stat0 = "cpu  1000 0 500 8000 100 10 20 0 0 0\ncpu0 500 0 250 4000 50 5 10 0 0 0\ncpu1 500 0 250 4000 50 5 10 0 0 0\n"
	// 10 s later, on 2 processors: 4 s were busy.
	stat1   = "cpu  1300 0 600 9500 200 10 20 0 0 0\ncpu0 650 0 300 4750 100 5 10 0 0 0\ncpu1 650 0 300 4750 100 5 10 0 0 0\n"
	meminfo = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"
	disks0  = "   7       0 loop0 100 0 900000 5 0 0 0 0 0 90000 90000\n 253       0 vda 100 0 1000 5 100 0 2000 7 0 1000 12\n 253       1 vda1 100 0 1000 5 100 0 2000 7 0 1000 12\n"
	disks1  = "   7       0 loop0 200 0 9900000 5 0 0 0 0 0 99000 99000\n 253       0 vda 150 0 3000 5 100 0 4000 7 0 6000 12\n 253       1 vda1 150 0 3000 5 100 0 4000 7 0 6000 12\n"
)

func countsOf(counts ...string) string {
	text := interrupts
	for i := range 3 {
		n := "0"
		if i < len(counts) {
			n = counts[i]
		}
		text = strings.ReplaceAll(text, "%"+string(rune('0'+i)), n)
	}
	return text
}

// newFake is a server: no input, no battery, no buses.
func newFake(t *testing.T, system, session string) *fakeMachine {
	f := &fakeMachine{t: t, root: t.TempDir(), now: epoch}
	f.write("proc/bus/input/devices", "")
	f.write("proc/interrupts", countsOf())
	f.write("proc/stat", stat0)
	f.write("proc/meminfo", meminfo)
	f.write("proc/diskstats", disks0)
	f.write("sys/block/vda/device/model", "disk")
	f.machine = newMachine(roots{
		proc: filepath.Join(f.root, "proc"), sys: filepath.Join(f.root, "sys"), dev: filepath.Join(f.root, "dev"),
		systemBus: system, sessionBus: session,
	}, zap.NewNop(), func() time.Time { return f.now })
	f.input.mono = func() time.Duration { return f.now.Sub(epoch) + uptime }
	f.input.timed = func(int) bool { return true }
	t.Cleanup(f.Close)
	return f
}

// uptime is the clock's time since the machine was started, at the epoch.
const uptime = 1000 * time.Hour

func (f *fakeMachine) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeMachine) later(d time.Duration) { f.now = f.now.Add(d) }

func (f *fakeMachine) look() Snapshot {
	f.seen = f.Look(context.Background(), Usage{})
	return f.seen
}

func (f *fakeMachine) glance() Snapshot {
	f.seen = f.Glance(context.Background(), func() Usage { return Usage{} }, f.seen)
	return f.seen
}

// idle gives for how long there was no input.
func (f *fakeMachine) idle(in Input) time.Duration {
	f.t.Helper()
	if in.State != Yes {
		f.t.Fatalf("input is %q", in.State)
	}
	return f.now.Sub(in.Last)
}

func sensor(s Snapshot, of string) Sensor {
	for _, x := range s.Sensors {
		if x.Of == of {
			return x
		}
	}
	return Sensor{}
}

func TestServer(t *testing.T) {
	f := newFake(t, "/nonexistent", "/nonexistent")
	f.write("proc/bus/input/devices", powerButton+"\n"+madeUp)
	s := f.look()
	if s.Input.State != Absent || s.LidClosed != Absent || s.OnBattery != Absent || s.Metered != Absent {
		t.Errorf("a server is seen as %+v", s)
	}
	if d := Decide(f.now, onSettings(), State{}, s); !s.Load.Known || !d.Run {
		t.Errorf("a server that does nothing does not give: %+v, load %+v", d, s.Load)
	}
}

func TestNoInputSubsystem(t *testing.T) {
	f := newFake(t, "", "")
	os.Remove(filepath.Join(f.root, "proc/bus/input/devices"))
	if s := f.look(); s.Input.State != Absent {
		t.Errorf("a kernel without input: %v", s.Input.State)
	}
	os.MkdirAll(filepath.Join(f.root, "proc/bus/input/devices"), 0o755) // it cannot be read
	if s := f.look(); s.Input.State != Unknown {
		t.Errorf("a list that cannot be read: %v", s.Input.State)
	}
}

func TestInterrupts(t *testing.T) {
	f := newFake(t, "", "")
	f.write("proc/bus/input/devices", keyboard+"\n"+powerButton)
	s := f.look()
	if got := sensor(s, "input"); got.By != "i8042 interrupts" || f.idle(s.Input) != 0 {
		t.Errorf("seen by %q, idle for %v when the watching begins", got.By, f.idle(s.Input))
	}
	f.later(time.Minute)
	f.write("proc/interrupts", countsOf("0", "900"))
	if got := f.idle(f.glance().Input); got != time.Minute {
		t.Errorf("a disk on USB is taken for a key: idle for %v", got)
	}
	f.later(time.Second)
	f.write("proc/interrupts", countsOf("2", "900"))
	if got := f.idle(f.glance().Input); got != 0 {
		t.Errorf("a key is not seen: idle for %v", got)
	}
	f.later(time.Second)
	if got := f.idle(f.look().Input); got != time.Second {
		t.Errorf("idle for %v, not a second", got)
	}
}

// What is plugged in between two looks counts at the next glance, and is watched from then on.
func TestDeviceComes(t *testing.T) {
	f := newFake(t, "", "")
	f.write("proc/bus/input/devices", keyboard)
	f.look()
	f.later(time.Hour)
	f.write("proc/bus/input/devices", keyboard+"\n"+usbMouse)
	s := f.glance()
	if got := sensor(s, "input").By; f.idle(s.Input) != 0 || got != "i8042 interrupts, xhci_hcd interrupts" {
		t.Errorf("a mouse comes: idle for %v, watched by %q", f.idle(s.Input), got)
	}
	f.later(time.Minute)
	f.write("proc/bus/input/devices", keyboard+"\n"+bluetoothMouse)
	if s := f.glance(); s.Input.State != Unknown {
		t.Errorf("one comes that nothing tells of: %+v", s.Input)
	}
}

func TestCoverage(t *testing.T) {
	f := newFake(t, "", "")
	for _, c := range []struct {
		devices, by string
		state       Reading
	}{
		{usbMouse, "xhci_hcd interrupts", Yes},
		{touchpad, "ELAN0501:00 interrupts", Yes},
		{strings.Replace(usbMouse, "H: Handlers=mouse0 event7\n", "", 1), "xhci_hcd interrupts", Yes}, // it has no file
		{keyboard + "\n" + usbMouse, "i8042 interrupts, xhci_hcd interrupts", Yes},
		{strings.Replace(touchpad, "0501", "0777", 2), "", Unknown}, // nothing tells of it
		{keyboard + "\n" + strings.Replace(usbMouse, "Phys=usb-0000:00:14.0-2/input0", "Phys=aa:bb:cc", 1), "i8042 interrupts", Unknown},
		{bluetoothMouse, "", Unknown},
		{keyboard + "\n" + bluetoothMouse, "i8042 interrupts", Unknown},
		{"", "", Absent},
	} {
		f.write("proc/bus/input/devices", c.devices)
		if s := f.look(); s.Input.State != c.state || sensor(s, "input").By != c.by {
			t.Errorf("state %v by %q, want %v by %q, with\n%s", s.Input.State, sensor(s, "input").By, c.state, c.by, c.devices)
		}
	}
}

// A mouse may be plugged into any controller of USB; one whose interrupts are counted since now was not watched before.
func TestInterruptsOfUSB(t *testing.T) {
	f := newFake(t, "", "")
	count := func(xhci, ehci string) {
		f.write("proc/interrupts", countsOf("0", xhci)+" 23:  "+ehci+"  0  IR-IO-APIC  23-fasteoi  ehci_hcd:usb1\n")
	}
	count("5", "5")
	f.write("proc/bus/input/devices", keyboard)
	f.look()
	f.later(time.Hour)
	f.write("proc/bus/input/devices", keyboard+"\n"+usbMouse)
	s := f.look()
	if f.idle(s.Input) != 0 || !s.Input.Unseen || s.Input.Why != "the counting of xhci_hcd interrupts began" && s.Input.Why != "the counting of ehci_hcd interrupts began" {
		t.Errorf("when it is plugged in: %+v", s.Input)
	}
	for _, c := range []struct{ xhci, ehci, why string }{{"6", "5", "xhci_hcd interrupts"}, {"6", "6", "ehci_hcd interrupts"}} {
		f.later(time.Hour)
		count(c.xhci, c.ehci)
		if in := f.glance().Input; f.idle(in) != 0 || in.Unseen || in.Why != c.why {
			t.Errorf("%+v, want %s", in, c.why)
		}
	}
	f.later(time.Minute)
	os.Remove(filepath.Join(f.root, "proc/interrupts"))
	if in := f.glance().Input; in.State != Unknown || !strings.HasSuffix(in.Why, "proc/interrupts: no such file or directory") {
		t.Errorf("without /proc/interrupts: %+v", in)
	}
}

func TestLogind(t *testing.T) {
	since := uptime - time.Hour
	system := startBus(t, map[string]any{
		logind + " IdleHint": true, logind + " IdleSinceHintMonotonic": uint64(since.Microseconds()), logind + " LidClosed": false,
		logind + " IdleSinceHint": uint64(epoch.Add(10 * time.Hour).UnixMicro()), // the clock on the wall was set since
	})
	f := newFake(t, system.socket, "")
	f.write("proc/bus/input/devices", strings.Replace(usbMouse, "Phys=usb-0000:00:14.0-2/input0", "Phys=aa:bb", 1)+"\n"+lidSwitch)
	s := f.look()
	if got := sensor(s, "input"); got.By != "logind's idle hint" || s.LidClosed != No {
		t.Errorf("%+v, lid %v", got, s.LidClosed)
	}
	f.later(time.Hour)
	if got := f.idle(f.glance().Input); got != time.Hour {
		t.Errorf("idle for %v", got)
	}
	system.set(logind+" IdleHint", false)
	system.set(logind+" LidClosed", true)
	s = f.look()
	if f.idle(s.Input) != 0 || s.LidClosed != Yes || sensor(s, "input").Says != "none for 0s, after logind's idle hint" {
		t.Errorf("in use, and closed, is seen as %+v", s)
	}
	system.set(logind+" IdleHint", true)
	since = uptime + time.Hour - 5*time.Second
	system.set(logind+" IdleSinceHintMonotonic", uint64(since.Microseconds()))
	f.later(time.Minute)
	if got := f.idle(f.glance().Input); got != time.Minute {
		t.Errorf("idle for %v", got)
	}
	system.set(logind+" IdleSinceHintMonotonic", uint64((2 * uptime).Microseconds()))
	if in := f.glance().Input; in.State != Unknown {
		t.Errorf("who is idle since tomorrow is believed: %+v", in)
	}
	system.set(logind+" IdleHint", nil) // it hangs
	if s := f.glance(); s.Input.State != Unknown || sensor(s, "input").Says != "unknown: logind's idle hint: no answer" {
		t.Errorf("who does not answer is believed: %+v", s.Input)
	}
	system.set(logind+" IdleHint", true) // and is back
	system.set(logind+" IdleSinceHintMonotonic", uint64(since.Microseconds()))
	if in := f.glance().Input; in.State != Yes {
		t.Errorf("after it has come back: %v", in.State)
	}
}

func TestDesktop(t *testing.T) {
	session := startBus(t, map[string]any{mutter + " GetIdletime": uint64(90_000)})
	f := newFake(t, "", session.socket)
	f.write("proc/bus/input/devices", strings.Replace(usbMouse, "Phys=usb-0000:00:14.0-2/input0", "Phys=aa:bb", 1))
	f.look()
	f.later(5 * time.Minute)
	s := f.look()
	if got := f.idle(s.Input); got != 90*time.Second || sensor(s, "input").By != "GNOME's idle time" {
		t.Errorf("idle for %v, by %q", got, sensor(s, "input").By)
	}
	session.set(mutter+" GetIdletime", uint64(3))
	if got := f.idle(f.glance().Input); got != 3*time.Millisecond {
		t.Errorf("idle for %v", got)
	}
}

// A disk on USB does not look like somebody where the desktop knows better, unless it is another user's.
func TestDesktopBesideUSB(t *testing.T) {
	type ref struct {
		Name string
		Path dbus.ObjectPath
	}
	type user struct {
		UID  uint32
		Path dbus.ObjectPath
	}
	session := startBus(t, map[string]any{mutter + " GetIdletime": uint64(90_000)})
	for uid, want := range map[int]string{os.Getuid(): "GNOME's idle time", os.Getuid() + 1: "xhci_hcd interrupts"} {
		system := startBus(t, map[string]any{
			logind + " ActiveSession": ref{"2", "/org/freedesktop/login1/session/_32"},
			logind + " User":          user{uint32(uid), "/org/freedesktop/login1/user/_1000"},
		})
		f := newFake(t, system.socket, session.socket)
		f.write("proc/bus/input/devices", usbMouse)
		if got := sensor(f.look(), "input").By; got != want {
			t.Errorf("with %d at the seat it is seen by %q, want %q", uid, got, want)
		}
	}
}

func TestScope(t *testing.T) {
	cgroup := filepath.Join(t.TempDir(), "cgroup")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(cgroup, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0::/user.slice/user-1000.slice/session-2.scope\n")
	if err := askScope(context.Background(), "/nonexistent", cgroup, 42); err == nil {
		t.Error("without a bus it succeeds")
	}
	systemd := startBus(t, map[string]any{})
	if err := askScope(context.Background(), systemd.socket, cgroup, 42); err == nil {
		t.Error("without systemd it succeeds")
	}
	var asked []any
	systemd.set("org.freedesktop.systemd1 StartTransientUnit", func(body []any) any {
		asked = body
		write("0::/user.slice/user-1000.slice/user@1000.service/app.slice/celld-give-42.scope\n")
		return dbus.ObjectPath("/org/freedesktop/systemd1/job/1")
	})
	if err := askScope(context.Background(), systemd.socket, cgroup, 42); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(asked)
	for _, part := range []string{"celld-give-42.scope fail", "PIDs @au [42]", "Delegate true"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in what systemd was asked: %s", part, text)
		}
	}
}

func TestLid(t *testing.T) {
	f := newFake(t, "", "")
	f.write("proc/bus/input/devices", lidSwitch)
	if s := f.look(); s.LidClosed != Unknown {
		t.Errorf("a lid that tells nobody: %v", s.LidClosed)
	}
	f.write("proc/acpi/button/lid/LID0/state", "state:      open\n")
	if s := f.look(); s.LidClosed != No || sensor(s, "lid").By != "ACPI" {
		t.Errorf("an open one: %+v", sensor(s, "lid"))
	}
	f.write("proc/acpi/button/lid/LID0/state", "state:      closed\n")
	if s := f.look(); s.LidClosed != Yes {
		t.Errorf("a closed one: %v", s.LidClosed)
	}
}

func TestBattery(t *testing.T) {
	for name, c := range map[string]struct {
		files   map[string]string
		want    Reading
		percent float64
	}{
		"plugged in":    {map[string]string{"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Charging", "BAT0/capacity": "55"}, No, 55},
		"unplugged":     {map[string]string{"AC/type": "Mains", "AC/online": "0", "BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/capacity": "55"}, Yes, 55},
		"weak charger":  {map[string]string{"AC/type": "USB", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/capacity": "55"}, Yes, 55},
		"kept at 80 %":  {map[string]string{"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Not charging", "BAT0/capacity": "80"}, No, 80},
		"two batteries": {map[string]string{"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/capacity": "90", "BAT1/type": "Battery", "BAT1/capacity": "15"}, No, 15},
		"mouse's only":  {map[string]string{"hid/type": "Battery", "hid/scope": "Device", "hid/status": "Discharging", "hid/capacity": "5"}, Absent, -1},
		"empty bay":     {map[string]string{"AC/type": "Mains", "AC/online": "1", "BAT1/type": "Battery", "BAT1/present": "0"}, Absent, -1},
		"no plug":       {map[string]string{"BAT0/type": "Battery", "BAT0/status": "Full", "BAT0/capacity": "100"}, No, 100},
		"says nothing":  {map[string]string{"BAT0/type": "Battery", "BAT0/status": "Unknown"}, Unknown, -1},
		"bay, no plug":  {map[string]string{"BAT0/type": "Battery", "BAT0/status": "Full", "BAT0/capacity": "100", "BAT1/type": "Battery", "BAT1/present": "0"}, No, 100},
		"UPS":           {map[string]string{"ups/type": "UPS", "ups/status": "Discharging", "ups/capacity": "70"}, Yes, 70},
	} {
		f := newFake(t, "", "")
		for file, text := range c.files {
			f.write("sys/class/power_supply/"+file, text+"\n")
		}
		if got, percent, _ := f.power(); got != c.want || percent != c.percent {
			t.Errorf("%s: %v at %v %%, want %v at %v %%", name, got, percent, c.want, c.percent)
		}
	}
}

func TestMetered(t *testing.T) {
	const nm = "org.freedesktop.NetworkManager Metered"
	system := startBus(t, map[string]any{})
	f := newFake(t, system.socket, "")
	if got, _ := f.metered(context.Background()); got != Absent {
		t.Errorf("without NetworkManager: %v", got)
	}
	for value, want := range map[uint32]Reading{0: No, 1: Yes, 2: No, 3: Yes, 4: No} {
		system.set(nm, value)
		if got, by := f.metered(context.Background()); got != want || by != "NetworkManager" {
			t.Errorf("%d is %v by %q, want %v", value, got, by, want)
		}
	}
	system.set(nm, uint32(2))
	f.metered(context.Background())
	system.set(nm, nil)
	f.later(answerKept - time.Second)
	if got, by := f.metered(context.Background()); got != No || by != "NetworkManager" {
		t.Errorf("when it is busy: %v by %q", got, by)
	}
	f.later(time.Second)
	if got, _ := f.metered(context.Background()); got != Unknown {
		t.Errorf("when it hangs: %v", got)
	}
	f.later(-time.Hour) // a clock that was set back is no answer
	if got, _ := f.metered(context.Background()); got != Unknown {
		t.Errorf("when it hangs, and the clock was set back: %v", got)
	}
	f = newFake(t, "", "")
	f.write("proc/net/route", "Iface\tDestination\tGateway\nwwan0\t00000000\t0101A8C0\neth0\t0001A8C0\t00000000\n")
	f.write("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\nINTERFACE=wwan0\n")
	if got, _ := f.metered(context.Background()); got != Yes {
		t.Errorf("through a modem: %v", got)
	}
	f.write("proc/net/route", "Iface\tDestination\tGateway\n")
	const none, some = "00000000000000000000000000000000", "2a010cb8000000000000000000000000"
	for text, want := range map[string]Reading{
		none + " 00 " + none + " 00 " + some + " 00000400 00000001 00000000 00000003    wwan0\n": Yes,
		some + " 40 " + none + " 00 " + none + " 00000400 00000001 00000000 00000001    wwan0\n": Absent,
		none + " 00 " + none + " 00 " + none + " ffffffff 00000001 00000000 00200200       lo\n": Absent,
	} {
		f.write("proc/net/ipv6_route", text)
		if got, _ := f.metered(context.Background()); got != want {
			t.Errorf("%v, want %v, with the route %s", got, want, text)
		}
	}
}

// With nothing to pause for it an answer may take its time.
func TestSlowBus(t *testing.T) {
	system := startBus(t, map[string]any{"org.freedesktop.NetworkManager Metered": func([]any) any {
		time.Sleep(2 * busLimit)
		return uint32(2)
	}})
	for limit, want := range map[time.Duration]Reading{lookLimit: No, watchfulLimit: Unknown} {
		f := newFake(t, system.socket, "")
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		if got, _ := f.metered(ctx); got != want {
			t.Errorf("within %v: %v, want %v", limit, got, want)
		}
		cancel()
	}
}

func TestLoad(t *testing.T) {
	f := newFake(t, "", "")
	f.Look(context.Background(), Usage{})
	f.later(10 * time.Second)
	f.write("proc/stat", stat1)
	f.write("proc/diskstats", disks1)
	l := f.Look(context.Background(), Usage{CPU: time.Second, RSS: 1e6, Disk: 1e6}).Load
	want := Load{Known: true, Cores: 2, Others: 15, Total: 16_000_000 << 10, Free: 8_000_000<<10 + 1e6, Ours: 1e6, DiskBusy: 50, DiskBPS: (4000*512 - 1e6) / 10, DiskOurs: 1e5}
	l.Others = math.Round(l.Others) // 4 s of 20 were busy, 1 s of these was ours
	if l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
	f.later(time.Second)
	os.Remove(filepath.Join(f.root, "proc/stat"))
	if l := f.look().Load; l.Known {
		t.Errorf("without /proc/stat: %+v", l)
	}
}

// A glance measures what others use over its own time, not since the last look, and says so; one that comes too soon
// says what was measured last.
func TestGlanceAtLoad(t *testing.T) {
	f := newFake(t, "", "")
	stat := func(user, idle int) {
		f.write("proc/stat", fmt.Sprintf("cpu  %d 0 0 %d 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n", user, idle))
	}
	ours := time.Duration(0)
	glance := func() float64 {
		f.seen = f.Glance(context.Background(), func() Usage { return Usage{CPU: ours} }, f.seen)
		return math.Round(f.seen.Load.Others)
	}
	stat(1000, 1000)
	f.look()
	f.later(20 * time.Second)
	stat(1000, 5000)
	if got := glance(); got != 0 {
		t.Errorf("after quiet seconds others use %v %%", got)
	}
	f.later(time.Second)
	stat(1180, 5020) // 1.8 s of 2, of which 0.2 s are ours
	ours = 200 * time.Millisecond
	if got := glance(); got != 80 {
		t.Errorf("in a busy second others use %v %%, want 80", got)
	}
	if got := sensor(f.seen, "load").Says; !strings.HasPrefix(got, "others use 80 % of the processors") {
		t.Errorf("it says %q", got)
	}
	f.later(LoadEvery / 2)
	stat(1180, 5120)
	if got := glance(); got != 80 {
		t.Errorf("half a second later others use %v %%, want 80 as before", got)
	}
	f.later(LoadEvery / 2)
	stat(1180, 5220)
	if got := math.Round(f.Look(context.Background(), Usage{CPU: ours}).Load.Others); got != 0 {
		t.Errorf("a look at a quiet second: others use %v %%", got)
	}
	f.later(time.Second)
	os.Remove(filepath.Join(f.root, "proc/stat"))
	if glance(); f.seen.Load.Known {
		t.Errorf("without /proc/stat: %+v", f.seen.Load)
	}
}

// Whoever pulls the plug, or closes the lid, is not made to wait for the next look.
func TestGlanceAtPower(t *testing.T) {
	f := newFake(t, "", "")
	f.write("proc/bus/input/devices", lidSwitch)
	f.write("proc/acpi/button/lid/LID0/state", "state:      open\n")
	for file, text := range map[string]string{"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Full", "BAT0/capacity": "99"} {
		f.write("sys/class/power_supply/"+file, text+"\n")
	}
	if s := f.look(); s.OnBattery != No || s.LidClosed != No {
		t.Fatalf("%+v", s)
	}
	f.write("sys/class/power_supply/AC/online", "0\n")
	f.write("proc/acpi/button/lid/LID0/state", "state:      closed\n")
	f.later(LoadEvery)
	s := f.glance()
	if s.OnBattery != Yes || s.LidClosed != Yes || sensor(s, "battery").Says != "on battery, 99 %" || sensor(s, "lid").Says != "closed" {
		t.Errorf("%+v", s)
	}
}

// What this very machine says is understood.
func TestThisMachine(t *testing.T) {
	s := NewSensors(zap.NewNop())
	defer s.Close()
	snap := s.Look(context.Background(), Usage{})
	if !snap.Load.Known || snap.Load.Total == 0 || snap.Load.Cores == 0 {
		t.Errorf("load is not known: %+v", snap.Load)
	}
	for _, x := range snap.Sensors {
		t.Logf("%+v", x)
	}
}

func FuzzDevices(f *testing.F) {
	f.Add(keyboard + "\n" + usbMouse + "\n" + lidSwitch)
	f.Fuzz(func(t *testing.T, text string) {
		for _, d := range parseDevices(text) {
			if strings.ContainsAny(d.Event, "/.") {
				t.Errorf("the event %q could be a path", d.Event)
			}
		}
		parseInterrupts(text)
	})
}
