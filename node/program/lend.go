package program

import (
	"bytes"
	"net"
	"os"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// A caller of a program that sleeps would wait for the program's hello to reach the nucleus, and then for its own connection to
// reach the program. One that is known to take them can find the connection when it has started: it is lent, and taken
// back untouched when there is no start.

// meeting is what a run of the program has said of itself, if the next one can be lent connections before it says so again.
type meeting struct {
	file   os.FileInfo // that ran
	schema []byte      // of its hello
}

// meet gives what a start has told, nil if a start of that file is waited for.
func (in *instance) meet(err *cellproto.Error) *meeting {
	takes := func(capability string) bool { return slices.Contains(in.hello.Capabilities, capability) }
	if err != nil || in.file.info == nil || !takes(cellproto.CapHandoff) || !takes(cellproto.CapEarly) {
		return nil
	}
	return &meeting{in.file.info, in.hello.Schema}
}

// early says whether the run that is about to start can be lent connections. One that can be taken back after its start is not.
func (in *instance) early() bool {
	return in.before != nil && in.file.info != nil && !in.file.trial && sameFile(in.before.file, in.file.info)
}

// takeBack takes back what was lent to a program that has not started, if it can be.
func (in *instance) takeBack() {
	if in.lent != nil {
		in.back = in.lent.takeBack()
	}
}

// servesLent says that it was stopped before it said hello, and may have begun to serve who it was lent.
func (in *instance) servesLent() bool { return in.lent != nil && !in.back && isClosed(in.stop) }

// settleLent leaves what was lent to the program. If it is another one than before, its callers come back and are looked at anew.
func (in *instance) settleLent() {
	if in.lent == nil {
		return
	}
	in.lent.confirm()
	if !bytes.Equal(in.before.schema, in.hello.Schema) {
		in.lent.recall()
	}
}

// GrantAsleep is Grant for a program that does not run: it has it started, and hands the connection over at once if the last
// run of the same file has said that it takes them then. It returns when the program has started, or has not. It reports false, and
// leaves the connection alone, when Grant is to be asked, which may find the program running by then.
func (p *Program) GrantAsleep(conn *net.UnixConn, subject string, until time.Time, fits func(schema []byte) bool) bool {
	in := p.awaken()
	if in == nil {
		return false
	}
	select {
	case <-in.lending:
	case <-in.started:
	}
	lent := p.lend(in, conn, subject, until, fits)
	<-in.started
	p.mu.Lock()
	p.waiting--
	p.mu.Unlock()
	if !lent || in.back {
		return false
	}
	_ = conn.Close() // the program has its own, or has lost it
	return true
}

// awaken gives the run that is starting, and counts its caller as one that waits; nil: connections cannot be lent now.
func (p *Program) awaken() *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.met == nil || p.candidate != nil || p.waiting >= cellproto.MaxWaiting || p.cur != nil && p.phase != Starting {
		return nil
	}
	in, _, err := p.next()
	if err != nil || in == nil || isClosed(in.started) {
		return nil
	}
	p.waiting++
	return in
}

// lend lends a connection to a run that starts, unless something speaks against it.
func (p *Program) lend(in *instance, conn *net.UnixConn, subject string, until time.Time, fits func(schema []byte) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isClosed(in.started) || p.cur != in || p.closed || p.resting.Load() || p.candidate != nil || isClosed(in.stop) {
		return false
	}
	return (fits == nil || fits(in.before.schema)) && in.lent.lend(conn, subject, until) == nil
}
