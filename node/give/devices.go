package give

import (
	"math/bits"
	"strconv"
	"strings"
)

// A list of input devices is what the kernel gives in /proc/bus/input/devices.
const (
	maxDevices = 1 << 20 // bytes of it that are read
	maxCodes   = 1 << 10 // bits of what a device can do that are looked at
)

// device is one input device.
type device struct {
	Name    string
	Phys    string // where it is plugged in: "isa0060/serio0/input0", "usb-0000:00:14.0-1/input0"
	Event   string // "event3"; "": it has none
	Virtual bool   // a program made it: what it says, a program says
	Human   bool   // people give input by it
	Lid     bool   // it is the switch of a lid
}

// Codes of what a device can do, from linux/input-event-codes.h.
const (
	keyA         = 30
	buttonLeft   = 0x110
	buttonJoy    = 0x120
	buttonPad    = 0x130
	buttonPen    = 0x140
	buttonTouch  = 0x14a
	switchLid    = 0
	longBits     = bits.UintSize // the kernel prints words of the reader's size
	sysVirtual   = "/devices/virtual/"
	sysBluetooth = "/devices/virtual/misc/uhid/" // what bluetoothd makes for a keyboard or a mouse that somebody holds
	eventHandler = "event"
)

// parseDevices reads the kernel's list. What it does not understand it skips.
func parseDevices(text string) []device {
	var all []device
	for block := range strings.SplitSeq(text, "\n\n") {
		var d device
		for line := range strings.Lines(block) {
			kind, rest, ok := strings.Cut(strings.TrimRight(line, "\n"), ": ")
			key, value, hasValue := strings.Cut(rest, "=")
			if !ok || !hasValue {
				continue
			}
			switch kind + ":" + key {
			case "N:Name":
				d.Name = strings.Trim(value, `"`)
			case "P:Phys":
				d.Phys = value
			case "S:Sysfs":
				d.Virtual = strings.HasPrefix(value, sysVirtual) && !strings.HasPrefix(value, sysBluetooth)
			case "H:Handlers":
				for h := range strings.FieldsSeq(value) {
					if n, ok := strings.CutPrefix(h, eventHandler); ok {
						if _, err := strconv.ParseUint(n, 10, 16); err == nil {
							d.Event = h
						}
					}
				}
			case "B:KEY":
				for _, code := range []int{keyA, buttonLeft, buttonJoy, buttonPad, buttonPen, buttonTouch} {
					d.Human = d.Human || hasBit(value, code)
				}
			case "B:SW":
				d.Lid = hasBit(value, switchLid)
			}
		}
		if d.Name != "" || d.Event != "" {
			all = append(all, d)
		}
	}
	return all
}

// hasBit looks up a bit in words of hexadecimal digits, of which the last has the lowest bits.
func hasBit(words string, code int) bool {
	list := strings.Fields(words)
	i := len(list) - 1 - code/longBits
	if code < 0 || code >= maxCodes || i < 0 {
		return false
	}
	word, err := strconv.ParseUint(list[i], 16, longBits)
	return err == nil && word>>(code%longBits)&1 == 1
}

// parseInterrupts reads /proc/interrupts: how often each came, on all processors together, by the words
// after the counts.
func parseInterrupts(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		_, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		fields, n := strings.Fields(rest), uint64(0)
		for len(fields) > 0 {
			v, err := strconv.ParseUint(fields[0], 10, 64)
			if err != nil {
				break
			}
			n, fields = n+v, fields[1:]
		}
		if len(fields) > 0 {
			out[strings.Join(fields, " ")] += n
		}
	}
	return out
}
