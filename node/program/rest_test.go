package program

import (
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// A program at rest stands still in the middle of a call, and nothing starts it; then it goes on where it was.
func TestRest(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "serve"), Deps{})
	mustConn(t, p)
	pid := p.State().PID
	answered := make(chan error, 1)
	go func() {
		_, err := call(testContext(t), p, "sleep", []byte{0, 0, 1, 0x2c}, 0)
		answered <- err
	}()
	eventually(t, "a call is in flight", func() bool { return p.InFlight() == 1 })
	p.Decline()
	if err := p.Begin(); cellproto.KindOf(err) != cellproto.Overloaded || cellproto.RetryAfterOf(err) == 0 {
		t.Errorf("declining: %v", err)
	}
	p.Rest()
	p.Rest() // once is enough
	eventually(t, "it stands", func() bool { return stopped(t, pid) })
	if _, err := p.Conn(testContext(t)); cellproto.KindOf(err) != cellproto.Overloaded {
		t.Errorf("it is begun: %v", err)
	}
	if p.Ready() != nil || p.State().Phase != Frozen {
		t.Errorf("%+v", p.State())
	}
	select {
	case err := <-answered:
		t.Errorf("it answers: %v", err)
	default:
	}
	p.Rise()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if got, err := call(testContext(t), p, "echo", []byte(`1`), cellproto.JSON); err != nil || string(got) != "1" {
		t.Errorf("%s, %v", got, err)
	}
	if s := p.State(); s.PID != pid || s.Starts != 1 || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
}

// Who is stopped at rest is killed: to end in good order it would have to run.
func TestRestThenStop(t *testing.T) {
	cfg := testConfig(cellDir(t), "serve")
	p := newProgram(t, cfg, Deps{})
	mustConn(t, p)
	pid := p.State().PID
	p.Rest()
	if err := p.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	checkReaped(t, pid)
	if s := p.State(); !strings.Contains(s.LastExit, "killed") || s.Crashes != 0 {
		t.Errorf("%+v", s)
	}
	p.Rise()
	mustConn(t, p)
}

// What loses its connection at rest does not run again to end in good order.
func TestRestThenLost(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "serve"), Deps{})
	mustConn(t, p)
	pid := p.State().PID
	p.Rest()
	eventually(t, "it stands", func() bool { return stopped(t, pid) })
	p.mu.Lock()
	conn := p.cur.conn
	p.mu.Unlock()
	conn.Close()
	eventually(t, "nothing is left", func() bool { return p.State().PID == 0 })
	if s := p.State(); !strings.Contains(s.LastExit, "killed") {
		t.Errorf("it ended by itself: %+v", s)
	}
}

// What is on its way in when the rest begins does not come in.
func TestRestWhileItStarts(t *testing.T) {
	p := newProgram(t, testConfig(cellDir(t), "late"), Deps{})
	started := make(chan error, 1)
	go func() {
		_, err := p.Conn(testContext(t))
		started <- err
	}()
	eventually(t, "it starts", func() bool { return p.State().Phase == Starting })
	p.Rest()
	if err := <-started; !cellproto.KindOf(err).NeverRan() {
		t.Errorf("%v", err)
	}
	eventually(t, "nothing is left", func() bool { return p.State().Phase == Idle })
	p.Rise()
	mustConn(t, p)
}
