package give

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// inputWatch watches for input, by whatever of this there is, finest first: the devices themselves, their
// interrupts, the desktop, logind. Each device has to be watched by one of them, else nobody can say
// whether somebody is there.
type inputWatch struct {
	roots
	now             func() time.Time
	mono            func() time.Duration // CLOCK_MONOTONIC
	timed           func(fd int) bool    // has a device tell that time of its events; false: it does not
	system, session *bus

	listed  string                  // the kernel's list of devices at the last scan
	opened  map[string]*inputDevice // by event name
	hasLid  bool
	last    Input    // when there was input last, or may have been
	state   Reading  // Absent, Unknown, or Yes: watched
	sources []string // that are in use, for people
	broken  []string // what keeps devices from being read that could be, for people
	blind   string   // why nobody can say, with Unknown

	lines  []string // of the interrupts to watch: parts of their names
	counts map[string]uint64
	desk   string // what of the desktop is asked, for people; "": nothing
	screen screen // that is asked; nil: GNOME
	coarse bool   // logind's word is needed, for want of a finer one
}

// scan finds out what there is to watch, and by what. It is done now and then, since devices come and go.
func (w *inputWatch) scan(ctx context.Context) {
	text, err := readLimited(filepath.Join(w.proc, "bus", "input", "devices"), maxDevices)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a kernel without input
		w.reset(Absent, "")
		return
	case err != nil:
		w.reset(Unknown, err.Error())
		return
	}
	w.listed = text
	if w.last.Last.IsZero() {
		w.maybe(w.now(), "the watching began") // what was before is not known
	}
	w.state, w.lines, w.sources, w.hasLid, w.broken, w.blind = Absent, nil, nil, false, nil, ""
	w.desk, w.coarse = w.findDesktop(ctx), false
	interrupts, _ := w.readInterrupts() // nil: nothing is watched by them
	found := map[string]bool{}
	for _, d := range parseDevices(text) {
		w.hasLid = w.hasLid || d.Lid
		if !d.Human {
			continue
		}
		err := fmt.Errorf("%q has no event device", d.Name)
		if d.Event != "" {
			err = w.open(d)
		}
		if err == nil {
			found[d.Event] = true
			w.watchedBy("input devices")
			continue
		}
		if d.Event != "" && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			w.broken = append(w.broken, err.Error())
		}
		if !d.Virtual { // what a program makes up is a copy of what people do, or of nothing
			w.cover(ctx, d, interrupts, err)
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
}

func byInterrupts(part string) string { return part + " interrupts" }

func (w *inputWatch) reset(to Reading, why string) {
	w.close()
	w.state, w.blind, w.sources, w.broken, w.desk, w.coarse = to, why, nil, nil, "", false
	w.lines, w.counts = nil, nil
}

func (w *inputWatch) watchedBy(source string) {
	if w.state == Absent {
		w.state = Yes
	}
	if source != "" && !slices.Contains(w.sources, source) {
		w.sources = append(w.sources, source)
	}
}

// cover finds something else to watch a device by that cannot be read, for the reason err.
func (w *inputWatch) cover(ctx context.Context, d device, interrupts map[string]uint64, err error) {
	parts, coarse := interruptsOf(d)
	if coarse && w.desk != "" {
		w.watchedBy("")
		return
	}
	watched := false
	for _, part := range parts { // of several the device does not say which are its own
		for line := range interrupts {
			if strings.Contains(line, part) {
				if !slices.Contains(w.lines, part) {
					w.lines = append(w.lines, part)
				}
				w.watchedBy(byInterrupts(part))
				watched = true
				break
			}
		}
	}
	switch {
	case watched:
	case w.desk != "":
		w.watchedBy("")
	case w.coarse:
	case w.askLogind(ctx).State == Yes:
		w.coarse = true
		w.watchedBy(byLogind)
	default:
		w.state = Unknown
		if w.blind == "" {
			w.blind = err.Error() + "; nothing else tells of it"
		}
	}
}

// interruptsOf gives parts of the names of interrupts that come when a device is used; coarse: and when others
// are.
func interruptsOf(d device) (parts []string, coarse bool) {
	switch {
	case strings.HasPrefix(d.Phys, "isa0060/"):
		return []string{"i8042"}, false
	case strings.HasPrefix(d.Phys, "usb-"): // a disk there looks like somebody
		return []string{"xhci_hcd", "xhci-hcd", "ehci_hcd", "uhci_hcd", "ohci_hcd", "dwc2", "dwc3"}, true
	case strings.HasPrefix(d.Phys, "i2c-"):
		first, _, _ := strings.Cut(d.Name, " ")
		return []string{first}, false
	}
	return nil, false
}

// look sees whether there was input since the look before.
func (w *inputWatch) look(ctx context.Context) Input {
	if text, err := readLimited(filepath.Join(w.proc, "bus", "input", "devices"), maxDevices); err == nil && text != w.listed {
		w.scan(ctx) // a device has come: who brings one is there
	}
	w.lookAtDevices()
	if err := w.lookAtInterrupts(); err != nil {
		return Input{State: Unknown, Why: err.Error()}
	}
	if w.desk != "" {
		idle, there := w.askDesktop(ctx)
		if there != Yes {
			return Input{State: Unknown, Why: w.desk + ": no answer"}
		}
		w.saw(w.now().Add(-idle), w.desk)
	}
	if w.coarse {
		in := w.askLogind(ctx)
		if in.State != Yes {
			return in
		}
		w.saw(in.Last, in.Why)
	}
	switch w.state {
	case Unknown:
		return Input{State: Unknown, Why: w.blind}
	case Absent:
		return Input{State: Absent}
	}
	return Input{State: w.state, Last: w.last.Last, Why: w.last.Why, Unseen: w.last.Unseen}
}

// saw notes that there was input at a moment, as by says.
func (w *inputWatch) saw(at time.Time, by string) {
	if !at.Before(w.last.Last) {
		w.last = Input{Last: at, Why: by}
	}
}

// maybe notes that there may have been input up to a moment, and why nobody knows.
func (w *inputWatch) maybe(at time.Time, why string) {
	if !at.Before(w.last.Last) {
		w.last = Input{Last: at, Why: why, Unseen: true}
	}
}

// lookAtInterrupts sees whether any of those have come that are watched.
func (w *inputWatch) lookAtInterrupts() error {
	before := w.counts
	w.counts = nil
	if len(w.lines) == 0 {
		return nil
	}
	all, err := w.readInterrupts()
	if err != nil {
		return err
	}
	now := w.now()
	w.counts = map[string]uint64{}
	for line, n := range all {
		part := w.partOf(line)
		if part == "" {
			continue
		}
		w.counts[line] = n
		switch was, counted := before[line]; {
		case !counted:
			w.maybe(now, "the counting of "+byInterrupts(part)+" began")
		case was != n:
			w.saw(now, byInterrupts(part))
		}
	}
	for line := range before {
		if _, counts := w.counts[line]; !counts && w.partOf(line) != "" {
			w.maybe(now, byInterrupts(w.partOf(line))+" are counted no more")
		}
	}
	return nil
}

// partOf gives the part of an interrupt's name by which it is watched; "": it is not.
func (w *inputWatch) partOf(line string) string {
	i := slices.IndexFunc(w.lines, func(part string) bool { return strings.Contains(line, part) })
	if i < 0 {
		return ""
	}
	return w.lines[i]
}

func (w *inputWatch) readInterrupts() (map[string]uint64, error) {
	text, err := readLimited(filepath.Join(w.proc, "interrupts"), maxDevices)
	if err != nil {
		return nil, err
	}
	return parseInterrupts(text), nil
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
func (w *inputWatch) findDesktop(ctx context.Context) string {
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

// byLogind is what its word is called.
const byLogind = "logind's idle hint"

// askLogind gives what logind knows: that all sessions are idle, and since when. That one is not may mean
// that nobody has told it for minutes.
func (w *inputWatch) askLogind(ctx context.Context) Input {
	unknown := Input{State: Unknown, Why: byLogind + ": no answer"}
	v, there := w.system.property(ctx, logind, logindPath, logindManager+".IdleHint")
	idle, ok := v.(bool)
	if there != Yes || !ok {
		return unknown
	}
	if !idle {
		return Input{State: Yes, Last: w.now(), Why: byLogind}
	}
	v, there = w.system.property(ctx, logind, logindPath, logindManager+".IdleSinceHintMonotonic")
	since, ok := v.(uint64) // microseconds; the clock on the wall jumps
	now, mono := w.now(), w.mono()
	if there != Yes || !ok || since > uint64(mono.Microseconds()) {
		return unknown
	}
	return Input{State: Yes, Last: now.Add(time.Duration(since)*time.Microsecond - mono), Why: byLogind}
}

// by names the sources that are in use, and what keeps finer ones from it.
func (w *inputWatch) by() string {
	return strings.Join(slices.Concat([]string{strings.Join(w.sources, ", ")}, w.broken), "; ")
}

func (w *inputWatch) close() {
	w.showOn(nil)
	for _, name := range slices.Collect(maps.Keys(w.opened)) {
		w.drop(name)
	}
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
