package give

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// supply is a source of power, as far as it tells.
type supply struct {
	kind, scope, status       string
	present, online, capacity int // negative: it does not say
}

// readSupply reads of a source what power goes by, and no more: each file may ask the machine's firmware.
func readSupply(dir string) (s supply, err error) {
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	number := func(name string) int {
		n, err := strconv.Atoi(text(name))
		if err != nil {
			return -1
		}
		return n
	}
	b, err := os.ReadFile(filepath.Join(dir, "type"))
	if err != nil {
		return s, err
	}
	s = supply{strings.TrimSpace(string(b)), text("scope"), "", -1, -1, -1}
	switch {
	case s.battery():
		s.status, s.present, s.capacity = text("status"), number("present"), number("capacity")
	case s.scope != "Device":
		s.online = number("online")
	}
	return s, nil
}

// battery says that it is one of the machine, not of a mouse.
func (s *supply) battery() bool {
	return (s.kind == "Battery" || s.kind == "UPS") && s.scope != "Device"
}

// power says whether the machine runs on a battery, and how full that is; negative: nobody says.
func (m *machine) power() (onBattery Reading, percent float64, by string) {
	by = "power_supply"
	dir := filepath.Join(m.sys, "class", "power_supply")
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return Absent, -1, by
	}
	if err != nil {
		return Unknown, -1, by
	}
	var all []supply
	for _, e := range entries {
		s, err := readSupply(filepath.Join(dir, e.Name()))
		if err != nil && !os.IsNotExist(err) { // else it was unplugged just now
			return Unknown, -1, by
		}
		all = append(all, s)
	}
	onBattery, percent = powerOf(all)
	return onBattery, percent, by
}

func powerOf(all []supply) (onBattery Reading, percent float64) {
	percent = -1
	batteries, discharging, plugs, plugged, known := 0, 0, 0, 0, true
	for _, s := range all {
		switch {
		case s.battery():
			if s.present == 0 { // an empty bay
				continue
			}
			batteries++
			// Without a plug that tells, a battery that does not discharge is being fed.
			known = known && (s.status == "Charging" || s.status == "Full" || s.status == "Not charging")
			if s.status == "Discharging" {
				discharging++
			}
			if c := float64(s.capacity); c >= 0 && (percent < 0 || c < percent) {
				percent = c
			}
		case s.online >= 0:
			plugs++
			plugged += min(s.online, 1)
		}
	}
	switch {
	case batteries == 0:
		return Absent, -1
	case discharging > 0, plugs > 0 && plugged == 0:
		return Yes, percent
	case plugged > 0, known:
		return No, percent
	}
	return Unknown, percent
}

// lid says whether the lid is closed: by ACPI, else by logind. One that is there and tells nobody is
// unknown.
func (m *machine) lid(ctx context.Context) (closed Reading, by string) {
	states, _ := filepath.Glob(filepath.Join(m.proc, "acpi", "button", "lid", "*", "state"))
	for _, path := range states {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if strings.Contains(string(text), "closed") {
			return Yes, "ACPI"
		}
		closed = No
	}
	if closed == No {
		return No, "ACPI"
	}
	if !m.input.hasLid && len(states) == 0 {
		return Absent, ""
	}
	said := Unknown
	if v, there := m.system.property(ctx, logind, logindPath, logindManager+".LidClosed"); there == Yes {
		if is, ok := v.(bool); ok && is {
			said = Yes
		} else if ok {
			said = No
		}
	}
	if said = m.lidWas.or(m.now(), said); said == Unknown {
		return Unknown, ""
	}
	return said, "logind"
}

// NetworkManager's words on whether a network is metered.
const (
	metered      = 1
	meteredGuess = 3
)

// metered says whether the network is paid by the byte: by NetworkManager, else by what the default route
// goes through.
func (m *machine) metered(ctx context.Context) (Reading, string) {
	const name, path = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
	v, there := m.system.property(ctx, name, path, name+".Metered")
	if n, ok := v.(uint32); there == Yes && ok {
		if n == metered || n == meteredGuess {
			return m.netWas.or(m.now(), Yes), "NetworkManager"
		}
		return m.netWas.or(m.now(), No), "NetworkManager" // also where it says that it does not know: there is no connection then
	}
	if there != Absent {
		return m.netWas.or(m.now(), Unknown), "NetworkManager"
	}
	if m.mobile() {
		return Yes, "a mobile network"
	}
	return Absent, ""
}

// mobile says whether a default route goes through a modem.
func (m *machine) mobile() bool {
	for _, file := range []string{"route", "ipv6_route"} {
		routes, err := os.ReadFile(filepath.Join(m.proc, "net", file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(routes)) {
			if by := defaultBy(strings.Fields(line)); by != "" && m.isModem(by) {
				return true
			}
		}
	}
	return false
}

// defaultBy gives the interface of a default route, of which the kernel tells in one of two forms: by version 4 of
// the protocol it begins with that, by version 6 it ends with it. "": it is another route.
func defaultBy(route []string) string {
	const four, six = "00000000", "00000000000000000000000000000000"
	switch {
	case len(route) == 10 && route[0] == six && route[1] == "00":
		return route[9]
	case len(route) > 1 && len(route) != 10 && route[1] == four:
		return route[0]
	}
	return ""
}

func (m *machine) isModem(name string) bool {
	if filepath.Base(name) != name {
		return false
	}
	kind, err := os.ReadFile(filepath.Join(m.sys, "class", "net", name, "uevent"))
	return err == nil && strings.Contains(string(kind), "DEVTYPE=wwan")
}
