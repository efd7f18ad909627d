package give

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel tells of each input device what was done and when, in records of fixed form (struct input_event).

// inputDevice is a device that can be read. Of what comes of it is kept when it came.
type inputDevice struct {
	fd     int
	name   string        // for people
	timed  bool          // its events carry the time of CLOCK_MONOTONIC
	looked time.Duration // by that clock, when it was read last: what is read next has come since
}

// inputEvent is one record.
type inputEvent struct {
	at         time.Duration // by the clock of the device
	kind, code uint16
}

// Of linux/input-event-codes.h and linux/input.h.
const (
	evSync        = 0x00
	evLED         = 0x11
	evSound       = 0x12
	evRepeat      = 0x14
	evForce       = 0x15
	evPower       = 0x16
	evForceStatus = 0x17
	syncDropped   = 3

	wordBytes  = bits.UintSize / 8 // of the time's two numbers
	eventBytes = 2*wordBytes + 8
	// setClock is EVIOCSCLOCKID, _IOW('E', 0xa0, int). TUNSETIFF is another _IOW of an int: some processors have other
	// bits for the direction.
	setClock = unix.TUNSETIFF&^0xffff | 'E'<<8 | 0xa0
)

// Bounds of one look.
const (
	maxEvents = 170 // of one read
	maxDrains = 64  // reads: a mouse that never stops does not stop the looking
)

// monotonicEvents has the events of a device carry the time of CLOCK_MONOTONIC, and reports whether they do. That of
// the wall, which they carry else, jumps.
func monotonicEvents(fd int) bool {
	return unix.IoctlSetPointerInt(fd, setClock, unix.CLOCK_MONOTONIC) == nil
}

// monotonic is the time of CLOCK_MONOTONIC, which time.Now goes by too.
func monotonic() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// open opens a device, unless it is open. The error says which step failed.
func (w *inputWatch) open(d device) error {
	if w.opened[d.Event] != nil {
		return nil
	}
	fd, err := unix.Open(filepath.Join(w.dev, "input", d.Event), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: open: %w", d.Event, err)
	}
	in := &inputDevice{fd: fd, name: fmt.Sprintf("%s %q", d.Event, d.Name), timed: w.timed(fd), looked: w.mono()}
	if _, _, err := in.drain(in.looked); err != nil { // it can be opened, and no more
		unix.Close(fd)
		return fmt.Errorf("%s: read: %w", d.Event, err)
	}
	w.opened[d.Event] = in
	w.maybe(w.now(), "the watching of "+d.Event+" began")
	return nil
}

func (w *inputWatch) drop(event string) {
	unix.Close(w.opened[event].fd)
	delete(w.opened, event)
}

// lookAtDevices reads what has come of those that are open.
func (w *inputWatch) lookAtDevices() {
	now, mono := w.now(), w.mono()
	for event, d := range w.opened {
		at, came, err := d.drain(mono)
		if came {
			w.saw(now.Add(at-mono), d.name)
		}
		if err != nil { // unplugged, or broken: the next scan says what there is
			w.maybe(now, fmt.Sprintf("%s: read: %v", event, err))
			w.drop(event)
		}
	}
}

// drain reads what has come, and gives when the last of it did that people do. now is the time, by the clock of the
// device and of at.
func (d *inputDevice) drain(now time.Duration) (at time.Duration, came bool, err error) {
	since := d.looked
	d.looked = now
	var buf [maxEvents * eventBytes]byte
	for range maxDrains {
		n, err := unix.Read(d.fd, buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return at, came, nil
		case err != nil:
			return at, came, err
		case n == 0:
			return at, came, nil
		case n%eventBytes != 0: // whatever it is
			return now, true, nil
		}
		for left := buf[:n]; len(left) > 0; left = left[eventBytes:] {
			if e := parseEvent(left); e.human() {
				at, came = max(at, d.timeOf(e, since, now)), true
			}
		}
	}
	return now, true, nil
}

// timeOf gives when an event came that is read at now, and was not there at since. One that says something else
// goes by another clock: it may have come just now.
func (d *inputDevice) timeOf(e inputEvent, since, now time.Duration) time.Duration {
	if !d.timed || e.at < since || e.at > now {
		return now
	}
	return e.at
}

func parseEvent(b []byte) inputEvent {
	word := func(b []byte) int64 {
		if wordBytes == 4 {
			return int64(binary.NativeEndian.Uint32(b))
		}
		return int64(binary.NativeEndian.Uint64(b))
	}
	return inputEvent{
		at:   time.Duration(word(b))*time.Second + time.Duration(word(b[wordBytes:]))*time.Microsecond,
		kind: binary.NativeEndian.Uint16(b[2*wordBytes:]), code: binary.NativeEndian.Uint16(b[2*wordBytes+2:]),
	}
}

// human says that somebody does what an event tells of. Programs light a keyboard's lamps and set how it repeats,
// and the device tells of that too.
func (e inputEvent) human() bool {
	switch e.kind {
	case evSync:
		return e.code == syncDropped // there was more than there is room for
	case evLED, evSound, evRepeat, evForce, evPower, evForceStatus:
		return false
	}
	return true
}
