package give

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// fakeCompositor tells what the test says, before it answers the next question.
type fakeCompositor struct {
	mu    sync.Mutex
	tell  []byte
	knows []string // interfaces
}

func (f *fakeCompositor) says(events ...uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		f.tell = append(f.tell, event(waylandNotification, e)...)
	}
}

func event(object uint32, opcode uint16, args ...[]byte) []byte {
	body := bytes.Join(args, nil)
	m := append(u32(object), u32(uint32(8+len(body))<<16|uint32(opcode))...)
	return append(m, body...)
}

func (f *fakeCompositor) start(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
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
				f.serve(t, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
}

func (f *fakeCompositor) serve(t *testing.T, c net.Conn) {
	for {
		object, opcode, body, err := readWayland(c)
		if err != nil {
			return
		}
		f.mu.Lock()
		switch {
		case object == waylandDisplay && opcode == displayGetRegistry:
			for i, name := range f.knows {
				c.Write(event(waylandRegistry, registryGlobal, u32(uint32(i+10)), waylandText(name), u32(1)))
			}
		case object == waylandDisplay && opcode == displaySync:
			c.Write(f.tell)
			f.tell = nil
			c.Write(event(waylandCallback, callbackDone, u32(7)))
			c.Write(event(waylandDisplay, 1, u32(waylandCallback))) // its number is free
		case object == waylandNotifier && opcode == notifierGet:
			if !bytes.Equal(body, bytes.Join([][]byte{u32(waylandNotification), u32(1000), u32(waylandSeat)}, nil)) {
				t.Errorf("it asks for %v", body)
			}
		}
		f.mu.Unlock()
	}
}

func TestCompositor(t *testing.T) {
	runtime := t.TempDir()
	server := &fakeCompositor{knows: []string{"wl_compositor", "wl_seat", idleNotifier}}
	server.start(t, filepath.Join(runtime, "wayland-1"))
	f := newFake(t, "", "")
	f.input.screens = func(now func() time.Time) []screen {
		return findScreens(t.TempDir(), runtime, func(string) string { return "" }, now)
	}
	f.write("proc/bus/input/devices", usbMouse)
	s := f.look()
	if got := sensor(s, "input").By; got != "the compositor's idle time" || f.idle(s.Input) != 0 {
		t.Errorf("seen by %q, idle for %v", got, f.idle(s.Input))
	}
	f.later(time.Minute)
	if got := f.idle(f.glance().Input); got != 0 {
		t.Errorf("before it has said anything: idle for %v", got)
	}
	server.says(notificationIdled)
	f.glance()
	f.later(time.Hour)
	if got := f.idle(f.glance().Input); got != time.Hour+idleAfter && got != time.Hour {
		t.Errorf("an hour later: idle for %v", got)
	}
	server.says(notificationResumed)
	if got := f.idle(f.glance().Input); got != 0 {
		t.Errorf("when somebody is back: idle for %v", got)
	}
	server.says(notificationIdled, notificationResumed, notificationIdled)
	f.later(time.Minute)
	if got := f.idle(f.glance().Input); got != time.Second {
		t.Errorf("a touch in between: idle for %v", got)
	}
}

func TestCompositorWithoutIdle(t *testing.T) {
	runtime := t.TempDir()
	(&fakeCompositor{knows: []string{"wl_seat"}}).start(t, filepath.Join(runtime, "wayland-0"))
	c := newCompositor(runtime, func(string) string { return "" }, time.Now)
	defer c.close()
	if _, there := c.idle(context.Background()); there != Absent {
		t.Errorf("who knows nothing of idleness is %v", there)
	}
}

// A real one, where it is installed. A copy of it has no capabilities, which a container may not grant.
func TestRealCompositor(t *testing.T) {
	program, err := exec.LookPath("kwin_wayland")
	if err != nil {
		t.Skip("there is no KWin")
	}
	runtime := t.TempDir()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(t.TempDir(), "kwin_wayland")
	if err := os.WriteFile(program, data, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--virtual", "--no-lockscreen", "--socket", "wayland-0")
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+runtime, "HOME="+runtime, "DBUS_SESSION_BUS_ADDRESS=unix:path="+runtime+"/none")
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }()
	defer func() { cmd.Process.Kill(); <-ended }()
	var c *compositor
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		select {
		case <-ended:
			t.Skipf("it does not run here: %s", out.String())
		case <-time.After(50 * time.Millisecond): // nobody tells when it is ready, and it needs a second to say that it is idle
		}
		if c == nil {
			if c = newCompositor(runtime, func(string) string { return "" }, time.Now); c == nil {
				continue
			}
			defer c.close()
		}
		if idle, there := c.idle(context.Background()); there == Yes && idle >= idleAfter {
			return
		}
	}
	cmd.Process.Kill()
	<-ended
	t.Errorf("it never says that nobody touches it: %s", out.String())
}

func FuzzWayland(f *testing.F) {
	f.Add(event(waylandRegistry, registryGlobal, u32(3), waylandText(idleNotifier), u32(1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			_, _, body, err := readWayland(r)
			if err != nil {
				return
			}
			parseGlobal(body)
		}
	})
}
