package give

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// inputWatch watches for input, by whatever of this there is, finest first: the devices themselves, their
// interrupts, the desktop, logind. Each device has to be watched by one of them, else nobody can say
// whether somebody is there.
type inputWatch struct {
	roots
	now             func() time.Time
	system, session *bus

	opened  map[string]*inputDevice // by event name
	hasLid  bool
	last    time.Time // of input, or when the watching began
	state   Reading   // Absent, Unknown, or Yes: watched
	sources []string  // that are in use, for people

	lines  []string // of the interrupts to watch: parts of their names
	counts map[string]uint64
	desk   bool // the desktop is asked
	coarse bool // logind's word is needed, for want of a finer one
}

// inputDevice is a device that can be read: what comes of it is thrown away.
type inputDevice struct {
	fd int
}

// scan finds out what there is to watch, and by what. It is done now and then, since devices come and go.
func (w *inputWatch) scan() {
	text, err := readLimited(filepath.Join(w.proc, "bus", "input", "devices"), maxDevices)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a kernel without input
		w.reset(Absent)
		return
	case err != nil:
		w.reset(Unknown)
		return
	}
	if w.last.IsZero() {
		w.last = w.now() // what was before is not known
	}
	was := w.lines
	w.state, w.lines, w.sources, w.hasLid = Absent, nil, nil, false
	_, desk := w.askDesktop(context.Background())
	w.desk, w.coarse = desk == Yes, false
	found := map[string]bool{}
	for _, d := range parseDevices(text) {
		w.hasLid = w.hasLid || d.Lid
		if !d.Human {
			continue
		}
		if d.Event != "" && w.open(d.Event) {
			found[d.Event] = true
			w.watchedBy("input devices")
			continue
		}
		if !d.Virtual { // what a program makes up is a copy of what people do, or of nothing
			w.cover(d)
		}
	}
	for _, name := range slices.Collect(maps.Keys(w.opened)) {
		if !found[name] {
			w.drop(name)
		}
	}
	if w.desk {
		w.watchedBy("GNOME's idle time")
	}
	if !slices.Equal(was, w.lines) {
		w.counts = nil
	}
}

func (w *inputWatch) reset(to Reading) {
	w.close()
	w.state, w.lines, w.sources, w.desk, w.coarse = to, nil, nil, false, false
}

func (w *inputWatch) watchedBy(source string) {
	if w.state == Absent {
		w.state = Yes
	}
	if source != "" && !slices.Contains(w.sources, source) {
		w.sources = append(w.sources, source)
	}
}

// cover finds something else to watch a device by that cannot be read.
func (w *inputWatch) cover(d device) {
	interrupts := w.readInterrupts()
	for _, part := range interruptsOf(d) {
		for line := range interrupts {
			if !strings.Contains(line, part) {
				continue
			}
			if !slices.Contains(w.lines, part) {
				w.lines = append(w.lines, part)
			}
			w.watchedBy(part + " interrupts")
			return
		}
	}
	switch {
	case w.desk:
		w.watchedBy("")
	case w.askLogind(context.Background()).State == Yes:
		w.coarse = true
		w.watchedBy("logind's idle hint")
	default:
		w.state = Unknown
	}
}

// interruptsOf gives parts of the names of interrupts that come when a device is used.
func interruptsOf(d device) []string {
	switch {
	case strings.HasPrefix(d.Phys, "isa0060/"):
		return []string{"i8042"}
	case strings.HasPrefix(d.Phys, "usb-"): // of everything on USB: a disk there looks like somebody
		return []string{"xhci_hcd", "ehci_hcd", "uhci_hcd", "ohci_hcd", "dwc2", "dwc3"}
	case strings.HasPrefix(d.Phys, "i2c-"):
		first, _, _ := strings.Cut(d.Name, " ")
		return []string{first}
	}
	return nil
}

// look sees whether there was input since the look before.
func (w *inputWatch) look(ctx context.Context) Input {
	now := w.now()
	for name, d := range w.opened {
		came, err := d.drain()
		if came {
			w.last = now
		}
		if err != nil {
			w.drop(name) // unplugged; the next scan says what there is
			w.last = now
		}
	}
	if len(w.lines) > 0 {
		w.lookAtInterrupts(now)
	}
	if w.desk {
		idle, there := w.askDesktop(ctx)
		if there != Yes {
			return Input{State: Unknown}
		}
		w.lastAt(now.Add(-idle))
	}
	if w.coarse {
		in := w.askLogind(ctx)
		if in.State != Yes {
			return in
		}
		w.lastAt(in.Last)
	}
	return Input{State: w.state, Last: w.last}
}

func (w *inputWatch) lastAt(t time.Time) {
	if t.After(w.last) {
		w.last = t
	}
}

func (w *inputWatch) lookAtInterrupts(now time.Time) {
	counts := map[string]uint64{}
	for line, n := range w.readInterrupts() {
		if slices.ContainsFunc(w.lines, func(part string) bool { return strings.Contains(line, part) }) {
			counts[line] = n
		}
	}
	if w.counts != nil && !maps.Equal(counts, w.counts) {
		w.last = now
	}
	w.counts = counts
}

func (w *inputWatch) readInterrupts() map[string]uint64 {
	text, err := readLimited(filepath.Join(w.proc, "interrupts"), maxDevices)
	if err != nil {
		return nil
	}
	return parseInterrupts(text)
}

// askDesktop gives for how long nobody has touched anything, as GNOME's compositor has it.
func (w *inputWatch) askDesktop(ctx context.Context) (idle time.Duration, there Reading) {
	var ms uint64
	there = w.session.call(ctx, mutter, mutterPath, mutter+".GetIdletime", &ms)
	return time.Duration(min(ms, uint64(forever.Milliseconds()))) * time.Millisecond, there
}

// askLogind gives what logind knows: that all sessions are idle, and since when. That one is not may mean
// that nobody has told it for minutes.
func (w *inputWatch) askLogind(ctx context.Context) Input {
	v, there := w.system.property(ctx, logind, logindPath, logindManager+".IdleHint")
	idle, ok := v.(bool)
	if there != Yes || !ok {
		return Input{State: Unknown}
	}
	if !idle {
		return Input{State: Yes, Last: w.now()}
	}
	v, there = w.system.property(ctx, logind, logindPath, logindManager+".IdleSinceHint")
	since, ok := v.(uint64)
	if there != Yes || !ok {
		return Input{State: Unknown}
	}
	return Input{State: Yes, Last: time.UnixMicro(int64(since))}
}

// by names the sources that are in use.
func (w *inputWatch) by() string { return strings.Join(w.sources, ", ") }

// open opens a device, unless it is open, and reports whether it can be read.
func (w *inputWatch) open(event string) bool {
	if w.opened[event] != nil {
		return true
	}
	fd, err := unix.Open(filepath.Join(w.dev, "input", event), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	w.opened[event] = &inputDevice{fd: fd}
	w.last = w.now() // what was before is not known
	return true
}

func (w *inputWatch) drop(event string) {
	unix.Close(w.opened[event].fd)
	delete(w.opened, event)
}

func (w *inputWatch) close() {
	for _, name := range slices.Collect(maps.Keys(w.opened)) {
		w.drop(name)
	}
}

// maxDrains bounds the reads of one look: a mouse that never stops does not stop the looking.
const maxDrains = 64

// drain reads what has come, and reports whether anything has.
func (d *inputDevice) drain() (came bool, err error) {
	var buf [4096]byte
	for range maxDrains {
		n, err := unix.Read(d.fd, buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return came, nil
		case err != nil:
			return came, err
		case n == 0:
			return came, nil
		}
		came = true
	}
	return came, nil
}

// readLimited reads a file of the kernel's, up to limit bytes of it.
func readLimited(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit))
	return string(text), err
}
