package give

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/procfs/sysfs"
)

// power says whether the machine runs on a battery, and how full that is; negative: nobody says.
func (m *machine) power() (onBattery Reading, percent float64, by string) {
	by = "power_supply"
	dir := filepath.Join(m.sys, "class", "power_supply")
	if entries, err := os.ReadDir(dir); os.IsNotExist(err) || err == nil && len(entries) == 0 {
		return Absent, -1, by
	}
	fs, err := sysfs.NewFS(m.sys)
	if err != nil {
		return Unknown, -1, by
	}
	class, err := fs.PowerSupplyClass()
	if err != nil {
		return Unknown, -1, by
	}
	return powerOf(class)
}

func powerOf(class sysfs.PowerSupplyClass) (onBattery Reading, percent float64, by string) {
	by, percent = "power_supply", -1
	batteries, discharging, plugs, plugged := 0, 0, 0, 0
	for _, s := range class {
		switch s.Type {
		case "Battery", "UPS":
			if s.Scope == "Device" || s.Present != nil && *s.Present == 0 { // of a mouse; of an empty bay
				continue
			}
			batteries++
			if s.Status == "Discharging" {
				discharging++
			}
			if s.Capacity != nil && (percent < 0 || float64(*s.Capacity) < percent) {
				percent = float64(*s.Capacity)
			}
		case "Mains", "USB", "Wireless":
			if s.Scope == "Device" || s.Online == nil {
				continue
			}
			plugs++
			if *s.Online > 0 {
				plugged++
			}
		}
	}
	switch {
	case batteries == 0:
		return Absent, -1, by
	case discharging > 0, plugs > 0 && plugged == 0:
		return Yes, percent, by
	case plugged > 0, allKnown(class):
		return No, percent, by
	}
	return Unknown, percent, by
}

// allKnown says that every battery says what it does: without a plug that tells, one that does not
// discharge is being fed.
func allKnown(class sysfs.PowerSupplyClass) bool {
	for _, s := range class {
		if (s.Type == "Battery" || s.Type == "UPS") && s.Scope != "Device" &&
			s.Status != "Charging" && s.Status != "Full" && s.Status != "Not charging" {
			return false
		}
	}
	return true
}

// lid says whether the lid is closed: by logind, else by ACPI. One that is there and tells nobody is
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
	if v, there := m.system.property(ctx, logind, logindPath, logindManager+".LidClosed"); there == Yes {
		if is, ok := v.(bool); ok && is {
			return Yes, "logind"
		} else if ok {
			return No, "logind"
		}
	}
	return Unknown, ""
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
			return Yes, "NetworkManager"
		}
		return No, "NetworkManager" // also where it says that it does not know: there is no connection then
	}
	if there != Absent {
		return Unknown, "NetworkManager"
	}
	if m.mobile() {
		return Yes, "a mobile network"
	}
	return Absent, ""
}

// mobile says whether the default route goes through a modem.
func (m *machine) mobile() bool {
	routes, err := os.ReadFile(filepath.Join(m.proc, "net", "route"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(routes)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[1] != "00000000" || filepath.Base(f[0]) != f[0] {
			continue
		}
		kind, err := os.ReadFile(filepath.Join(m.sys, "class", "net", f[0], "uevent"))
		if err == nil && strings.Contains(string(kind), "DEVTYPE=wwan") {
			return true
		}
	}
	return false
}
