package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// probe is a connection of the driver itself.
type probe struct {
	*cellproto.Conn
	ended chan struct{}
}

// newProbe says hello on t, which is the probe's from then on.
func newProbe(t cellproto.Transport, capabilities ...string) (*probe, error) {
	conn, err := cellproto.NewConn(t, cellproto.Config{Opener: true, Hello: cellproto.Hello{Agent: "bench", Capabilities: capabilities}})
	if err != nil {
		t.Close()
		return nil, err
	}
	p := &probe{conn, make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = conn.Run() // what is wrong with it the calls say
	}()
	return p, nil
}

// dial gives a probe of a cell.
func dial(c *cellDir, capabilities ...string) (*probe, error) {
	conn, err := net.Dial("unix", ctl.SocketPath(c.dir, ctl.CellSocket))
	if err != nil {
		return nil, err
	}
	return newProbe(conn, capabilities...)
}

func (p *probe) close() {
	p.Close()
	<-p.ended
}

// firstReply does something, and gives how long it takes until the program says that it is another build.
func (b *bench) firstReply(c *cellDir, want string, do func() error) (time.Duration, error) {
	p, err := dial(c)
	if err != nil {
		return 0, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(b.ctx, readyTimeout)
	defer cancel()
	begin := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	for {
		r, err := p.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "version", Codec: cellproto.JSON}, Payload: []byte("{}")})
		if err != nil {
			return 0, fmt.Errorf("the call for %q: %w", want, err)
		}
		if string(r.Payload) == strconv.Quote(want) {
			return time.Since(begin), nil
		}
	}
}

// awaitGrants waits until the nucleus hands a caller's connection to the program, which it does not while
// a program is on trial: else what is called granted would be a relay. The hello tells: only a nucleus
// has a peer ID.
func (b *bench) awaitGrants(c *cellDir) error {
	ctx, cancel := context.WithTimeout(b.ctx, readyTimeout)
	defer cancel()
	for {
		p, err := dial(c, cellproto.CapHandoff)
		if err != nil {
			return err
		}
		hello, err := p.PeerHello(ctx)
		p.close()
		if err != nil {
			return fmt.Errorf("no connection is handed over: %w", err)
		}
		if hello.Peer == "" {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// execReply starts a program as a nucleus does, without one, and gives how long its first reply takes,
// from before the socket pair is made.
func (b *bench) execReply(program, dir string) (time.Duration, error) {
	payload := load.Payload()
	begin := time.Now()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	syscall.CloseOnExec(fds[0]) // nothing else is started meanwhile
	syscall.CloseOnExec(fds[1])
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	cmd := exec.CommandContext(b.ctx, program)
	cmd.Dir, cmd.ExtraFiles = dir, []*os.File{theirs}
	cmd.Env = append(os.Environ(), cellproto.EnvFD+"=3", cellproto.EnvDir+"="+dir, cellproto.EnvName+"=echo")
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return 0, err
	}
	took, err := b.replyOn(ours, payload, begin)
	timer := time.AfterFunc(exitTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("the program: %w", werr)
	}
	return took, err
}

// replyOn makes one call on one end of a socket pair, and closes it, which ends the program.
func (b *bench) replyOn(f *os.File, payload []byte, begin time.Time) (time.Duration, error) {
	conn, err := net.FileConn(f) // duplicates it
	f.Close()
	if err != nil {
		return 0, err
	}
	p, err := newProbe(conn)
	if err != nil {
		return 0, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(b.ctx, readyTimeout)
	defer cancel()
	r, err := p.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "echo"}, Payload: payload})
	if err != nil {
		return 0, err
	}
	return time.Since(begin), load.Check(payload, r.Payload)
}
