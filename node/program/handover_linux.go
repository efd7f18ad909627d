package program

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// Suspend leaves the program to whoever gets what it returns: the process goes on, and this Program is
// of no use any more. Calls must not be under way, neither to it (Begin) nor by it (Hold), nor a start
// or a swap (Settle); else it fails with Overloaded, and nothing has changed. A program that speaks
// JSON lines or is confined is stopped in good order: the next call starts it. The caller closes the files.
func (p *Program) Suspend(ctx context.Context) (*Handover, []*os.File, error) {
	op := "hand " + p.cfg.Name + " over"
	if !p.cfg.carried() {
		_ = p.Stop(ctx) // it is killed when ctx ends
	}
	p.mu.Lock()
	in := p.cur
	p.mu.Unlock()
	if !p.settled() {
		return nil, nil, cellproto.Errorf(op, cellproto.Overloaded, "it is being started, stopped or replaced")
	}
	var run *HandedRun
	var files []*os.File
	if in != nil {
		if !in.park(ctx) {
			return nil, nil, cellproto.Errorf(op, cellproto.Overloaded, "it is ending, or being frozen")
		}
		var err error
		if run, files, err = in.suspend(ctx); err != nil {
			p.runs.Go(func() { p.attend(in) }) // as before
			return nil, nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.handover(in)
	h.Run = run
	if run != nil {
		run.LastEnd = p.epoch.Add(time.Duration(p.lastEnd.Load())).UnixMilli()
		delete(p.all, in)
	}
	p.closed, p.cur, p.pid = true, nil, 0
	p.ready.Store(nil)
	return h, files, nil
}

// handover gives what is known besides the run. p.mu is held.
func (p *Program) handover(in *instance) *Handover {
	if in != nil && in.grants != nil {
		p.countGrants(in)
	}
	p.files.mu.Lock()
	staged := p.files.next
	p.files.mu.Unlock()
	return &Handover{
		Starts: p.starts, Crashes: p.crashes, Served: p.served.Load(), Refused: p.refused.Load(),
		GrantedServed: p.grantedServed, GrantedRefused: p.grantedRefused, LogCut: p.out.cut.Load(), BadLines: p.bad.Load(),
		LastExit: p.lastExit, Swap: p.swap.Phase, SwapReason: p.swap.Reason, SwapHint: p.swap.Hint, SwapSince: unixMS(p.swap.Since),
		Staged: staged,
	}
}

// park has the goroutine that supervises in let go of it, and reports whether it has.
func (in *instance) park(ctx context.Context) bool {
	parked := make(chan struct{})
	select {
	case in.parking <- parked:
		<-parked
		return true
	case <-in.left:
	case <-ctx.Done():
	}
	return false
}

// suspend takes an instance that nobody supervises apart. If it fails the instance is as before.
func (in *instance) suspend(ctx context.Context) (*HandedRun, []*os.File, error) {
	const op = "hand the program over"
	sock, ok := in.sock.(syscall.Conn)
	if !ok {
		return nil, nil, cellproto.Errorf(op, cellproto.Unsupported, "its connection has no descriptor")
	}
	own := []syscall.Conn{sock, in.proc.pump.r}
	if in.grants != nil {
		own = append(own, in.grants.sock, in.grants.file)
	}
	var files []*os.File
	closeAll := func() {
		for _, f := range files {
			f.Close()
		}
	}
	for _, c := range own { // what can fail for want of descriptors comes first
		f, err := duplicate(c)
		if err != nil {
			closeAll()
			return nil, nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
		}
		files = append(files, f)
	}
	s, err := in.conn.Suspend(ctx)
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	<-in.connDone
	run := &HandedRun{
		PID: in.proc.pid, StartTime: startTime(in.proc.pid), Begun: in.begun.UnixMilli(), Frozen: in.frozen.Load(),
		Path: in.file.path, // which has proven itself, so that nothing is staged
	}
	if run.Conn, err = s.Marshal(); err != nil { // it is bounded; what is held of it is
		closeAll()
		in.askHurry()
		return nil, nil, err
	}
	if stat, ok := statOf(in.file.info); ok {
		run.Device, run.Inode = uint64(stat.Dev), stat.Ino
	}
	run.Line, run.LineCut = in.proc.pump.stop()
	if in.grants != nil {
		g, conns := in.grants.hand()
		run.Grants, files = g, append(files, conns...)
		_ = in.grants.sock.Close() // its duplicate goes on; so below
		_ = in.grants.file.Close()
	}
	_ = in.sock.Close()
	_ = in.proc.pump.r.Close()
	return run, files, nil
}

func statOf(info os.FileInfo) (*syscall.Stat_t, bool) {
	if info == nil {
		return nil, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return stat, ok
}

// duplicate gives another descriptor of the same file, which a program that is executed does not inherit.
func duplicate(c syscall.Conn) (*os.File, error) {
	fd, err := duplicateFD(c)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "handed over"), nil
}

func duplicateFD(c syscall.Conn) (fd int, err error) {
	of, err := rawFD(c)
	if err != nil {
		return -1, err
	}
	return unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3)
}

// rawFD gives the number of c's descriptor, which c goes on owning. os.File.Fd may make the file block,
// for everybody who shares it.
func rawFD(c syscall.Conn) (fd uintptr, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(of uintptr) { fd = of })
	return fd, err
}

// hand gives what the next nucleus has to know, and the duplicates of the connections. Nothing is cut.
func (g *grants) hand() (*HandedGrants, []*os.File) {
	g.mu.Lock()
	g.kept = true
	g.mu.Unlock()
	_ = g.sock.SetReadDeadline(time.Unix(1, 0)) // what is unread is for the next one
	<-g.done
	g.mu.Lock()
	defer g.mu.Unlock()
	_, g.ended, g.refused = g.page.Counts()
	h := &HandedGrants{NextID: g.nextID, Ended: g.ended, Refused: g.refused, Seen: g.seen, Last: unixMS(g.last)}
	var files []*os.File
	for id, c := range g.conns {
		if c.expiry != nil {
			c.expiry.Stop()
		}
		h.Conns = append(h.Conns, HandedConn{ID: id, Until: unixMS(c.until)})
		files = append(files, os.NewFile(uintptr(c.fd), "caller"))
	}
	clear(g.conns)
	_ = unix.Munmap(g.mem)
	g.mem = nil
	return h, files
}

// Adopt makes a program of what another nucleus has left: the same process, under the same number. The
// files belong to it. A process that has ended meanwhile has crashed, as it would have for the other.
func Adopt(cfg Config, deps Deps, h *Handover, files []*os.File) (*Program, error) {
	p, err := New(cfg, deps)
	if err == nil && h.Run != nil && !cfg.carried() {
		err = cellproto.Errorf("take the program over", cellproto.Incompatible, "it was not started as cell.toml has it now")
	}
	if err == nil && len(files) != h.Files() {
		err = cellproto.Errorf("take the program over", cellproto.Corrupt, "%d descriptors came with it, not %d", len(files), h.Files())
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	p.starts, p.crashes, p.lastExit = h.Starts, h.Crashes, h.LastExit
	p.grantedServed, p.grantedRefused = h.GrantedServed, h.GrantedRefused
	p.served.Store(h.Served)
	p.refused.Store(h.Refused)
	p.bad.Store(h.BadLines)
	p.out.cut.Store(h.LogCut)
	p.files.next = h.Staged
	p.swap = SwapState{Phase: h.Swap, Reason: h.SwapReason, Hint: h.SwapHint, Since: fromMS(h.SwapSince)}
	if h.Run == nil {
		return p, nil
	}
	p.pids.adopt(h.Run.PID)
	return p, p.adopt(h.Run, files)
}

// adopt takes a process over and supervises it.
func (p *Program) adopt(h *HandedRun, files []*os.File) error {
	in := p.instance()
	in.begun, in.file = fromMS(h.Begun), p.files.again(h)
	in.proc = &process{
		pid: h.PID, exited: make(chan struct{}), finished: make(chan struct{}), pipes: []*os.File{files[1]},
	}
	if now := startTime(h.PID); now != 0 && now != h.StartTime { // it has ended, and another one has its number
		in.proc.reaped = true
	}
	in.proc.wait = func() error { return waitFor(h.PID) }
	s, err := cellproto.ParseSuspended(h.Conn)
	var grants *grants
	if err == nil && h.Grants != nil {
		grants, err = adoptGrants(h.Grants, in.cfg.Concurrency, files[2:])
		files = files[:2]
	}
	if err == nil {
		in.grants, in.grantsEnded, in.grantsRefused = grants, 0, 0
		if grants != nil {
			in.grantsEnded, in.grantsRefused = h.Grants.Ended, h.Grants.Refused
		}
		err = in.resume(files[0], s)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return err
	}
	in.proc.watch(p.out, files[1], h.Line, h.LineCut)
	in.hello, err = in.conn.PeerHello(context.Background()) // it is there
	if err != nil {
		in.conn.Close()
	}
	in.background = slices.Contains(in.hello.Capabilities, cellproto.CapBackground)
	close(in.started)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[in] = struct{}{}
	p.cur, p.phase, p.hello, p.pid, p.started = in, Running, &in.hello, h.PID, in.begun
	p.lastEnd.Store(int64(fromMS(h.LastEnd).Sub(p.epoch)))
	in.proven = true
	if h.Frozen {
		in.frozen.Store(true)
		p.phase = Frozen
	} else {
		p.ready.Store(in.conn)
	}
	p.runs.Go(func() { p.attend(in) })
	return nil
}

// resume goes on with the connection of an instance.
func (in *instance) resume(f *os.File, s *cellproto.Suspended) error {
	t, err := net.FileConn(f) // duplicates it
	if err != nil {
		return err
	}
	conn, err := cellproto.ResumeConn(t, in.connConfig(), s)
	if err != nil {
		t.Close()
		return err
	}
	f.Close()
	in.run(t, conn)
	return nil
}

// again finds the file of a process that was started by another nucleus.
func (f *files) again(h *HandedRun) staged {
	s := staged{path: h.Path}
	for _, path := range []string{h.Path, f.kept()} {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if stat, ok := statOf(info); ok && uint64(stat.Dev) == h.Device && stat.Ino == h.Inode {
			s.info = info
			break
		}
	}
	return s
}

// waitFor reaps a child that another image of this process has started.
func waitFor(pid int) error {
	proc, err := os.FindProcess(pid)
	if err != nil {
		return errLost
	}
	state, err := proc.Wait()
	switch {
	case err != nil:
		return errLost
	case !state.Success():
		return &exec.ExitError{ProcessState: state}
	}
	return nil
}

var errLost = errors.New("it ended while celld was replaced")

// mapPage maps the page of a program's calls, which cannot be made shorter under this process.
func mapPage(op string, page *os.File) ([]byte, error) {
	fd, err := rawFD(page)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	seals, err := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the page of its calls is no sealed memory (%v)", err)
	}
	if info, err := page.Stat(); err != nil || info.Size() != cellproto.PageSize {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the page of its calls has another size (%v)", err)
	}
	mem, err := unix.Mmap(int(fd), 0, cellproto.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	return mem, nil
}

// adoptGrants goes on with the connections that the program holds.
func adoptGrants(h *HandedGrants, limit int, files []*os.File) (g *grants, err error) {
	page := files[1]
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	const op = "take the program's callers over"
	mem, err := mapPage(op, page)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unix.Munmap(mem)
		}
	}()
	conn, err := net.FileConn(files[0])
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	sock, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the handoff socket is none")
	}
	g = &grants{
		sock: sock, reading: true, file: page, page: cellproto.NewPage(mem, limit), mem: mem, done: make(chan struct{}),
		conns: map[uint32]*held{}, nextID: h.NextID, changed: make(chan struct{}),
		ended: h.Ended, seen: h.Seen, last: fromMS(h.Last),
	}
	for i, c := range h.Conns {
		fd, err := duplicateFD(files[2+i]) // a bare one, which no poller watches
		if err != nil {
			for _, h := range g.conns {
				h.end()
			}
			sock.Close()
			return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
		}
		g.conns[c.ID] = &held{fd: fd}
	}
	g.mu.Lock()
	for _, c := range h.Conns {
		g.limit(c.ID, fromMS(c.Until))
	}
	g.mu.Unlock()
	for _, f := range files[2:] {
		f.Close()
	}
	files[0].Close()
	go g.read()
	return g, nil
}
