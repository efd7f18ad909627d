package give

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Wayland compositor tells when nobody has touched anything for a while, and when somebody does again
// (extension ext-idle-notify-v1, of KDE, sway and others): four requests of fixed form, and five events.

// compositor is a connection to one, made when it is asked.
type compositor struct {
	socket string
	now    func() time.Time
	conn   net.Conn
	idleAt time.Time // since when nobody has touched anything; zero: somebody does
}

// Object numbers are this client's to choose, in order.
const (
	waylandDisplay = 1 + iota
	waylandRegistry
	waylandCallback // of each sync: it is free again when it is done
	waylandSeat
	waylandNotifier
	waylandNotification
)

// Opcodes of requests and events.
const (
	displaySync, displayGetRegistry = 0, 1
	displayError                    = 0
	registryBind, registryGlobal    = 0, 0
	callbackDone                    = 0
	notifierGet                     = 1
	notificationIdled               = 0
	notificationResumed             = 1
)

const (
	idleNotifier = "ext_idle_notifier_v1"
	idleAfter    = time.Second // without input, until it is told
	maxWayland   = 1 << 16     // bytes of a message; the format has no more
	maxMessages  = 4096        // before an answer
)

var errNoIdle = errors.New("the compositor has no " + idleNotifier)

func (c *compositor) where() string { return c.socket }

func (c *compositor) by() string { return "the compositor's idle time" }

// idle says for how long nobody has touched anything. What shows a film counts as somebody.
func (c *compositor) idle(ctx context.Context) (time.Duration, Reading) {
	if _, err := os.Stat(c.socket); err != nil {
		return 0, Absent
	}
	err := c.listen(ctx)
	switch {
	case errors.Is(err, errNoIdle):
		c.close()
		return 0, Absent
	case err != nil:
		c.close() // the next one connects anew
		return 0, Unknown
	case c.idleAt.IsZero():
		return 0, Yes
	}
	return c.now().Sub(c.idleAt), Yes
}

// listen takes in what the compositor has told up to now.
func (c *compositor) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, busLimit)
	defer cancel()
	if c.conn == nil {
		return c.open(ctx)
	}
	if err := c.limit(ctx); err != nil {
		return err
	}
	return c.sync(nil)
}

func (c *compositor) limit(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	return c.conn.SetDeadline(deadline)
}

func (c *compositor) open(ctx context.Context) (err error) {
	var d net.Dialer
	if c.conn, err = d.DialContext(ctx, "unix", c.socket); err != nil {
		c.conn = nil
		return err
	}
	c.idleAt = time.Time{}
	if err := c.limit(ctx); err != nil {
		return err
	}
	if err := c.send(waylandDisplay, displayGetRegistry, u32(waylandRegistry)); err != nil {
		return err
	}
	names := map[string]uint32{}
	if err := c.sync(names); err != nil {
		return err
	}
	seat, hasSeat := names["wl_seat"]
	notifier, hasNotifier := names[idleNotifier]
	if !hasSeat || !hasNotifier {
		return errNoIdle
	}
	bind := func(name uint32, iface string, id uint32) error {
		return c.send(waylandRegistry, registryBind, u32(name), waylandText(iface), u32(1), u32(id))
	}
	if err := bind(seat, "wl_seat", waylandSeat); err != nil {
		return err
	}
	if err := bind(notifier, idleNotifier, waylandNotifier); err != nil {
		return err
	}
	err = c.send(waylandNotifier, notifierGet, u32(waylandNotification), u32(uint32(idleAfter.Milliseconds())), u32(waylandSeat))
	if err != nil {
		return err
	}
	return c.sync(nil)
}

// sync asks for an answer after all that was told before, and takes that in. names takes the objects that there
// are.
func (c *compositor) sync(names map[string]uint32) error {
	if err := c.send(waylandDisplay, displaySync, u32(waylandCallback)); err != nil {
		return err
	}
	for range maxMessages {
		object, opcode, body, err := readWayland(c.conn)
		if err != nil {
			return err
		}
		switch {
		case object == waylandDisplay && opcode == displayError:
			return errors.New("the compositor reports an error")
		case object == waylandCallback && opcode == callbackDone:
			return nil
		case object == waylandRegistry && opcode == registryGlobal && names != nil:
			if name, iface, ok := parseGlobal(body); ok {
				names[iface] = name
			}
		case object == waylandNotification && opcode == notificationIdled:
			c.idleAt = c.now().Add(-idleAfter)
		case object == waylandNotification && opcode == notificationResumed:
			c.idleAt = time.Time{}
		}
	}
	return errors.New("the compositor does not answer")
}

func (c *compositor) send(object uint32, opcode uint16, args ...[]byte) error {
	body := slices.Concat(args...)
	m := append(u32(object), u32(uint32(8+len(body))<<16|uint32(opcode))...)
	_, err := c.conn.Write(append(m, body...))
	return err
}

func (c *compositor) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func u32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// waylandText is a text as arguments have it: with its length, a zero byte, and up to a word's end.
func waylandText(s string) []byte {
	return append(u32(uint32(len(s)+1)), padded(append([]byte(s), 0))...)
}

// readWayland reads one event.
func readWayland(r io.Reader) (object uint32, opcode uint16, body []byte, err error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, 0, nil, err
	}
	word := binary.NativeEndian.Uint32(head[4:])
	size := int(word >> 16)
	if size < 8 || size > maxWayland {
		return 0, 0, nil, fmt.Errorf("a message of the compositor's has %d bytes", size)
	}
	body = make([]byte, size-8)
	_, err = io.ReadFull(r, body)
	return binary.NativeEndian.Uint32(head), uint16(word), body, err
}

// parseGlobal reads what the registry says of one object: a number, and what it is.
func parseGlobal(body []byte) (name uint32, iface string, ok bool) {
	if len(body) < 8 {
		return 0, "", false
	}
	name, n := binary.NativeEndian.Uint32(body), binary.NativeEndian.Uint32(body[4:])
	if n < 1 || uint64(n) > uint64(len(body)-8) {
		return 0, "", false
	}
	return name, string(body[8 : 8+n-1]), true
}

// newCompositor gives the compositor of this user's session; nil: there is none.
func newCompositor(runtime string, getenv func(string) string, now func() time.Time) *compositor {
	name := getenv("WAYLAND_DISPLAY")
	if name == "" { // a daemon often knows none
		list, _ := filepath.Glob(filepath.Join(runtime, "wayland-*"))
		list = slices.DeleteFunc(list, func(p string) bool { return strings.HasSuffix(p, ".lock") })
		if len(list) == 0 {
			return nil
		}
		name = list[0]
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(runtime, name)
	}
	return &compositor{socket: name, now: now}
}
