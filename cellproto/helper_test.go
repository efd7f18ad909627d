package cellproto

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryPair gives two ends of a transport in memory that buffers without a limit, so that it can be
// used under testing/synctest.
func memoryPair() (a, b *memory) {
	x, y := newPipe(), newPipe()
	return &memory{in: x, out: y}, &memory{in: y, out: x}
}

type memory struct {
	in, out *pipe
}

func (m *memory) Read(b []byte) (int, error)  { return m.in.read(b) }
func (m *memory) Write(b []byte) (int, error) { return m.out.write(b) }
func (m *memory) Close() error                { m.in.close(); m.out.close(); return nil }

// SetReadDeadline knows two times: none, and one that has passed.
func (m *memory) SetReadDeadline(t time.Time) error { m.in.expire(!t.IsZero()); return nil }

type pipe struct {
	mu      sync.Mutex
	more    *sync.Cond
	data    bytes.Buffer
	closed  bool
	expired bool
}

func (p *pipe) expire(expired bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expired = expired
	p.more.Broadcast()
}

func newPipe() *pipe {
	p := &pipe{}
	p.more = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.data.Len() == 0 && !p.closed && !p.expired {
		p.more.Wait()
	}
	if p.expired {
		return 0, os.ErrDeadlineExceeded
	}
	if p.data.Len() == 0 {
		return 0, io.EOF
	}
	return p.data.Read(b)
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, net.ErrClosed
	}
	p.more.Broadcast()
	return p.data.Write(b)
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.more.Broadcast()
}

// rawPeer is the other end of a connection under test, frame by frame. What the connection sends is
// collected by a goroutine of its own.
type rawPeer struct {
	t      testing.TB
	conn   io.ReadWriteCloser
	frames chan Frame // closed at the end
}

// dial gives a connection under test, and its peer, which has said hello.
func dial(t testing.TB, cfg Config) (*Conn, *rawPeer) {
	t.Helper()
	a, b := memoryPair()
	c := run(t, a, cfg)
	p := newRawPeer(t, b)
	p.send(Frame{Type: TypeHello, Payload: mustHello(t, Hello{})})
	if f := p.next(); f.Type != TypeHello {
		t.Fatalf("the first frame is %v", &f)
	}
	return c, p
}

func newRawPeer(t testing.TB, conn io.ReadWriteCloser) *rawPeer {
	p := &rawPeer{t: t, conn: conn, frames: make(chan Frame, 1<<16)}
	done := make(chan struct{})
	go func() { defer close(done); p.collect() }()
	t.Cleanup(func() { conn.Close(); <-done })
	return p
}

func (p *rawPeer) collect() {
	defer close(p.frames)
	var data []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := p.conn.Read(buf)
		data = append(data, buf[:n]...)
		for {
			f, n, perr := ParseFrame(data)
			if perr != nil {
				p.t.Errorf("a malformed frame is sent: %v", perr)
				return
			}
			if n == 0 {
				break
			}
			p.frames <- f.Clone()
			data = data[n:]
		}
		if err != nil {
			return
		}
	}
}

func (p *rawPeer) send(frames ...Frame) {
	p.t.Helper()
	var data []byte
	for i := range frames {
		data = append(data, mustFrame(p.t, frames[i])...)
	}
	p.write(data)
}

// write sends any bytes. That the other side may have closed is what tests of refusals expect.
func (p *rawPeer) write(data []byte) { _, _ = p.conn.Write(data) }

// next gives the next frame of the connection; its end is a frame without a type.
func (p *rawPeer) next() (f Frame) {
	p.t.Helper()
	within(p.t, "the next frame", func() { f = <-p.frames })
	return f
}

// sync returns when the connection has handled all that was sent, and gives what it sent meanwhile.
func (p *rawPeer) sync() (frames []Frame) {
	p.t.Helper()
	p.send(Frame{Type: TypePing, ID: 0xfffffff0, Payload: []byte("sync")})
	for {
		f := p.next()
		if f.Type == 0 || f.Type == TypePong && f.ID == 0xfffffff0 {
			return frames
		}
		frames = append(frames, f)
	}
}

// echoStream answers with what it is sent, arguments first.
func echoStream(c *Conn, f *Frame) {
	in := c.Inbound(context.Background(), f)
	c.tasks.Go(func() { in.ReplyBody(Header{}, io.MultiReader(bytes.NewReader(in.Payload), in.Body())) })
}
