package give

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/celldnet/celld/cellproto"
)

// AskScope asks the user's own systemd to put this process into a scope whose control groups are its own:
// from a session over ssh or a console there is no other way to them. The error says why it does not.
func AskScope(ctx context.Context) error {
	return askScope(ctx, filepath.Join(runtimeDir(), "bus"), "/proc/self/cgroup", os.Getpid())
}

// scopeLimit bounds how long systemd may take to move a process.
const scopeLimit = 2 * time.Second

func askScope(ctx context.Context, socket, cgroup string, pid int) error {
	const (
		name = "org.freedesktop.systemd1"
		path = "/org/freedesktop/systemd1"
		op   = "ask systemd for control groups"
	)
	type property struct {
		Name  string
		Value dbus.Variant
	}
	type auxiliary struct {
		Name       string
		Properties []property
	}
	before, err := os.ReadFile(cgroup)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	b := newBus(socket)
	defer b.close()
	unit := fmt.Sprintf("celld-give-%d.scope", pid)
	var job dbus.ObjectPath
	if there := b.call(ctx, name, path, name+".Manager.StartTransientUnit", &job, unit, "fail", []property{
		{"Description", dbus.MakeVariant("celld, which gives what this machine does not use")},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
		{"Delegate", dbus.MakeVariant(true)},
	}, []auxiliary{}); there != Yes {
		return cellproto.Errorf(op, cellproto.Unavailable, "the user's systemd does not answer, or refuses")
	}
	ctx, cancel := context.WithTimeout(ctx, scopeLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond) // nobody tells when it has moved this process
	defer tick.Stop()
	for {
		now, err := os.ReadFile(cgroup)
		if err == nil && string(now) != string(before) && strings.Contains(string(now), unit) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return cellproto.Errorf(op, cellproto.Timeout, "%s was not entered in time", unit)
		}
	}
}
