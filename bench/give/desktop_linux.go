package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
)

// event is something that happens to a machine with a screen, and what giving says of it.
type event struct {
	name     string
	before   string // a line for who makes it happen: what is done first, as plugging in the keyboard; see scripts/laptop.sh
	by       string // part of the sensor that sees it, which is there after that; "": any
	do, undo string // lines, likewise
	why      string // the begin of the reason to pause
	limit    time.Duration
}

// Marks for a machine that is emulated, and many times slower than one that is not.
const (
	inputLimit = 3 * time.Second
	eventLimit = 5 * time.Second
	hintLimit  = time.Minute // logind looks at when a terminal was read, which the kernel notes all 8 s
	somebody   = "somebody is at this machine: "
)

var events = map[string]event{
	"lid":     {"the lid is closed", "", "", "lid 1", "lid 0", "the lid is closed", eventLimit},
	"battery": {"it is unplugged", "", "", "unplugged 1", "unplugged 0", "the machine runs on its battery", eventLimit},
	"low":     {"the battery is at 15 %", "", "", "empty 85", "empty 0", "the battery is at 15 %", eventLimit},
	"metered": {"NetworkManager calls the network metered", "", "", "metered yes", "metered no", "the network is metered", eventLimit},
	"input":   {"a key is hit", "", "input devices", "key", "", somebody + "event", inputLimit},
	"usb":     {"a key is hit on the USB keyboard", "", "xhci_hcd interrupts", "key", "", somebody + "xhci_hcd interrupts", inputLimit},
	"ps2":     {"a key is hit on the PS/2 keyboard", "unplug usb", "i8042 interrupts", "key", "", somebody + "i8042 interrupts", inputLimit},
	"virtio":  {"a key is hit that only logind hears of", "plug virtio", "logind's idle hint", "key", "", somebody + "logind's idle hint", hintLimit},
}

// desktop has a stranger's cell hosted on a machine of systemd's, and lets happen there what hosted cells have to
// be paused for. What it is told to do is written to o.ask, a line for each.
func (o options) desktop() error {
	p, err := o.pair(loopback, loopback)
	if err != nil {
		return err
	}
	defer p.stop()
	if _, err := p.donor.ctl("give", "--busy", "100%", "--ram", "30%"); err != nil {
		return err
	}
	dir, err := p.donor.placeSoon(p.what)
	if err != nil {
		return err
	}
	if err := p.donor.host(dir); err != nil {
		return err
	}
	for _, name := range strings.Split(o.events, ",") {
		e, ok := events[name]
		if !ok {
			return fmt.Errorf("there is no event %q", name)
		}
		if err := p.donor.sees(e); err != nil {
			return err
		}
	}
	if err := p.donor.until("it goes on", func(g ctl.Giving) bool { return g.Running }); err != nil {
		return err
	}
	row("it goes on after a quiet minute", "yes", "yes", true)
	_, err = p.donor.ctl("give", "stop")
	_, gone := os.Stat(dir)
	row("of the stranger's cell is left after that", fmt.Sprint(gone == nil), "false", os.IsNotExist(gone))
	return err
}

// placeSoon is place as soon as the machine gives. One that is emulated may pause again before it has taken the cell up,
// since somebody on a bus has not answered in time.
func (m *machine) placeSoon(what offer.Offer) (dir string, err error) {
	for deadline := time.Now().Add(2 * patience); ; {
		if err := m.until("it gives", func(g ctl.Giving) bool { return g.Running }); err != nil {
			return "", err
		}
		if dir, err = m.place(what); err == nil || time.Now().After(deadline) {
			return dir, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		g, statusErr := (&ctl.Client{Dir: m.home()}).GiveStatus(ctx)
		cancel()
		if statusErr != nil {
			return "", statusErr
		}
		row("an offer was refused, and it was paused", fmt.Sprintf("%v, %q", !g.Running, g.Why), "", true)
	}
}

// host prints what holds the limits, what is watched, and what the stranger gets.
func (m *machine) host(dir string) error {
	hungry := feed(dir)
	defer hungry()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g, err := (&ctl.Client{Dir: m.home()}).GiveStatus(ctx)
	if err != nil {
		return err
	}
	row("held by", g.LimitBy, "cgroup v2", strings.HasPrefix(g.LimitBy, "cgroup v2"))
	for _, s := range g.Sensors {
		row(s.Of+", by "+s.By, s.Says, "", true)
	}
	status, err := ask[ctl.Status](m, "status", dir)
	if err != nil {
		return err
	}
	row("the stranger's program is confined by", status.SandboxTier, "T1", status.SandboxTier == "T1")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", status.ProgramPID))
	if err != nil {
		return err
	}
	group := strings.TrimSpace(string(text))
	row("its program is in", group[max(0, strings.LastIndex(group, "cellgive-")):], "cellgive-", strings.Contains(group, "cellgive-"))
	return m.until("it eats", func(g ctl.Giving) bool { return g.Used.CPU > 100*share/2 && g.Used.CPU < 100*share*1.2 })
}

// sees lets something happen and measures until giving says so.
func (m *machine) sees(e event) error {
	if err := m.before(e); err != nil {
		return err
	}
	begin := time.Now()
	if err := m.o.tell(e.do); err != nil {
		return err
	}
	if err := m.until(e.name, func(g ctl.Giving) bool { return !g.Running && strings.HasPrefix(g.Why, e.why) }); err != nil {
		return err
	}
	took := time.Since(begin)
	row(e.name+": paused after", fmt.Sprintf("%.1f s", took.Seconds()), fmt.Sprintf("<= %.0f s", e.limit.Seconds()), took <= e.limit)
	if e.undo == "" {
		return nil
	}
	if err := m.o.tell(e.undo); err != nil {
		return err
	}
	return m.until("that is over", func(g ctl.Giving) bool { return strings.HasPrefix(g.Why, "waiting for a quiet minute") })
}

// before does what has to be done before something happens. Input is seen only on a machine that nobody was at for a
// minute: else it may have been seen before.
func (m *machine) before(e event) error {
	if e.before != "" {
		if err := m.o.tell(e.before); err != nil {
			return err
		}
	}
	if e.by == "" {
		return nil
	}
	return m.until("it goes on, and input is seen by "+e.by, func(g ctl.Giving) bool {
		return g.Running && slices.ContainsFunc(g.Sensors, func(s ctl.SensorRow) bool { return s.Of == "input" && strings.Contains(s.By, e.by) })
	})
}

// tell writes a line for who makes things happen.
func (o options) tell(line string) error {
	f, err := os.OpenFile(o.ask, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
