package give

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// xSetup is what a server says of itself that has a vendor's name, two formats and one screen.
func xSetup(vendor string, root uint32) []byte {
	body := make([]byte, 32)
	binary.LittleEndian.PutUint16(body[16:], uint16(len(vendor)))
	body[20], body[21] = 1, 2
	body = append(body, padded([]byte(vendor))...)
	body = append(body, make([]byte, 16)...)
	body = binary.LittleEndian.AppendUint32(body, root)
	body = append(body, make([]byte, 36)...)
	head := []byte{1, 0, 11, 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint16(head[6:], uint16(len(body)/4))
	return append(head, body...)
}

// startX is an X server that knows one extension, and one cookie.
func startX(t *testing.T, cookie string, idle func() uint32) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "X0"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				serveX(c, cookie, idle)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return dir
}

func serveX(c net.Conn, cookie string, idle func() uint32) {
	head := make([]byte, 12)
	if _, err := io.ReadFull(c, head); err != nil {
		return
	}
	n := func(i int) int { k := int(binary.LittleEndian.Uint16(head[i:])); return k + -k&3 }
	auth := make([]byte, n(6)+n(8))
	if _, err := io.ReadFull(c, auth); err != nil {
		return
	}
	if !strings.Contains(string(auth), cookie) {
		c.Write([]byte{0, 2, 11, 0, 0, 0, 1, 0, 'n', 'o', 0, 0})
		return
	}
	c.Write(xSetup("vendor", 0x123))
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		body := make([]byte, int(binary.LittleEndian.Uint16(head[2:]))*4-4)
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		reply := make([]byte, 32)
		switch {
		case head[0] == xQueryExt && string(body[4:4+len(xExtension)]) == xExtension:
			reply[0], reply[8], reply[9] = 1, 1, 144
		case head[0] == 144 && binary.LittleEndian.Uint32(body) == 0x123:
			c.Write(append([]byte{28}, make([]byte, 31)...)) // an event comes first
			reply[0] = 1
			binary.LittleEndian.PutUint32(reply[16:], idle())
		}
		c.Write(reply)
	}
}

// xauth makes a file of cookies.
func xauth(entries ...[2]string) (out []byte) {
	for _, e := range entries {
		out = append(out, 1, 0)
		for _, text := range []string{"host", e[0], xCookie, e[1]} {
			out = binary.BigEndian.AppendUint16(out, uint16(len(text)))
			out = append(out, text...)
		}
	}
	return out
}

const someCookie = "0123456789abcdef"

func TestXServer(t *testing.T) {
	var mu sync.Mutex
	idle := uint32(90_000)
	dir := startX(t, someCookie, func() uint32 { mu.Lock(); defer mu.Unlock(); return idle })
	runtime := t.TempDir()
	os.Mkdir(filepath.Join(runtime, "gdm"), 0o700)
	if err := os.WriteFile(filepath.Join(runtime, "gdm/Xauthority"), xauth([2]string{"7", "fedcba9876543210"}, [2]string{"0", someCookie}), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFake(t, "", "")
	f.input.screens = func(now func() time.Time) []screen {
		return findScreens(dir, runtime, func(string) string { return "" }, now)
	}
	f.write("proc/bus/input/devices", usbMouse)
	f.look()
	f.later(time.Hour)
	s := f.look()
	if got := sensor(s, "input").By; got != "the X server's idle time" || f.idle(s.Input) != 90*time.Second {
		t.Errorf("seen by %q, idle for %v", got, f.idle(s.Input))
	}
	mu.Lock()
	idle = 4
	mu.Unlock()
	if got := f.idle(f.glance().Input); got != 4*time.Millisecond {
		t.Errorf("idle for %v", got)
	}
	// Beside Wayland the X server knows only half of it.
	if err := os.WriteFile(filepath.Join(runtime, "wayland-0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sensor(f.look(), "input").By; got != "xhci_hcd interrupts" {
		t.Errorf("beside Wayland seen by %q", got)
	}
}

func TestXServerRefuses(t *testing.T) {
	dir := startX(t, "another cookie", func() uint32 { return 0 })
	x := newXServer(dir, t.TempDir(), func(string) string { return "" })
	defer x.close()
	if _, there := x.idle(context.Background()); there != Unknown {
		t.Errorf("who refuses is %v", there)
	}
	x.socket += "0"
	if _, there := x.idle(context.Background()); there != Absent {
		t.Errorf("who is not there is %v", there)
	}
}

// A real one, where it is installed.
func TestRealXServer(t *testing.T) {
	program, err := exec.LookPath("Xvfb")
	if err != nil {
		t.Skip("there is no Xvfb")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(program, "-displayfd", "3", "-screen", "0", "64x64x24", "-nolisten", "tcp")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(os.Interrupt); cmd.Wait() }()
	w.Close()
	r.SetDeadline(time.Now().Add(20 * time.Second))
	number := make([]byte, 8)
	n, err := r.Read(number)
	if err != nil {
		t.Skipf("Xvfb does not start: %v", err)
	}
	display := strings.TrimSpace(string(number[:n]))
	x := newXServer("/tmp/.X11-unix", t.TempDir(), func(key string) string { return map[string]string{"DISPLAY": ":" + display + ".0"}[key] })
	defer x.close()
	idle, there := x.idle(context.Background())
	if there != Yes || idle > time.Minute {
		t.Errorf("display %s: %v, %v", display, idle, there)
	}
	t.Logf("display %s is idle for %v", display, idle)
}

func FuzzX(f *testing.F) {
	f.Add(xSetup("The X.Org Foundation", 5), xauth([2]string{"0", someCookie}))
	f.Add([]byte{0, 2, 11, 0, 0, 0, 1, 0, 'n', 'o', 0, 0}, []byte{1})
	f.Fuzz(func(t *testing.T, setup, auth []byte) {
		_, _ = readXSetup(bytes.NewReader(setup))
		_, _ = readXReply(bytes.NewReader(setup))
		if c := cookieIn(auth, "0"); c != nil && len(c) != 16 {
			t.Errorf("a cookie of %d bytes", len(c))
		}
	})
}
