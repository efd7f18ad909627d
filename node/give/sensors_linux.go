package give

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	cpu     processors // when they were measured last
	others  float64    // percent, as was measured then; negative: not yet
	disk    disks      // at the look before
	lidWas  answer     // of logind
	netWas  answer     // of NetworkManager
}

// answer is what somebody on a bus has said, and when.
type answer struct {
	Reading
	at time.Time
}

// answerKept is for how long an answer counts when the next one does not come: who is busy for a moment is no reason to
// pause, and then to wait for a quiet minute.
const answerKept = 5 * time.Second

// or gives what was just said, or if that is nothing what was said not long before.
func (a *answer) or(now time.Time, said Reading) Reading {
	if said != Unknown {
		*a = answer{said, now}
	}
	if age := now.Sub(a.at); a.Reading == "" || age < 0 || age >= answerKept {
		return Unknown
	}
	return a.Reading
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
	m.input = &inputWatch{
		roots: r, now: now, mono: monotonic, timed: monotonicEvents, system: m.system, session: m.session,
		opened: map[string]*inputDevice{},
	}
	return m
}

// Look sees everything.
func (m *machine) Look(ctx context.Context, ours Usage) Snapshot {
	s := Snapshot{At: m.now()}
	m.input.scan(ctx)
	s.Input = m.input.look(ctx)
	var lid, power, net string
	s.LidClosed, lid = m.lid(ctx)
	s.OnBattery, s.Battery, power = m.power()
	s.Metered, net = m.metered(ctx)
	s.Load = m.load(ctx, ours)
	s.Sensors = []Sensor{
		{Of: "input", By: m.input.by()}, {Of: "lid", By: lid}, {Of: "battery", By: power}, {Of: "network", By: net},
		{Of: "load", By: "/proc"},
	}
	for i := range s.Sensors {
		s.Sensors[i].Says = s.says(s.Sensors[i].Of, s.At)
	}
	return s
}

// Glance sees whether somebody is there and, every LoadEvery, what others use of the processors, the lid, the
// battery and the network.
func (m *machine) Glance(ctx context.Context, ours func() Usage, s Snapshot) Snapshot {
	s.Input = m.input.look(ctx)
	if m.measureDue() {
		if s.Load.Known {
			s.Load.Others, s.Load.Known = m.othersUse(ours().CPU)
		}
		s.LidClosed, _ = m.lid(ctx)
		s.OnBattery, s.Battery, _ = m.power()
		s.Metered, _ = m.metered(ctx)
	}
	now := m.now()
	s.Sensors = slices.Clone(s.Sensors)
	for i := range s.Sensors {
		if s.Sensors[i].Of == "input" {
			s.Sensors[i].By = m.input.by() // others may be there now
		}
		s.Sensors[i].Says = s.says(s.Sensors[i].Of, now)
	}
	return s
}

// says gives, for people, what was seen of something at a moment.
func (s *Snapshot) says(of string, at time.Time) string {
	switch l := s.Load; {
	case of == "input":
		return s.Input.says(at)
	case of == "lid":
		return map[Reading]string{Yes: "closed", No: "open", Absent: "none", Unknown: "unknown"}[s.LidClosed]
	case of == "battery":
		text := map[Reading]string{Absent: "none", Unknown: "unknown", No: "plugged in", Yes: "on battery"}[s.OnBattery]
		if s.OnBattery != Absent && s.Battery >= 0 {
			text += fmt.Sprintf(", %.0f %%", s.Battery)
		}
		return text
	case of == "network":
		return map[Reading]string{Yes: "metered", No: "not metered", Absent: "not metered, as far as anybody says", Unknown: "unknown"}[s.Metered]
	case l.Known:
		return fmt.Sprintf("others use %.0f %% of the processors, %d MB of %d MB of memory are free, disks are busy for %.0f %%",
			l.Others, l.Free/1e6, l.Total/1e6, l.DiskBusy)
	}
	return string(Unknown)
}

// Close ends the watching.
func (m *machine) Close() {
	m.input.close()
	m.system.close()
	m.session.close()
}
