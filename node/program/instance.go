package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

const (
	// exitGrace is how long one of the two signs of a program's end may lag behind the other: the
	// process's exit, and the end of its connection.
	exitGrace = time.Second
	// helloGrace is how long a program that closed its connection without a hello has to exit, so
	// that the error can say how.
	helloGrace = 250 * time.Millisecond
	// dismissGrace is how long the callers that have a connection of their own may take to leave an
	// idle program: longer than the program waits for one of them to have heard the goaway.
	dismissGrace = 2 * time.Second
)

// instance is one run of the program: a process and the connection to it. It is made once, started
// once, and shut down once, by the goroutine that supervises it.
type instance struct {
	cfg    Config
	log    *zap.Logger
	out    *output
	accept func(*cellproto.Conn, *cellproto.Frame)
	bad    *atomic.Uint64
	files  *files
	pids   *pids
	before *meeting // with an earlier run; nil: there was none, or it has not started well

	// stop asks for an end in good order; hurry for an end at once.
	stop, hurry chan struct{}
	stopOnce    sync.Once
	hurryOnce   sync.Once
	why         string // of stop; set before it is closed

	look chan struct{} // capacity 1: watch is to look again
	// parking has the goroutine that supervises it let go of it, which is told by closing what is sent.
	parking chan chan struct{}
	frozen  atomic.Bool // its processes are stopped, or are about to be; set with Program.mu held

	// started is closed when the start has succeeded or failed, left when it takes no new calls any
	// more, gone when nothing of it is left.
	started, left, gone chan struct{}
	lending             chan struct{}    // closed when it can be lent connections, before it has started
	startErr            *cellproto.Error // set before started is closed

	// These belong to Program.mu.
	retired    bool // left is closed
	trial      bool // it is new: if it dies early, the one before it is taken up again
	rolledBack bool // that has happened

	// These are set before started is closed, if the start succeeds.
	file    staged
	proc    *process
	begun   time.Time // of the process
	sock    net.Conn  // that conn runs over
	conn    *cellproto.Conn
	hello   cellproto.Hello
	adapter *adapter // nil: the program speaks frames
	grants  *grants  // nil: it takes no connections of callers
	lent    *grants  // the same, of one that takes connections while it starts; set before lending is closed
	back    bool     // what it was lent has been taken back

	grantsEnded, grantsRefused uint32 // of grants, as far as they were counted; with Program.mu held

	proven     bool // its file is kept; for the goroutine that supervises it only
	background bool // it works of its own accord, and is not to be frozen

	connDone chan struct{} // closed when conn has ended
	connErr  error         // why; nil: it was closed here
}

// reason says why a run ends.
type reason int

const (
	asked     reason = iota // by Stop, or because it was idle
	exited                  // the process ended
	connLost                // the connection ended
	unstarted               // it could not be started
	parked                  // it goes on, and somebody else sees to it
)

// Why an instance is asked to stop, where that makes a difference.
const (
	whyGoaway = "the program said goaway"      // itself
	whySwap   = "a new program has taken over" // it may finish what is in flight
)

// byItself reports that a run that ended because of r did so without having been asked to.
func (in *instance) byItself(r reason) bool {
	return r == exited || r == connLost || r == asked && in.why == whyGoaway
}

func (in *instance) askStop(why string) {
	in.stopOnce.Do(func() { in.why = why; close(in.stop) })
}

func (in *instance) askHurry() {
	in.askStop("stop")
	in.hurryOnce.Do(func() { close(in.hurry) })
}

// kick has watch look again.
func (in *instance) kick() {
	select {
	case in.look <- struct{}{}:
	default:
	}
}

// thaw has the processes go on if they were frozen, and reports whether they were.
func (in *instance) thaw() bool {
	was := in.frozen.Swap(false)
	if was {
		in.proc.signal(syscall.SIGCONT)
	}
	return was
}

// start starts the process and waits until it has said hello. When it fails, shutdown is still due
// if there is a process.
func (in *instance) start() *cellproto.Error {
	in.out.forget()
	in.pids.killLeftovers()
	in.file = in.files.choose()
	if in.cfg.Speaks == celltoml.JSONL {
		return in.startLines()
	}
	err := in.startFrames()
	in.background = slices.Contains(in.hello.Capabilities, cellproto.CapBackground)
	return err
}

// exec starts the process described by s, whose path and environment it sets.
func (in *instance) exec(s spec) *cellproto.Error {
	s.path, s.dir = in.file.path, in.cfg.Dir
	if in.cfg.Sandbox != nil {
		return in.execConfined(s)
	}
	s.env = environ(in.cfg, os.LookupEnv, len(s.extra))
	in.begun = time.Now()
	proc, err := startProcess(s, in.out, in.stop)
	if err != nil {
		return explainExec(in.cfg, s.path, err)
	}
	in.proc = proc
	return nil
}

// recordPID notes the process for a nucleus after this one, while it gets ready.
func (in *instance) recordPID() {
	if in.cfg.Sandbox == nil { // else it ends with this one
		in.pids.record(in.proc.pid)
	}
}

// execConfined is exec for a program in a sandbox, which ends with this process whatever happens.
func (in *instance) execConfined(s spec) *cellproto.Error {
	box := in.cfg.Sandbox
	in.begun = time.Now()
	proc, err := startConfined(box.Launcher, box.config(in.cfg, s.path, len(s.extra) > 0, s.stdout == nil), s, in.out, in.stop)
	if err != nil {
		return startError(in.cfg, "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	in.proc = proc
	return nil
}

// connect runs the nucleus's side of the connection over t.
func (in *instance) connect(t net.Conn) error {
	conn, err := cellproto.NewConn(t, in.connConfig())
	if err != nil {
		t.Close()
		return err
	}
	in.run(t, conn)
	return nil
}

func (in *instance) connConfig() cellproto.Config {
	return cellproto.Config{
		Opener: true,
		Hello:  cellproto.Hello{Cell: in.cfg.Name, Agent: "celld", Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}},
		Accept: in.accept,
	}
}

func (in *instance) run(t net.Conn, conn *cellproto.Conn) {
	in.sock, in.conn, in.connDone = t, conn, make(chan struct{})
	go func() {
		in.connErr = conn.Run()
		close(in.connDone)
	}()
}

func (in *instance) startFrames() *cellproto.Error {
	ours, theirs, err := socketPair()
	if err != nil {
		return startError(in.cfg, "%w", err)
	}
	extra := []*os.File{theirs}
	if in.cfg.Sandbox == nil {
		if handoff := in.openGrants(); handoff != nil {
			extra = append(extra, handoff)
		}
	}
	xerr := in.exec(spec{extra: extra})
	for _, f := range extra {
		f.Close() // so that the connection ends with the program
	}
	if xerr != nil {
		ours.Close()
		in.dropGrants()
		return xerr
	}
	in.beginGrants()
	in.recordPID()
	conn, err := connOf(ours)
	if err == nil {
		err = in.connect(conn)
	}
	if err != nil {
		in.takeBack()
		return startError(in.cfg, "%w", err)
	}
	herr := in.awaitHello()
	if herr != nil {
		in.takeBack()
	}
	return herr
}

func (in *instance) awaitHello() *cellproto.Error {
	ctx, cancel := context.WithTimeout(context.Background(), in.cfg.StartTimeout)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
		case <-in.stop:
		case <-in.proc.exited:
			wait(in.connDone, helloGrace, ctx.Done()) // a descendant may hold the connection open
		}
		cancel()
	}()
	hello, err := in.conn.PeerHello(ctx)
	late := errors.Is(ctx.Err(), context.DeadlineExceeded)
	cancel()
	<-watched
	switch {
	case err == nil:
		in.hello = hello
		in.keepGrants()
		return nil
	case isClosed(in.stop):
		return startError(in.cfg, "it was stopped while it started")
	case late:
		return explainHello(in.cfg, nil, true, in.out.tail())
	}
	// Its connection has ended, or it has. How it ended says more.
	if wait(in.proc.finished, helloGrace, in.hurry) {
		return explainExit(in.cfg, in.proc, in.out.tail())
	}
	in.conn.Close()
	<-in.connDone
	return explainHello(in.cfg, in.connErr, false, in.out.tail())
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// startLines starts a program that speaks JSON lines, which has no hello: it is ready when it runs.
func (in *instance) startLines() *cellproto.Error {
	schema, err := loadSchema(in.cfg.Dir)
	if err != nil {
		return startError(in.cfg, "%w", err)
	}
	near, far, err := localPair()
	if err != nil {
		return startError(in.cfg, "%w", err)
	}
	in.adapter, err = newAdapter(in.cfg, far, schema)
	if err == nil {
		err = in.execLines()
	}
	if err != nil {
		near.Close()
		far.Close()
		in.adapter = nil
		return asStartError(in.cfg, err)
	}
	a := in.adapter
	a.log, a.out, a.bad, a.ending = in.log, in.out, in.bad, in.ending
	go a.run()
	if err := in.connect(near); err != nil {
		return startError(in.cfg, "%w", err)
	}
	in.hello = a.hello
	return nil
}

// execLines starts the process with pipes for the adapter.
func (in *instance) execLines() error {
	stdin, toStdin, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	fromStdout, stdout, err := os.Pipe()
	if err != nil {
		toStdin.Close()
		return err
	}
	defer stdout.Close()
	if xerr := in.exec(spec{stdin: stdin, stdout: stdout}); xerr != nil {
		toStdin.Close()
		fromStdout.Close()
		return xerr
	}
	in.recordPID()
	in.adapter.stdin, in.adapter.stdout = toStdin, fromStdout
	return nil
}

func asStartError(cfg Config, err error) *cellproto.Error {
	var e *cellproto.Error
	if errors.As(err, &e) {
		return e
	}
	return startError(cfg, "%w", err)
}

// ending waits a little for the process's end and says how it ended, and whether it has.
func (in *instance) ending() (how string, over bool) {
	if !wait(in.proc.finished, lastAnswers, in.hurry) {
		return "it has closed its input or output", false
	}
	return in.proc.status + quoteTail(in.out.tail()), true
}

// useful reports that the process has been of use: it has spoken.
func (in *instance) useful() bool {
	return in.adapter == nil || in.adapter.useful.Load()
}

// shutdown ends what is left of the run and returns when nothing is.
func (in *instance) shutdown(why reason) {
	if in.proc == nil {
		return
	}
	grace := in.cfg.StopTimeout
	if why == unstarted && in.servesLent() {
		why = asked
	}
	if in.conn != nil {
		switch why {
		case asked:
			begin := time.Now()
			if in.why == whySwap {
				in.drain(cellproto.DrainTimeout)
				begin = time.Now()
			} else {
				in.drain(grace)
			}
			left := grace - time.Since(begin)
			if in.why == whyGoaway { // it was about to end anyway
				left = min(left, exitGrace)
			}
			wait(in.proc.exited, left, in.hurry)
		case exited: // its last replies may still be on their way
			wait(in.connDone, exitGrace, in.hurry)
		case connLost: // it is ending, or it has sent nonsense
			wait(in.proc.exited, exitGrace, in.hurry)
		}
		in.conn.Close()
	}
	in.proc.end(grace, in.hurry)
	in.pids.forget(in.proc.pid)
	if in.grants != nil {
		in.grants.close()
	}
	if in.conn != nil {
		<-in.connDone
	}
	if in.adapter != nil {
		wait(in.adapter.done, exitGrace, in.hurry)
		in.adapter.stop()
		<-in.adapter.done
	}
}

// drain asks the program to finish what is in flight, and closes the connection.
func (in *instance) drain(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-in.hurry:
			cancel()
		case <-stop:
		}
	}()
	if in.grants != nil {
		in.grants.leave(ctx)
	}
	if err := in.conn.Drain(ctx, in.why); err != nil {
		_, out := in.conn.InFlight()
		in.log.Warn("calls in flight were cut", zap.String("why", in.why), zap.Int("calls", out))
	}
	close(stop)
	<-watched
}

// status says how the run ended.
func (in *instance) status(why reason) string {
	if why == connLost && in.connErr != nil {
		return fmt.Sprintf("%v; then %s", in.connErr, in.proc.status)
	}
	return in.proc.status
}
