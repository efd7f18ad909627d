package program

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// grants are the callers' connections that one run of the program holds itself. Here is a duplicate
// of each, so that it can be revoked, and the page on which the program counts its calls.
type grants struct {
	ours *os.File      // the handoff socket before begin; nil afterwards
	sock *net.UnixConn // the same afterwards
	file *os.File      // of the page
	page cellproto.Page
	done chan struct{} // closed when the program has closed its end

	reading bool // read runs; set by begin

	mu      sync.Mutex
	mem     []byte // mapped; nil once closed
	conns   map[uint32]*held
	nextID  uint32
	kept    bool          // the program goes on with them when read ends: they are handed over
	early   bool          // the program is starting: what it is given can be taken back. See lend
	gone    bool          // the program has closed its end, or wrote nonsense: nobody reads what it says any more
	changed chan struct{} // closed, and made anew, when a connection has ended
	ended   uint32        // of the page, when it was looked at last
	last    time.Time     // when that was seen to change
	seen    uint32        // times of the page that were given out
	refused uint32        // of the page, once it is closed
}

// held is the duplicate of a connection: a bare descriptor, which the runtime's poller does not watch,
// since it would wake this process for every byte that the program is sent.
type held struct {
	fd     int
	until  time.Time   // zero: it may go on for ever
	expiry *time.Timer // nil: the same
}

// end lets the duplicate go.
func (h *held) end() {
	if h.expiry != nil {
		h.expiry.Stop()
	}
	_ = unix.Close(h.fd)
}

// cut ends the connection, whoever else holds it: shutdown(2) is for all descriptors of the socket.
func (h *held) cut() { _ = unix.Shutdown(h.fd, unix.SHUT_RDWR) }

// newGrants makes the socket, for a process that is about to start; theirs is to be inherited. begin is due, or close.
func newGrants() (g *grants, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := pairFiles(fds)
	return &grants{ours: ours, done: make(chan struct{}), conns: map[uint32]*held{}, changed: make(chan struct{}), last: time.Now()}, theirs, nil
}

// begin makes the page and gives it to the program, which can be lent connections from then on if early. After an error close is due.
func (g *grants) begin(limit int, early bool) error {
	conn, err := connOf(g.ours)
	g.ours = nil
	if err != nil {
		return err
	}
	g.sock = conn.(*net.UnixConn)
	memfd, err := unix.MemfdCreate("celld-page", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	g.file = os.NewFile(uintptr(memfd), "page")
	if err := g.file.Truncate(cellproto.PageSize); err != nil {
		return err
	}
	// A program that cuts the file would have the nucleus die of the access.
	if _, err := unix.FcntlInt(g.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	mem, err := unix.Mmap(memfd, 0, cellproto.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	g.mem, g.page, g.early = mem, cellproto.NewPage(mem, limit), early
	if err := g.send(cellproto.Handoff{Type: cellproto.HandoffPage}, memfd); err != nil {
		return err
	}
	g.reading = true
	go g.read()
	return nil
}

// send sends a message, with a descriptor unless fd is negative. It does not wait: a program that does
// not take messages gets none.
func (g *grants) send(m cellproto.Handoff, fd int) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	raw, err := g.sock.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Write(func(sock uintptr) bool {
		serr = unix.Sendmsg(int(sock), b, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	}); err != nil {
		return err
	}
	return serr
}

// read takes the program's word for which connections have ended, until it closes its end; then all
// have.
func (g *grants) read() {
	defer close(g.done)
	b := make([]byte, cellproto.MaxHandoff+1)
	for {
		n, err := g.sock.Read(b)
		if err != nil || n == 0 {
			break
		}
		m, err := cellproto.ParseHandoff(b[:n])
		if err != nil {
			break
		}
		if m.Type == cellproto.HandoffEnded {
			g.drop(m.ID)
		}
	}
	g.mu.Lock()
	g.gone = true // whoever settles what was early after this revokes it; see confirm
	kept := g.kept || g.early
	g.mu.Unlock()
	if !kept {
		g.revoke(all)
	}
}

func (g *grants) drop(id uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, ok := g.conns[id]
	if !ok {
		return
	}
	delete(g.conns, id)
	c.cut() // the program's own descriptor too, if it has kept one
	c.end()
	g.signal()
}

// signal wakes leave. g.mu is held.
func (g *grants) signal() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// all is the number after the last connection.
const all = math.MaxUint32

// revoke ends the connections up to number last, whoever holds them.
func (g *grants) revoke(last uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, c := range g.conns {
		if id <= last {
			c.cut()
			c.end()
			delete(g.conns, id)
		}
	}
	g.signal()
}

// maxHolders bounds the connections that one run holds; further callers are relayed. A descriptor is
// kept here for each.
const maxHolders = 1024

// sweep lets those go whose callers have left, for a program that does not say so. g.mu is held.
func (g *grants) sweep() {
	for id, c := range g.conns {
		look := []unix.PollFd{{Fd: int32(c.fd)}}
		if n, err := unix.Poll(look, 0); err == nil && n > 0 {
			c.end()
			delete(g.conns, id)
		}
	}
	g.signal()
}

// give hands a caller's connection over, and keeps a duplicate; conn is to be closed then. It is cut at until, unless that is
// zero: the caller proves anew who it is.
func (g *grants) give(conn *net.UnixConn, subject string, until time.Time) error {
	return g.pass(conn, subject, until, false)
}

// lend is give for a program that is starting: conn stays the caller's, for when it is taken back.
func (g *grants) lend(conn *net.UnixConn, subject string, until time.Time) error {
	return g.pass(conn, subject, until, true)
}

// confirm has the program keep what it was lent: it has started.
func (g *grants) confirm() {
	g.mu.Lock()
	g.early = false
	gone := g.gone
	g.mu.Unlock()
	if gone {
		g.revoke(all)
	}
}

// takeBack lets go of what was lent, which is as it was then. It reports false when the program may have taken it.
func (g *grants) takeBack() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.early = false
	if g.mem == nil || !g.page.TakeBack() {
		return false
	}
	for _, c := range g.conns {
		c.end()
	}
	clear(g.conns)
	g.signal()
	return true
}

// pass hands a connection over, which is lent if early: to a program that is starting, and to no other.
func (g *grants) pass(conn *net.UnixConn, subject string, until time.Time, early bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mem == nil || g.gone || g.early != early {
		return net.ErrClosed
	}
	if len(g.conns) >= maxHolders {
		if g.sweep(); len(g.conns) >= maxHolders {
			return errors.New("the program holds as many connections as it may")
		}
	}
	h, derr := &held{fd: -1}, error(nil)
	if err := raw.Control(func(fd uintptr) {
		h.fd, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || derr != nil {
		return errors.Join(err, derr)
	}
	g.nextID++
	if err := g.send(cellproto.Handoff{Type: cellproto.HandoffConn, ID: g.nextID, Subject: subject}, h.fd); err != nil {
		h.end()
		return err
	}
	g.conns[g.nextID] = h
	g.limit(g.nextID, until)
	return nil
}

// limit has a connection cut at until, unless that is zero. g.mu is held.
func (g *grants) limit(id uint32, until time.Time) {
	if h := g.conns[id]; !until.IsZero() {
		h.until = until
		h.expiry = time.AfterFunc(time.Until(until), func() { g.expire(id) })
	}
}

// expire has the program end a connection whose token has expired, when its calls in flight have ended,
// and cuts it if it is still there after DrainTimeout.
func (g *grants) expire(id uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.conns[id]
	if !ok {
		return
	}
	if g.send(cellproto.Handoff{Type: cellproto.HandoffLeave, ID: id}, -1) != nil {
		h.cut()
		return
	}
	h.expiry = time.AfterFunc(cellproto.DrainTimeout, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.conns[id] == h {
			h.cut()
		}
	})
}

// leave has those who hold a connection now come back through the nucleus, and returns when they have
// or ctx has ended; last is the number of the last of them. Others may come meanwhile.
func (g *grants) leave(ctx context.Context) (last uint32) {
	told := false
	for {
		g.mu.Lock()
		if !told {
			last = g.nextID
		}
		open, changed := 0, g.changed
		for id := range g.conns {
			if id <= last {
				open++
			}
		}
		g.mu.Unlock()
		if open == 0 {
			return last
		}
		if !told {
			told = true
			if g.send(cellproto.Handoff{Type: cellproto.HandoffLeave}, -1) != nil {
				return last
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return last
		}
	}
}

// recall has all who hold a connection come back. It does not wait.
func (g *grants) recall() { _ = g.send(cellproto.Handoff{Type: cellproto.HandoffLeave}, -1) }

// open gives the number of connections.
func (g *grants) open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// use gives how many calls are in flight, and when the last one ended as far as was noticed: a call
// that has ended since the last look counts as just now.
func (g *grants) use() (inFlight int, last time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mem == nil {
		return 0, g.last
	}
	begun, ended, _ := g.page.Counts()
	if ended != g.ended {
		g.ended, g.last = ended, time.Now()
	}
	return int(int32(begun - ended)), g.last
}

// counts gives the calls that have ended and those that were refused, and the times that were noted
// since it was asked last.
func (g *grants) counts() (ended, refused uint32, times []time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mem == nil {
		return g.ended, g.refused, nil
	}
	_, ended, refused = g.page.Counts()
	times, g.seen = g.page.Times(g.seen)
	return ended, refused, times
}

// close ends all, when the process is gone, or there is none.
func (g *grants) close() {
	if g.ours != nil {
		_ = g.ours.Close()
	}
	if g.sock != nil {
		_ = g.sock.Close()
	}
	if g.reading {
		<-g.done
		g.revoke(all) // of one that wrote nonsense, some may have come after it was read
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mem != nil {
		_, g.ended, g.refused = g.page.Counts()
		_ = unix.Munmap(g.mem)
		g.mem = nil
	}
	if g.file != nil {
		_ = g.file.Close()
	}
}
