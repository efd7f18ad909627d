package node

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// open gives a door, and dials it.
func openDoor(t *testing.T) (*door, func() net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	d := &door{UnixListener: l}
	t.Cleanup(func() { d.Close() })
	return d, func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// Who comes while a door is shut is let in when it is opened; nobody is lost.
func TestDoor(t *testing.T) {
	d, dial := openDoor(t)
	in := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := d.Accept()
			if err != nil {
				ended <- err
				return
			}
			in <- c
		}
	}()
	dial()
	(<-in).Close()
	for range 20 {
		d.close()
		dial()
		select {
		case <-in:
			t.Fatal("somebody was let in")
		default:
		}
		d.open()
		(<-in).Close()
	}
	d.close()
	d.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	d.close() // nobody comes back any more
}

// close waits for what was accepted before to be seen to.
func TestDoorWaits(t *testing.T) {
	d, dial := openDoor(t)
	dial()
	if _, err := d.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	shut := make(chan struct{})
	go func() { d.close(); close(shut) }()
	select {
	case <-shut:
		t.Fatal("it did not wait")
	case <-time.After(time.Millisecond): // whoever is late only misses a failure
	}
	again := make(chan error, 1)
	go func() { _, err := d.AcceptUnix(); again <- err }() // comes back
	<-shut
	d.Close()
	if err := <-again; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// Callers of whom nothing was read wait while the lobby is held; those who are gone do not.
func TestLobby(t *testing.T) {
	ctx := t.Context()
	l := newLobby(ctx)
	a, b, c := &net.UnixConn{}, &net.UnixConn{}, &net.UnixConn{}
	looking, ok := l.enter(a)
	if !ok {
		t.Fatal("it is held")
	}
	if _, ok := l.enter(b); !ok {
		t.Fatal("it is held")
	}
	held := make(chan error, 1)
	go func() { held <- l.hold(ctx) }()
	<-looking.Done()
	next := func() { t.Error("one that is to wait is served") }
	if _, ok := l.enter(c); ok {
		t.Error("it is not held")
	}
	l.leave(a, false, next)
	l.leave(b, true, next)
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	waiting := l.release(ctx)
	if len(waiting) != 2 || waiting[0] != c || waiting[1] != a {
		t.Errorf("%d wait", len(waiting))
	}
	served := false
	if _, ok := l.enter(a); !ok {
		t.Fatal("it is held still")
	}
	l.leave(a, false, func() { served = true })
	if !served {
		t.Error("one is not served")
	}
	if _, ok := l.enter(b); !ok {
		t.Fatal("it is held still")
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := l.hold(short); !errors.Is(err, context.Canceled) {
		t.Errorf("with somebody inside: %v", err)
	}
	l.leave(b, true, nil)
	l.end()
}
