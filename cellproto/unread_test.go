package cellproto

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ask says hello and sends n frames, whoever reads them.
func ask(t *testing.T, end *memory, f Frame, n int) {
	data := mustFrame(t, Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
	for i := range n {
		f.ID = uint32(2*i + 1)
		data = append(data, mustFrame(t, f)...)
	}
	_, _ = end.Write(data) // it takes all
}

// blocked is a transport whose peer takes nothing until it is let.
type blocked struct {
	*memory
	gate   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (b *blocked) Write(p []byte) (int, error) {
	select {
	case <-b.gate:
		return b.memory.Write(p)
	case <-b.closed:
		return 0, net.ErrClosed
	}
}

func (b *blocked) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.memory.Close()
}

// refusing is a nucleus whose callers get nothing but errors.
func refusing(answered *int) func(c *Conn, f *Frame) {
	return func(c *Conn, f *Frame) {
		*answered++
		_ = c.Queue(ErrorReply(f.ID, errors.New(strings.Repeat("no ", 300))))
		c.FlushLater(c)
	}
}

// TestUnreadRepliesStopReading: who does not read has no more of its requests read, is not taken for one that is
// slow to send, gets every answer once it reads, and is cut off when it never does.
func TestUnreadRepliesStopReading(t *testing.T) {
	for name, f := range map[string]Frame{
		"requests": request(1, "f"),
		"pings":    {Type: TypePing, Payload: make([]byte, 64)},
	} {
		for _, reads := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near, far := memoryPair()
					deaf := &blocked{memory: near, gate: make(chan struct{}), closed: make(chan struct{})}
					count, answered := new(bank), 0
					c, err := NewConn(deaf, Config{Accept: refusing(&answered), MaxUnread: MaxUnread, Memory: count})
					if err != nil {
						t.Fatal(err)
					}
					ended := make(chan error, 1)
					go func() { ended <- c.Run() }()
					const n = 5000
					ask(t, far, f, n)
					time.Sleep(FrameTimeout + 5*time.Second) // the watch looks at what is here in part
					synctest.Wait()
					if wait := c.w.size(); wait <= MaxUnread || wait > MaxUnread+4<<10 {
						t.Errorf("%d bytes wait", wait)
					}
					if held := count.held(); held < MaxUnread-freeMemory || held > 2*MaxUnread {
						t.Errorf("%d bytes are counted", held)
					}
					if !reads {
						if err := <-ended; KindOf(err) != Timeout {
							t.Errorf("it ended with %v", err)
						}
					} else {
						close(deaf.gate)
						p := newRawPeer(t, far)
						p.next() // hello
						for i := range n {
							if f := p.next(); f.ID != uint32(2*i+1) {
								t.Fatalf("frame %d is %v", i, &f)
							}
						}
						c.Close()
						<-ended
					}
					if held := count.held(); held != 0 {
						t.Errorf("%d bytes are still counted", held)
					}
				})
			})
		}
	}
}

// TestHoldWakesWhoWaits: what is held back is not answered, and so does not wait for the peer to read.
func TestHoldWakesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memoryPair()
		deaf := &blocked{memory: near, gate: make(chan struct{}), closed: make(chan struct{})}
		answered := 0
		c, err := NewConn(deaf, Config{Accept: refusing(&answered), MaxUnread: MaxUnread})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Run() }()
		ask(t, far, request(1, "f"), 2000)
		synctest.Wait()
		if err := c.Hold(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.mu.Lock()
		held := len(c.held.ids)
		c.mu.Unlock()
		if held+answered < 1999 { // one was being handled
			t.Errorf("%d are answered, %d held, of 2000", answered, held)
		}
		close(deaf.gate)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Suspend(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != ErrSuspended {
			t.Error(err)
		}
		near.Close()
	})
}

// TestMemoryRefuses ends a connection for whose queue there is no memory.
func TestMemoryRefuses(t *testing.T) {
	deaf := &deafPeer{flood: mustFrame(t, request(1, "f")), left: 3 << 20, closed: make(chan struct{})}
	deaf.next = mustFrame(t, Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
	count, answered := &bank{room: 1 << 20}, 0
	c, err := NewConn(deaf, Config{Accept: refusing(&answered), Memory: count})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the connection's end", func() { err = c.Run() })
	if KindOf(err) != Overloaded || c.w.waiting() > 1<<20+freeMemory {
		t.Errorf("%d bytes wait: %v", c.w.waiting(), err)
	}
	if count.held() != 0 {
		t.Errorf("%d bytes are still counted", count.held())
	}
}

// TestNoCallsHoldLittle: who takes no calls, as a caller does on its connection to a provider, holds little for a peer that makes
// them all the same and reads nothing.
func TestNoCallsHoldLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memoryPair()
		deaf := &blocked{memory: near, gate: make(chan struct{}), closed: make(chan struct{})}
		c, err := NewConn(deaf, Config{})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Run() }()
		ask(t, far, request(1, "f"), 40_000)
		synctest.Wait()
		if wait := c.w.size(); wait < longQueue || wait > longQueue+4<<10 {
			t.Errorf("%d bytes wait", wait)
		}
		c.Close()
		<-ended
	})
}

// bank is a Memory with room bytes; 0: without a limit.
type bank struct {
	mu   sync.Mutex
	room int
	n    int
}

func (b *bank) Reserve(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.room > 0 && b.n+n > b.room {
		return errors.New("no room")
	}
	b.n += n
	return nil
}

func (b *bank) Release(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n -= n; b.n < 0 {
		panic("more is given back than was taken")
	}
}

func (b *bank) held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// TestRelayGrantsWhatMayWait: what a caller that reads nothing has granted does not come to wait here.
func TestRelayGrantsWhatMayWait(t *testing.T) {
	const calls, size = 8, 8 << 20
	near, far := memoryPair()
	caller := &blocked{memory: near, gate: make(chan struct{}), closed: make(chan struct{})}
	up, program := memoryPair()
	callee := run(t, program, Config{Accept: func(c *Conn, f *Frame) {
		in := c.Inbound(context.Background(), f)
		c.tasks.Go(func() { _ = in.ReplyBody(Header{}, io.LimitReader(zeros{}, size)) })
	}})
	_ = callee
	upConn := run(t, up, Config{Opener: true})
	if _, err := upConn.PeerHello(t.Context()); err != nil {
		t.Fatal(err)
	}
	down := run(t, caller, Config{MaxUnread: MaxUnread, Accept: func(c *Conn, f *Frame) {
		r := NewRelay(c, f, func(Kind, time.Time) {})
		if err := r.To(upConn, f, true); err != nil {
			r.Fail(err)
		}
	}})
	p := newRawPeer(t, far)
	p.send(Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
	for i := range calls {
		id := uint32(2*i + 1)
		p.send(request(id, "f"), Frame{Type: TypeCredit, ID: id, Payload: []byte{0, 0x3f, 0, 0}})
	}
	most := MaxUnread + ChunkSize + calls*InitialWindow + 1<<10
	settled(t, "the queue", func() int { return down.w.size() })
	if n := down.w.size(); n > most || n < calls*InitialWindow/2 {
		t.Errorf("%d bytes wait", n)
	}
	close(caller.gate)
	p.next() // hello
	got := map[uint32]int{}
	for sum(values(got)) < calls*InitialWindow*3 { // all that was granted comes
		if f := p.next(); f.Type == TypeChunk {
			got[f.ID] += len(f.Payload)
		} else if f.Type == 0 || f.Header.Kind != 0 {
			t.Fatalf("%v", &f)
		}
	}
	for i := range calls {
		p.send(Frame{Type: TypeCancel, ID: uint32(2*i + 1)})
	}
}

func values(m map[uint32]int) (all []int) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// settled waits until a number has not changed for a while.
func settled(t *testing.T, what string, get func() int) {
	t.Helper()
	within(t, what+" settles", func() {
		for last, same := get(), 0; same < 20; {
			time.Sleep(5 * time.Millisecond)
			if n := get(); n == last && n > 0 {
				same++
			} else {
				last, same = n, 0
			}
		}
	})
}
