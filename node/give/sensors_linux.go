package give

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// roots are where the kernel and the system say what they say. Tests have their own.
type roots struct {
	proc, sys, dev string
	systemBus      string                              // path of a socket
	sessionBus     string                              // path of a socket; "": none
	screens        func(now func() time.Time) []screen // of the desktop, finest first
}

// machine looks at a Linux machine. One goroutine at a time uses it.
type machine struct {
	roots
	log     *zap.Logger
	now     func() time.Time
	input   *inputWatch
	system  *bus
	session *bus
	before  counters // of the look before
}

// NewSensors gives the sensors of this machine.
func NewSensors(log *zap.Logger) Sensors {
	return newMachine(roots{
		proc: "/proc", sys: "/sys", dev: "/dev",
		systemBus:  "/run/dbus/system_bus_socket",
		sessionBus: filepath.Join(runtimeDir(), "bus"),
		screens: func(now func() time.Time) []screen {
			return findScreens("/tmp/.X11-unix", runtimeDir(), os.Getenv, now)
		},
	}, log, time.Now)
}

func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	return fmt.Sprintf("/run/user/%d", os.Getuid())
}

func newMachine(r roots, log *zap.Logger, now func() time.Time) *machine {
	m := &machine{roots: r, log: log, now: now, system: newBus(r.systemBus), session: newBus(r.sessionBus)}
	m.input = &inputWatch{roots: r, now: now, system: m.system, session: m.session, opened: map[string]*inputDevice{}}
	return m
}

// Look sees everything.
func (m *machine) Look(ctx context.Context, ours Usage) Snapshot {
	s := Snapshot{At: m.now()}
	add := func(of, by, says string) { s.Sensors = append(s.Sensors, Sensor{of, by, says}) }

	m.input.scan()
	s.Input = m.input.look(ctx)
	says := string(s.Input.State)
	if s.Input.State == Yes {
		says = "none for " + s.At.Sub(s.Input.Last).Round(time.Second).String()
	}
	add("input", m.input.by(), says)

	var by string
	s.LidClosed, by = m.lid(ctx)
	add("lid", by, map[Reading]string{Yes: "closed", No: "open", Absent: "none", Unknown: "unknown"}[s.LidClosed])

	s.OnBattery, s.Battery, by = m.power()
	says = map[Reading]string{Absent: "none", Unknown: "unknown", No: "plugged in", Yes: "on battery"}[s.OnBattery]
	if s.OnBattery != Absent && s.Battery >= 0 {
		says += fmt.Sprintf(", %.0f %%", s.Battery)
	}
	add("battery", by, says)

	s.Metered, by = m.metered(ctx)
	add("network", by, map[Reading]string{Yes: "metered", No: "not metered", Absent: "not metered, as far as anybody says", Unknown: "unknown"}[s.Metered])

	s.Load = m.load(ctx, ours)
	says = "unknown"
	if l := s.Load; l.Known {
		says = fmt.Sprintf("others use %.0f %% of the processors, %d MB of %d MB of memory are free, disks are busy for %.0f %%",
			l.Others, l.Free/1e6, l.Total/1e6, l.DiskBusy)
	}
	add("load", "/proc", says)
	return s
}

// Input sees whether somebody is there.
func (m *machine) Input(ctx context.Context) Input { return m.input.look(ctx) }

// Close ends the watching.
func (m *machine) Close() {
	m.input.close()
	m.system.close()
	m.session.close()
}
