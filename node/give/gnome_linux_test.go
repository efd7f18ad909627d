package give

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// GNOME's compositor on a real bus, where both are installed: it tells for how long nobody has touched anything, and a
// key is heard of.
func TestRealGNOME(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "bus")
	startReal(t, dir, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--nosyslog", "--address=unix:path="+socket)
	eventually(t, "there is a bus", func() bool { _, err := os.Stat(socket); return err == nil })
	startReal(t, dir, "mutter", "--headless", "--virtual-monitor", "640x480", "--no-x11")
	b := newBus(socket)
	defer b.close()
	w := &inputWatch{now: time.Now, session: b, system: newBus(filepath.Join(dir, "none"))}
	var idle time.Duration
	var there Reading
	eventually(t, "nobody has touched anything for a second", func() bool {
		idle, there = w.askGNOME(context.Background())
		return there == Yes && idle >= time.Second
	})
	if by := w.findDesktop(context.Background()); by != byGNOME {
		t.Errorf("the desktop is asked by %q", by)
	}

	conn, err := dbus.Connect("unix:path=" + socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const remote = "org.gnome.Mutter.RemoteDesktop"
	var session dbus.ObjectPath
	if err := conn.Object(remote, "/org/gnome/Mutter/RemoteDesktop").Call(remote+".CreateSession", 0).Store(&session); err != nil {
		t.Skipf("keys cannot be hit there: %v", err)
	}
	for _, call := range []struct {
		method string
		args   []any
	}{{"Start", nil}, {"NotifyKeyboardKeycode", []any{uint32(30), true}}, {"NotifyKeyboardKeycode", []any{uint32(30), false}}} {
		if err := conn.Object(remote, session).Call(remote+".Session."+call.method, 0, call.args...).Err; err != nil {
			t.Skipf("keys cannot be hit there: %s: %v", call.method, err)
		}
	}
	eventually(t, "the key was heard of", func() bool {
		after, there := w.askGNOME(context.Background())
		return there == Yes && after < idle
	})
}

// startReal starts a program of the desktop's until the test ends, and skips the test where it does not run.
func startReal(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "HOME="+dir, "DBUS_SESSION_BUS_ADDRESS=unix:path="+filepath.Join(dir, "bus"),
		"DBUS_SYSTEM_BUS_ADDRESS=unix:path="+filepath.Join(dir, "none"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() || t.Skipped() {
			t.Logf("%s says: %s", name, &out)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
