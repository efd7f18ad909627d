package cell

import (
	"context"
	"maps"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// handoff takes the connections of callers whom the nucleus has checked and handed over, and serves
// them beside the one to the nucleus. It owns their goroutines.
type handoff struct {
	s    *server
	f    *os.File // the handoff socket
	raw  syscall.RawConn
	mem  []byte // mapped; nil before the first message
	page cellproto.Page

	mu      sync.Mutex
	conns   map[uint32]*cellproto.Conn
	shares  map[string]*atomic.Int32 // calls in flight of each stranger that was here
	leaving bool                     // those that still come are served, and told to leave at once
	done    chan struct{}
	serving sync.WaitGroup
}

// openHandoff opens the socket that the nucleus handed down; nil if it did not, or it cannot be used:
// callers are relayed then.
func openHandoff(number string) *os.File {
	fd, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return nil
	}
	syscall.CloseOnExec(int(fd))
	if _, err := syscall.Getsockname(int(fd)); err != nil || syscall.SetNonblock(int(fd), true) != nil {
		return nil
	}
	_ = os.Unsetenv(cellproto.EnvHandoff) // what this program starts must not take it for its own; it has no descriptor
	return os.NewFile(uintptr(fd), cellproto.EnvHandoff)
}

// newHandoff gives what takes connections over f, once it is started; nil if f cannot be used.
func (s *server) newHandoff(f *os.File) *handoff {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	return &handoff{
		s: s, f: f, raw: raw, conns: map[uint32]*cellproto.Conn{}, shares: map[string]*atomic.Int32{}, done: make(chan struct{}),
	}
}

// start begins to take connections. Those that came while the program got ready are taken first: their callers wait. Its end is close.
func (h *handoff) start() {
	over := h.run(false)
	h.mu.Lock()
	waited := len(h.conns) > 0
	h.mu.Unlock()
	if waited {
		runtime.Gosched()
	}
	if over {
		close(h.done)
		return
	}
	go func() {
		defer close(h.done)
		h.run(true)
	}()
}

// close ends what drain has left, and waits for the goroutines.
func (h *handoff) close() {
	if h == nil {
		return
	}
	_ = h.f.Close()
	<-h.done
	h.mu.Lock()
	h.leaving = true
	for _, c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.serving.Wait()
	if h.mem != nil && h.s.flights.count() == 0 { // else a call that does not end is to be counted on it
		_ = syscall.Munmap(h.mem)
	}
}

// run reads messages until there is none, unless it waits for the next one, or there are none any more: then it is over. The socket
// is closed, or the nucleus has taken back what it has handed over.
func (h *handoff) run(wait bool) (over bool) {
	buf, oob := make([]byte, cellproto.MaxHandoff+1), make([]byte, syscall.CmsgSpace(4))
	for {
		var n, on int
		var err error
		rerr := h.raw.Read(func(fd uintptr) bool {
			n, on, _, _, err = syscall.Recvmsg(int(fd), buf, oob, syscall.MSG_CMSG_CLOEXEC)
			return err != syscall.EAGAIN || !wait
		})
		switch {
		case rerr == nil && err == syscall.EINTR:
			continue
		case rerr == nil && err == syscall.EAGAIN:
			return false
		case rerr != nil || err != nil || n == 0:
			return true
		}
		if h.handle(buf[:n], descriptor(oob[:on])) {
			return true
		}
	}
}

// descriptor gives the one that came with a message, or -1.
func descriptor(oob []byte) int {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	got := -1
	for i := range msgs {
		fds, err := syscall.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if got >= 0 {
				_ = syscall.Close(fd)
				continue
			}
			got = fd
		}
	}
	return got
}

// handle acts on a message. It reports true when there are to be no more.
func (h *handoff) handle(b []byte, fd int) (over bool) {
	m, err := cellproto.ParseHandoff(b)
	switch {
	case err == nil && m.Type == cellproto.HandoffPage && fd >= 0 && h.mem == nil:
		if mem, err := syscall.Mmap(fd, 0, cellproto.PageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err == nil {
			h.mem, h.page = mem, cellproto.NewPage(mem, 0)
			h.s.flights.bound(h.page.Limit())
			over = !h.page.Take()
		}
	case err == nil && m.Type == cellproto.HandoffConn && fd >= 0 && h.take(m, fd):
		return false // the descriptor is the connection's
	case err == nil && m.Type == cellproto.HandoffLeave:
		h.serving.Go(func() { h.leave(context.Background(), m.ID) }) // ends with the connections, which close ends
	}
	if fd >= 0 {
		_ = syscall.Close(fd)
	}
	return over
}

// take serves a caller's connection.
func (h *handoff) take(m cellproto.Handoff, fd int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mem == nil || syscall.SetNonblock(fd, true) != nil {
		h.ended(m.ID)
		return false
	}
	t := os.NewFile(uintptr(fd), "caller")
	cfg := cellproto.Config{Hello: h.s.hello(), Accept: h.accept(m.Subject, h.share(m.Subject))}
	if m.Subject != "" {
		cfg.IdleTimeout, cfg.MaxInbound = cellproto.IdleTimeout, cellproto.MaxStreamsPeer
	}
	c, err := cellproto.NewConn(t, cfg)
	if err != nil {
		_ = t.Close()
		h.ended(m.ID)
		return true
	}
	h.conns[m.ID] = c
	h.serving.Go(func() {
		_ = c.Run() // why a caller left is its own affair
		h.mu.Lock()
		delete(h.conns, m.ID)
		h.mu.Unlock()
		h.ended(m.ID)
	})
	if h.leaving {
		h.serving.Go(func() { _ = c.Drain(context.Background(), leaveReason) }) // ends with Run
	}
	return true
}

// share gives the count of a stranger's calls in flight, over all its connections; nil for the owner.
// h.mu is held.
func (h *handoff) share(subject string) *atomic.Int32 {
	if subject == "" {
		return nil
	}
	if len(h.shares) >= maxShares {
		maps.DeleteFunc(h.shares, func(_ string, n *atomic.Int32) bool { return n.Load() == 0 })
	}
	if h.shares[subject] == nil {
		h.shares[subject] = new(atomic.Int32)
	}
	return h.shares[subject]
}

// maxShares is how many strangers are counted before those without a call are forgotten.
const maxShares = 1024

const leaveReason = "come back through the nucleus"

// ended tells the nucleus, which then lets its duplicate go.
func (h *handoff) ended(id uint32) {
	m := cellproto.Handoff{Type: cellproto.HandoffEnded, ID: id}
	if b, err := m.Append(nil); err == nil {
		_, _ = h.f.Write(b) // a nucleus that is gone needs not know
	}
}

// accept is server.accept for the calls of subject, "" for the owner, who has no share.
func (h *handoff) accept(subject string, share *atomic.Int32) func(*cellproto.Conn, *cellproto.Frame) {
	by := &counted{page: &h.page, share: share}
	return func(c *cellproto.Conn, f *cellproto.Frame) {
		if f.Header.To != "" {
			h.s.refuse(c, f, cellproto.Errorf("call "+f.Header.Func, cellproto.Unsupported,
				"calls to other cells go over a connection without %q in its hello", cellproto.CapHandoff))
			return
		}
		f.Header.Meta = withPeer(f.Header.Meta, subject)
		h.s.acceptCounted(c, f, by)
	}
}

// withPeer gives the meta of a call with its caller, "" for the owner, in the place of whom it names itself, and
// without what only a nucleus says. The map may be one that calls share.
func withPeer(meta map[string]string, subject string) map[string]string {
	_, named := meta[metaPeer]
	if _, told := meta[cellproto.MetaSchema]; !named && !told && subject == "" {
		return meta
	}
	own := make(map[string]string, len(meta)+1)
	maps.Copy(own, meta)
	delete(own, cellproto.MetaSchema)
	if own[metaPeer] = subject; subject == "" {
		delete(own, metaPeer)
	}
	return own
}

// leaveForGood is leave for a program that stops.
func (h *handoff) leaveForGood(ctx context.Context) {
	if h == nil {
		return
	}
	h.mu.Lock()
	h.leaving = true
	h.mu.Unlock()
	h.leave(ctx, 0)
}

// leave says goaway to the caller of connection id, or to all of them if it is 0, serves what they have
// begun, and returns when they have left or ctx has ended. New ones can come afterwards.
func (h *handoff) leave(ctx context.Context, id uint32) {
	h.mu.Lock()
	var drains sync.WaitGroup
	for this, c := range h.conns {
		if id != 0 && this != id {
			continue
		}
		drains.Go(func() { _ = c.Drain(ctx, leaveReason) }) // what ctx cuts is the caller's to repeat
	}
	h.mu.Unlock()
	drains.Wait()
}
