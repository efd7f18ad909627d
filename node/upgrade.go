package node

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
	"github.com/celldnet/celld/node/program"
)

// Replacing celld in place. The celld that runs looks at the other one, waits for a moment without calls
// in flight while new ones are held back, and has the process execute it: its number, its children, and
// the descriptors that are handed over stay. What the network is connected to does not: peers are told
// to leave, and come back.

const (
	// upgradeStall is how long calls are held back while those in flight end.
	upgradeStall = time.Second
	// upgradeTries is how often that is tried, and upgradePause how long calls go on in between.
	upgradeTries = 3
	upgradePause = 500 * time.Millisecond
	// cutTime is how long a program may take to give up calls that were cut.
	cutTime = 200 * time.Millisecond
	// goodbyeTime bounds the good order in which the network is left. What is not closed then the exec
	// closes.
	goodbyeTime = 500 * time.Millisecond
)

// upgrades replaces celld.
type upgrades struct {
	n     *nucleus
	busy  chan struct{}   // capacity 1: taken while an upgrade goes on
	ready chan *departure // to Run, which executes the other celld

	mu      sync.Mutex
	asking  map[net.Conn]struct{} // control connections that have a request under way
	goodbye closers               // what is closed before the exec
}

func newUpgrades(n *nucleus) *upgrades {
	return &upgrades{n: n, busy: make(chan struct{}, 1), ready: make(chan *departure), asking: map[net.Conn]struct{}{}}
}

// departure is all that the other celld needs.
type departure struct {
	next  *successor
	self  *os.File // this celld's own file
	state *handover
	paper *os.File // in memory, for state
	kept  []any    // whose descriptors are in state
}

// once gives f for those who may both want it done.
func once(f func()) func() {
	var o sync.Once
	return func() { o.Do(f) }
}

// watch keeps asking; it is http.Server.ConnState.
func (u *upgrades) watch(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive:
		u.asking[c] = struct{}{}
	default:
		delete(u.asking, c)
	}
}

// requests gives how many control requests are under way.
func (u *upgrades) requests() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asking)
}

// prepare does all but the exec. If it fails, everything goes on as before, but for peers on the network
// who were sent away and come back.
func (u *upgrades) prepare(ctx context.Context, file string, cut bool, say func(string)) (*departure, error) {
	n, op := u.n, "upgrade "+u.n.cfg.Cell.Name
	if !canHandOver {
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "celld can be replaced in place on Linux only").WithHint("cellctl restart %s", n.cfg.Dir)
	}
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	default:
		return nil, cellproto.Errorf(op, cellproto.Overloaded, "another upgrade is under way")
	}
	if file == "" {
		self, err := os.Executable() // where this one was, also if that was replaced
		if err != nil {
			return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
		}
		file = self
	}
	say("checking " + file)
	next, err := examine(ctx, file, n.cfg.Dir)
	if err != nil {
		return nil, err
	}
	d := &departure{next: next}
	if err := d.open(); err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	select {
	case n.swaps.busy <- struct{}{}: // until the exec, or the failure
	case <-ctx.Done():
		d.close()
		return nil, cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w while the program was swapped", ctx.Err())
	}
	if d.state, d.kept, err = u.quiesce(ctx, next, cut, say); err != nil {
		<-n.swaps.busy
		d.close()
		return nil, err
	}
	return d, nil
}

// close lets go of what an upgrade that does not come about has opened.
func (d *departure) close() {
	d.self.Close()
	d.paper.Close()
}

// quiesce waits for the moment to hand over, and takes everything apart then.
func (u *upgrades) quiesce(ctx context.Context, next *successor, cut bool, say func(string)) (*handover, []any, error) {
	n := u.n
	if n.program != nil {
		say("waiting until the program is not being started or replaced")
		if err := n.program.Settle(ctx); err != nil {
			return nil, nil, err
		}
	}
	for try := 1; ; try++ {
		say("waiting until no call is in flight")
		last := try == upgradeTries
		h, kept, err := u.try(ctx, next, cut && last)
		if err == nil || last || cellproto.KindOf(err) != cellproto.Overloaded {
			return h, kept, err
		}
		say(err.Error())
		select {
		case <-time.After(upgradePause):
		case <-ctx.Done():
			return nil, nil, err
		}
	}
}

// try holds back what is asked, for upgradeStall at most, and hands over if what is in flight has ended.
func (u *upgrades) try(ctx context.Context, next *successor, cut bool) (h *handover, kept []any, err error) {
	n := u.n
	var undo closers
	defer func() {
		if err != nil {
			undo.close()
		}
	}()
	peers, cancel := context.WithTimeout(ctx, upgradeStall)
	defer cancel()
	undo.add(n.server.Welcome)
	left := n.server.Leave(peers)
	if left > 0 && !cut {
		return nil, nil, u.inFlight(left, "of peers on the network")
	}
	begun := time.Now()
	if err := u.hold(ctx, left, cut, &undo); err != nil {
		return nil, nil, err
	}
	if !next.same() {
		return nil, nil, cellproto.Errorf("upgrade "+n.cfg.Cell.Name, cellproto.BadInput, "%s was changed after it was checked", next.path)
	}
	apart, cancel := context.WithTimeout(ctx, upgradeStall)
	defer cancel()
	callers, err := n.server.Suspend(apart, cut)
	if err != nil {
		return nil, nil, u.stuck(err)
	}
	undo.add(func() { n.server.Return(callers) })
	if size := sizeOf(callers); size > maxHandover/2 {
		return nil, nil, u.stuck(cellproto.Errorf("hold requests", cellproto.TooLarge, "%d bytes of them wait", size))
	}
	h = &handover{Format: handoverFormat, Dir: n.cfg.Dir, From: n.version, Begun: n.begun.UnixMilli(), Held: begun.UnixMicro()}
	var files []*os.File
	if n.program != nil {
		p, all, err := n.program.Suspend(apart)
		if err != nil {
			return nil, nil, u.stuck(err)
		}
		files = all
		if h.Program, err = p.Marshal(); err != nil {
			n.log.Error("the program cannot be handed over and ends", zap.Error(err)) // there is nothing in it that could fail
			h.Program, files = nil, nil
		}
	}
	kept, err = u.describe(h, callers, files)
	u.leave()
	return h, kept, err
}

func (u *upgrades) inFlight(calls int, whose string) error {
	return cellproto.Errorf("upgrade "+u.n.cfg.Cell.Name, cellproto.Overloaded, "%d calls %s are in flight for longer than %v", calls, whose, upgradeStall).
		WithHint("Try again when they are done, or cut them, which may have run: cellctl upgrade --cut")
}

// stuck says why connections could not be taken apart: somebody does not read what was written, or has
// begun a call after all. It may go better the next time.
func (u *upgrades) stuck(err error) error {
	return cellproto.Errorf("upgrade "+u.n.cfg.Cell.Name, cellproto.Overloaded, "%w", err).
		WithHint("Try again; cellctl upgrade --cut cuts calls that do not end.")
}

// hold lets nobody in, holds back what callers and program ask, and waits for what is in flight: of the
// callers first, since the program may have to ask others to answer them. With cut, what has not ended
// then is cut, and so are the calls of peers that are left.
func (u *upgrades) hold(ctx context.Context, left int, cut bool, undo *closers) error {
	n := u.n
	until := time.Now().Add(upgradeStall)
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	n.control.close()
	undo.add(n.control.open)
	n.cell.close()
	undo.add(n.cell.open)
	undo.add(func() {
		for _, conn := range n.lobby.release(n.serveCtx) {
			go n.receive(n.serveCtx, conn)
		}
	})
	if n.lobby.hold(ctx) != nil {
		return u.inFlight(1, "of callers who are being let in")
	}
	undo.add(n.server.Release)
	n.server.Hold()
	own := 1 // request: the one for this upgrade
	busy := await(ctx, func() int { return n.server.Busy() + u.requests() - own })
	if busy > 0 && !cut {
		return u.inFlight(busy, "of callers here")
	}
	if busy += left; busy > 0 {
		n.log.Warn("calls in flight are cut", zap.Int("calls", busy))
		n.server.Cut()
	}
	if n.program == nil {
		return nil
	}
	undo.add(n.program.Unhold)
	if err := n.program.Hold(); err != nil {
		return err
	}
	if busy > 0 { // they give up now, or not
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), cutTime)
		defer cancel()
	}
	own = await(ctx, n.program.Busy)
	if own > 0 && !cut {
		return u.inFlight(own, "of the program")
	}
	if own > 0 {
		n.log.Warn("the program does not end calls that were cut: it is stopped, and started by the next call", zap.Int("calls", own))
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), cutTime)
		defer cancel()
		_ = n.program.Stop(ctx) // it is killed when ctx ends
	}
	return nil
}

// await waits until count gives 0 or ctx ends, and gives what it gave last.
func await(ctx context.Context, count func() int) int {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		left := count()
		if left <= 0 {
			return 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return left
		}
	}
}

// sizeOf gives about how much of the state callers take, in bytes.
func sizeOf(callers []call.Carried) (size int) {
	for _, c := range callers {
		size += len(c.Conn)
	}
	return size
}

// describe fills in the state, and gives what the descriptors in it belong to.
func (u *upgrades) describe(h *handover, callers []call.Carried, files []*os.File) (kept []any, err error) {
	n := u.n
	number := func(c descriptor) int {
		kept = append(kept, c)
		fd, ferr := descriptorOf(c)
		if ferr != nil && err == nil {
			err = cellproto.Errorf("hand over", cellproto.Failed, "%w", ferr)
		}
		return fd
	}
	h.Lock, h.Cell, h.Control = number(n.lock.file), number(n.cell.UnixListener), number(n.control.UnixListener)
	for _, conn := range n.lobby.release(n.serveCtx) {
		h.Waiting = append(h.Waiting, number(conn))
	}
	for _, c := range callers {
		if d, ok := c.Transport.(descriptor); ok {
			h.Callers = append(h.Callers, caller{FD: number(d), Handed: c.Handed})
		}
	}
	for _, f := range files {
		h.ProgramFiles = append(h.ProgramFiles, number(f))
	}
	if h.Server, err = n.server.Counts(); err != nil {
		return kept, cellproto.Errorf("hand over", cellproto.Failed, "%w", err)
	}
	n.serving.mu.Lock()
	h.Release, h.Binary = n.serving.version, identify(n.serving.stat, n.serving.binary)
	n.serving.mu.Unlock()
	h.Configured, h.Stderr = n.cfg.Network.Listen, n.stderr
	for _, a := range n.host.Network().ListenAddresses() {
		h.Listening = append(h.Listening, a.String())
	}
	return kept, err
}

// leave closes what another celld opens anew, in good order if that is possible in time.
func (u *upgrades) leave() {
	_, _ = daemon.SdNotify(false, reloading()) // without systemd there is nobody to tell
	over := make(chan struct{})
	go func() { // ends with the process, if not before
		defer close(over)
		u.goodbye.close()
	}()
	timer := time.NewTimer(goodbyeTime)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
		u.n.log.Warn("the network was not left in time")
	}
}

// ctlUpgrade answers once everything is ready, and has Run execute the other celld then.
func (n *nucleus) ctlUpgrade(w http.ResponseWriter, r *http.Request) {
	var d *departure
	n.answer(func(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
		q := r.URL.Query()
		file := q.Get("file")
		if file != "" && !filepath.IsAbs(file) {
			return nil, cellproto.Errorf("read request", cellproto.BadInput, "file is %.200q, not an absolute path", file)
		}
		var err error
		d, err = n.upgrades.prepare(ctx, file, q.Has("cut"), func(text string) { _ = w.Progress(text) }) // a caller that left has ended ctx
		if err != nil {
			return nil, err
		}
		return ctl.Upgrading{File: d.next.path, From: n.version, To: d.next.version, Started: n.started}, nil
	})(w, r)
	if d == nil {
		return
	}
	_ = http.NewResponseController(w).Flush() // who asked has perhaps left
	select {
	case n.upgrades.ready <- d:
	case <-n.stopping:
	}
}

// adoptProgram goes on with the program that another celld has handed over. It gives nil when there is
// none, or it cannot be taken over: the program ends then, as after a crash of the nucleus.
func (n *nucleus) adoptProgram(cfg program.Config, deps program.Deps) *program.Program {
	data, files := n.taken.program()
	if data == nil {
		return nil
	}
	h, err := program.ParseHandover(data)
	var p *program.Program
	if err == nil {
		p, err = program.Adopt(cfg, deps, h, files)
	} else {
		for _, f := range files {
			f.Close()
		}
	}
	if err != nil {
		n.log.Error("the program cannot be taken over and is started anew", zap.Error(err))
		return nil
	}
	return p
}

// welcome goes on with the callers that another celld has handed over.
func (n *nucleus) welcome() {
	if n.taken == nil {
		return
	}
	h := n.taken.h
	n.relearn()
	for _, c := range h.Callers {
		conn, err := n.taken.conn(c.FD)
		if err != nil {
			n.log.Error("a caller is lost", zap.Error(err))
			continue
		}
		who, ok := whoIs(conn)
		if !ok {
			conn.Close()
			continue
		}
		go n.relay(func() error { return n.server.Resume(n.serveCtx, conn, who, c.Handed) }, who)
	}
	for _, fd := range h.Waiting {
		conn, err := n.taken.conn(fd)
		if err != nil {
			n.log.Error("a caller is lost", zap.Error(err))
			continue
		}
		go n.receive(n.serveCtx, conn)
	}
	took := time.Since(time.UnixMicro(h.Held))
	if h.Failed != "" {
		n.log.Error("the other celld could not be executed: this one goes on", zap.String("error", h.Failed), zap.Duration("held", took))
		return
	}
	n.log.Info("celld was replaced", zap.String("from", h.From), zap.String("to", n.version), zap.Int("callers", len(h.Callers)), zap.Duration("held", took))
}

// relearn asks a program that was handed over for its schema, if that is in no cache any more.
func (n *nucleus) relearn() {
	if n.program == nil || n.server.Serving().Schema != nil || n.program.State().Phase != program.Running {
		return
	}
	ctx, cancel := context.WithTimeout(n.serveCtx, schemaTimeout)
	defer cancel()
	if conn := n.program.Ready(); conn != nil {
		if err := n.serving.learn(ctx, conn); err != nil {
			n.log.Warn("the schema of the program is not known", zap.Error(err))
		}
	}
}

// listenAddrs gives what to listen on: what the celld before did, so that the addresses that others know
// stay good, unless cell.toml says something else now.
func (n *nucleus) listenAddrs() []string {
	if n.taken == nil || len(n.taken.h.Listening) == 0 || !slices.Equal(n.taken.h.Configured, n.cfg.Network.Listen) {
		return n.cfg.Network.Listen
	}
	return n.taken.h.Listening
}
