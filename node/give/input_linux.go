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

	"github.com/godbus/dbus/v5"
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
	desk   string // what of the desktop is asked, for people; "": nothing
	screen screen // that is asked; nil: GNOME
	coarse bool   // logind's word is needed, for want of a finer one
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
	w.desk, w.coarse = w.findDesktop(), false
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
	if w.desk != "" {
		w.watchedBy(w.desk)
	}
	if !slices.Equal(was, w.lines) {
		w.counts = nil
	}
}

func (w *inputWatch) reset(to Reading) {
	w.close()
	w.state, w.lines, w.sources, w.desk, w.coarse = to, nil, nil, "", false
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
	parts, coarse := interruptsOf(d)
	if coarse && w.desk != "" {
		w.watchedBy("")
		return
	}
	interrupts := w.readInterrupts()
	for _, part := range parts {
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
	case w.desk != "":
		w.watchedBy("")
	case w.askLogind(context.Background()).State == Yes:
		w.coarse = true
		w.watchedBy("logind's idle hint")
	default:
		w.state = Unknown
	}
}

// interruptsOf gives parts of the names of interrupts that come when a device is used; coarse: and when others
// are.
func interruptsOf(d device) (parts []string, coarse bool) {
	switch {
	case strings.HasPrefix(d.Phys, "isa0060/"):
		return []string{"i8042"}, false
	case strings.HasPrefix(d.Phys, "usb-"): // a disk there looks like somebody
		return []string{"xhci_hcd", "ehci_hcd", "uhci_hcd", "ohci_hcd", "dwc2", "dwc3"}, true
	case strings.HasPrefix(d.Phys, "i2c-"):
		first, _, _ := strings.Cut(d.Name, " ")
		return []string{first}, false
	}
	return nil, false
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
	if w.desk != "" {
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

// byGNOME is what GNOME's idle time is called.
const byGNOME = "GNOME's idle time"

// screen is what shows the desktop, and knows for how long nobody has touched anything.
type screen interface {
	where() string // socket
	by() string
	idle(ctx context.Context) (time.Duration, Reading)
	close()
}

// findScreens gives what may show the desktop. Beside Wayland the X server sees only what goes to its own
// windows.
func findScreens(sockets, runtime string, getenv func(string) string, now func() time.Time) (list []screen) {
	if c := newCompositor(runtime, getenv, now); c != nil {
		return append(list, c)
	}
	return append(list, newXServer(sockets, runtime, getenv))
}

// findDesktop finds what knows for how long nobody has touched anything at this machine's seat.
func (w *inputWatch) findDesktop() string {
	ctx := context.Background()
	mine, display := w.ownSeat(ctx)
	if !mine {
		return ""
	}
	if _, there := w.askGNOME(ctx); there == Yes {
		w.showOn(nil)
		return byGNOME
	}
	if w.screens == nil {
		return ""
	}
	for _, s := range w.screens(w.now) {
		if x, ok := s.(*xserver); ok && display != "" && display != ":"+x.number { // of a seat that is somewhere else
			continue
		}
		if w.screen == nil || w.screen.where() != s.where() {
			w.showOn(s)
		}
		if _, there := w.screen.idle(ctx); there == Yes {
			return w.screen.by()
		}
	}
	w.showOn(nil)
	return ""
}

// showOn asks another screen from now on.
func (w *inputWatch) showOn(s screen) {
	if w.screen != nil {
		w.screen.close()
	}
	w.screen = s
}

func (w *inputWatch) askDesktop(ctx context.Context) (idle time.Duration, there Reading) {
	if w.screen != nil {
		return w.screen.idle(ctx)
	}
	return w.askGNOME(ctx)
}

// askGNOME asks its compositor.
func (w *inputWatch) askGNOME(ctx context.Context) (idle time.Duration, there Reading) {
	var ms uint64
	there = w.session.call(ctx, mutter, mutterPath, mutter+".GetIdletime", &ms)
	return time.Duration(min(ms, uint64(forever.Milliseconds()))) * time.Millisecond, there
}

// ownSeat says whether the session at this machine's seat is one of this user: the desktop of another one
// knows nothing of what is done there. Without logind there is nobody to ask, and one user. display is that of
// the session, if it is known.
func (w *inputWatch) ownSeat(ctx context.Context) (mine bool, display string) {
	v, there := w.system.property(ctx, logind, logindPath+"/seat/seat0", logind+".Seat.ActiveSession")
	session, ok := v.([]any)
	if there == Absent {
		return true, ""
	}
	if there != Yes || !ok || len(session) != 2 {
		return false, ""
	}
	path, _ := session[1].(dbus.ObjectPath)
	v, there = w.system.property(ctx, logind, string(path), logind+".Session.User")
	user, ok := v.([]any)
	if there != Yes || !ok || len(user) != 2 {
		return false, ""
	}
	uid, ok := user[0].(uint32)
	if v, _ = w.system.property(ctx, logind, string(path), logind+".Session.Display"); v != nil {
		display, _ = v.(string)
	}
	return ok && int(uid) == os.Getuid(), display
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
	w.showOn(nil)
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
