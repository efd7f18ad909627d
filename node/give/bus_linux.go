package give

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the buses.
const (
	logind        = "org.freedesktop.login1"
	logindPath    = "/org/freedesktop/login1"
	logindManager = "org.freedesktop.login1.Manager"
	mutter        = "org.gnome.Mutter.IdleMonitor"
	mutterPath    = "/org/gnome/Mutter/IdleMonitor/Core"
)

// busLimit bounds an answer: who does not give one within it has none. Where there is more time, half of what is left
// does, up to busMost: with nothing to pause a busy machine is waited for.
const (
	busLimit = 200 * time.Millisecond
	busMost  = time.Second
)

// answerIn is how long somebody on a bus is waited for.
func answerIn(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return busLimit
	}
	return max(min(time.Until(deadline)/2, busMost), busLimit)
}

// bus is a message bus, which is asked and never starts anything. It connects when it is asked.
type bus struct {
	socket string
	conn   *dbus.Conn
}

func newBus(socket string) *bus { return &bus{socket: socket} }

// property asks for a property. there is Absent if there is no such bus or nobody of that name on it, Yes
// if there is a value, else Unknown.
func (b *bus) property(ctx context.Context, name, path, property string) (v any, there Reading) {
	iface, member := split(property)
	var out dbus.Variant
	there = b.call(ctx, name, path, "org.freedesktop.DBus.Properties.Get", &out, iface, member)
	return out.Value(), there
}

// call calls a method that has one result.
func (b *bus) call(ctx context.Context, name, path, method string, result any, args ...any) Reading {
	if _, err := os.Stat(b.socket); err != nil {
		return Absent
	}
	ctx, cancel := context.WithTimeout(ctx, answerIn(ctx))
	defer cancel()
	conn, err := b.open(ctx)
	if err != nil {
		return Unknown
	}
	c := conn.Object(name, dbus.ObjectPath(path)).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if err = c.Err; err == nil {
		err = c.Store(result)
	}
	var said dbus.Error
	switch {
	case err == nil:
		return Yes
	case errors.As(err, &said):
		switch said.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
			return Absent
		}
		return Unknown
	}
	b.close() // it is broken, or slow: the next one connects anew
	return Unknown
}

func (b *bus) open(ctx context.Context) (*dbus.Conn, error) {
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	// The connection's context is its own: it outlives the call. Dialing a socket of this machine does not
	// wait, and for the rest the deadline is the call's.
	conn, err := dbus.Dial("unix:path=" + dbus.EscapeBusAddressValue(b.socket))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err = conn.Auth(nil); err == nil {
		err = conn.Hello()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	b.conn = conn
	return conn, nil
}

func (b *bus) close() {
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
}

// split gives the interface and the member of a full name.
func split(name string) (iface, member string) {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			return name[:i], name[i+1:]
		}
	}
	return "", name
}
