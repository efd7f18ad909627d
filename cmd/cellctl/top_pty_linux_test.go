package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty makes a pseudo terminal of a size, and gives its two ends.
func pty(t *testing.T, columns, lines uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	v, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *v
}

// TestTopOnATerminal: the real cellctl draws in place on a real terminal, ends when it is told to, and
// leaves the terminal as it was.
func TestTopOnATerminal(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(t *testing.T, master *os.File, cmd *exec.Cmd)
		code int
	}{
		{"q", func(t *testing.T, master *os.File, _ *exec.Cmd) { press(t, master, "xyzq") }, 0},
		{"^C", func(t *testing.T, master *os.File, _ *exec.Cmd) { press(t, master, "\x03") }, 0},
		{"SIGTERM", func(t *testing.T, _ *os.File, cmd *exec.Cmd) {
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}, 128 + int(syscall.SIGTERM)},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := startFake(t)
			master, slave := pty(t, 200, 10)
			before := termios(t, slave)
			cmd := exec.Command(filepath.Join(binDir, "cellctl"), "top", n.dir, "--interval", "100ms")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.Env = append(os.Environ(), "TERM=xterm")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, if all is well
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			out := readUntil(t, master, "running  100.0 ")
			if got := termios(t, slave); got.Lflag&(unix.ICANON|unix.ECHO) != 0 {
				t.Error("the terminal is not raw")
			}
			for _, want := range []string{enterScreen, toTop, "\x1b[1mCELL ", "q quits", "calculator  running", endOfScreen} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in %q", want, out)
				}
			}
			c.end(t, master, cmd)
			out = readUntil(t, master, leaveScreen)
			select {
			case err := <-ended:
				if cmd.ProcessState.ExitCode() != c.code {
					t.Errorf("%v: %q", err, out)
				}
			case <-time.After(time.Minute):
				_ = cmd.Process.Kill()
				t.Fatalf("it goes on: %q", out)
			}
			if !strings.HasSuffix(out, leaveScreen) {
				t.Errorf("something follows: %q", out)
			}
			if got := termios(t, slave); got != before {
				t.Errorf("the terminal is left as %+v, it was %+v", got, before)
			}
		})
	}
}

func press(t *testing.T, master *os.File, keys string) {
	t.Helper()
	if _, err := master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// readUntil reads what is written to the terminal until it has text in it.
func readUntil(t *testing.T, master *os.File, text string) string {
	t.Helper()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	deadline := time.Now().Add(time.Minute)
	for !bytes.Contains(got.Bytes(), []byte(text)) {
		fds := []unix.PollFd{{Fd: int32(master.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			t.Fatal(err)
		} else if n > 0 {
			n, err := master.Read(buf)
			if err != nil {
				t.Fatalf("%v after %q", err, got.String())
			}
			got.Write(buf[:n])
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q never comes: %q", text, got.Bytes()[max(0, got.Len()-1000):])
		}
	}
	return got.String()
}
