package program

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// again says whether this run of a test's program is not the first one of its cell.
func again() bool {
	f, err := os.OpenFile("ran", os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		f.Close()
	}
	return err != nil
}

// serveOnce is a program that takes connections in its first run, and does something else in the next ones.
func serveOnce(next func()) {
	if again() {
		next()
		return
	}
	serveSDK()
}

// takeAndDie takes the connection that it is lent, says nothing, and ends.
func takeAndDie() {
	var page cellproto.Page
	for {
		buf, oob := make([]byte, cellproto.MaxHandoff), make([]byte, syscall.CmsgSpace(4))
		n, on, _, _, err := syscall.Recvmsg(4, buf, oob, 0)
		if err != nil {
			panic(err)
		}
		m, err := cellproto.ParseHandoff(buf[:n])
		if err != nil {
			panic(err)
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:on])
		if err != nil {
			panic(err)
		}
		fds, err := syscall.ParseUnixRights(&msgs[0])
		if err != nil {
			panic(err)
		}
		switch m.Type {
		case cellproto.HandoffPage:
			mem, err := syscall.Mmap(fds[0], 0, cellproto.PageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
			if err != nil {
				panic(err)
			}
			if page = cellproto.NewPage(mem, 0); !page.Take() {
				os.Exit(6)
			}
		case cellproto.HandoffConn:
			os.Exit(5)
		}
	}
}

// asleep is a program that has run once, and sleeps.
func asleep(t *testing.T, mode string) *Program {
	t.Helper()
	if newNoGrants() {
		t.Skip("connections cannot be handed over on this system")
	}
	p := newProgram(t, testConfig(cellDir(t), mode), Deps{})
	mustConn(t, p)
	if err := p.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return p
}

// caller gives both ends of a caller's connection, on which it has said something.
func caller(t *testing.T) (near net.Conn, far *net.UnixConn) {
	t.Helper()
	a, b, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	if _, err := a.Write([]byte(said)); err != nil {
		t.Fatal(err)
	}
	return a, b.(*net.UnixConn)
}

const said = "what the caller has said"

// checkUntouched sees that a connection is as its caller has left it.
func checkUntouched(t *testing.T, near net.Conn, far *net.UnixConn) {
	t.Helper()
	buf := make([]byte, 2*len(said))
	if n, err := far.Read(buf); err != nil || string(buf[:n]) != said {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	far.Write([]byte("answer"))
	if n, err := near.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("the caller reads %q, %v", buf[:n], err)
	}
}

// TestLent: who calls a program that sleeps is handed over before it has said hello.
func TestLent(t *testing.T) {
	p := asleep(t, "sdk")
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cellproto.NewConn(near, cellproto.Config{Opener: true})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	go func() { defer close(ran); _ = c.Run() }()
	t.Cleanup(func() { c.Close(); <-ran })
	asked := false
	if !p.GrantAsleep(far.(*net.UnixConn), "uid:7", time.Time{}, func([]byte) bool { asked = true; return true }) {
		t.Fatal("it is not handed over")
	}
	mustAsk(t, c, "who", "", "uid:7")
	if s := p.State(); !asked || s.Starts != 2 || s.Waiting != 0 || s.Phase != Running {
		t.Errorf("asked whether it fits: %v, %+v", asked, s)
	}
	eventually(t, "its call is counted", func() bool { g := p.Granted(); return g.Conns == 1 && g.Served == 1 })
	near, far = caller(t)
	if p.GrantAsleep(far.(*net.UnixConn), "", time.Time{}, nil) {
		t.Error("one is lent to a program that runs")
	}
	checkUntouched(t, near, far.(*net.UnixConn))
}

// TestLentOnlyToWhoTakesThem: a program that has not said that it takes connections early, another file than ran, and a program
// that does not fit are lent none.
func TestLentOnlyToWhoTakesThem(t *testing.T) {
	for _, c := range []struct {
		what, mode string
		change     func(p *Program) error
		fits       bool
		starts     uint64
	}{
		{"an older program", "serve", func(*Program) error { return nil }, true, 1},
		{"another file", "sdk", func(p *Program) error {
			_, err := p.Install(p.files.bin)
			return err
		}, true, 2},
		{"one that does not fit", "sdk", func(*Program) error { return nil }, false, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := asleep(t, c.mode)
			if err := c.change(p); err != nil {
				t.Fatal(err)
			}
			near, far := caller(t)
			if p.GrantAsleep(far, "", time.Time{}, func([]byte) bool { return c.fits }) {
				t.Error("it is lent a connection")
			}
			checkUntouched(t, near, far)
			if s := p.State(); s.Starts != c.starts {
				t.Errorf("%d starts, want %d", s.Starts, c.starts)
			}
		})
	}
}

// TestLentComesBack: who was handed over to a program that does not start is as before, and is told what is wrong.
func TestLentComesBack(t *testing.T) {
	for mode, text := range map[string]string{"once": "exit status 3", "oncenohello": "has not said hello"} {
		t.Run(mode, func(t *testing.T) {
			p := asleep(t, mode)
			p.cfg.StartTimeout = 300 * time.Millisecond
			near, far := caller(t)
			if p.GrantAsleep(far, "", time.Time{}, nil) {
				t.Fatal("it is handed over")
			}
			_, err := p.Conn(testContext(t))
			wantError(t, err, cellproto.Unavailable, text, "")
			eventually(t, "nothing of it is left", func() bool { return p.State().PID == 0 })
			checkUntouched(t, near, far)
			if s := p.State(); s.Starts != 2 || s.Waiting != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestLentToTheStopped: it is the same when somebody stops the program while it starts.
func TestLentToTheStopped(t *testing.T) {
	p := asleep(t, "oncenohello")
	near, far := caller(t)
	given := make(chan bool)
	go func() { given <- p.GrantAsleep(far, "", time.Time{}, nil) }()
	eventually(t, "it starts", func() bool { return p.State().Starts == 2 })
	if err := p.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	if <-given {
		t.Error("it is handed over")
	}
	checkUntouched(t, near, far)
}

// TestLentAndLost: nobody else goes on with a connection that the program has taken.
func TestLentAndLost(t *testing.T) {
	p := asleep(t, "oncetaker")
	near, far := caller(t)
	if !p.GrantAsleep(far, "", time.Time{}, nil) {
		t.Fatal("it is given back")
	}
	if n, err := near.Read(make([]byte, 8)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the caller reads %d bytes, %v", n, err)
	}
}
