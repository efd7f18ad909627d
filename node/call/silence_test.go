package call

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// hush is a stream to a provider, which hears nothing any more once it is muted.
type hush struct {
	network.Stream
	muted *atomic.Bool
	heard *atomic.Int64 // reads that gave something
	over  <-chan struct{}
}

func (h hush) Read(b []byte) (int, error) {
	n, err := h.Stream.Read(b)
	if h.muted.Load() {
		<-h.over
		return 0, io.EOF
	}
	h.heard.Add(1)
	return n, err
}

// hushed has a provider's streams be muted, as if it had been killed where no connection tells of it.
func hushed(t *testing.T, p *provider) (muted *atomic.Bool, heard *atomic.Int64) {
	muted, heard = new(atomic.Bool), new(atomic.Int64)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	p.host.SetStreamHandler(cellproto.ProtocolCall, HandleStream(zap.NewNop(), func(s network.Stream) error {
		return p.server.ServeStream(context.Background(), hush{s, muted, heard, over})
	}))
	return muted, heard
}

// A call whose provider answers no ping either goes to the next one, long before half of its time is over; those
// after it do not even try. For that no token is taken.
func TestSilentProvider(t *testing.T) {
	for _, fn := range []string{"count", "echo"} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			peers, muted := &book{}, map[string]*atomic.Bool{}
			for range 2 {
				p := provide(t, cell, nil)
				muted[peerText(p.host)], _ = hushed(t, p)
				peers.add(p.host)
			}
			c := use(t, cell, peers, nil)
			winner := call(t, c, cell, fn).Provider
			r := c.remote(cell.id)
			r.mu.Lock()
			for r.hedges.Take(false) {
			}
			r.mu.Unlock()
			muted[winner].Store(true)
			for i := range 3 {
				begin := time.Now()
				res := call(t, c, cell, fn)
				if res.Provider == winner {
					t.Errorf("call %d was answered by the silent one", i)
				}
				if took := time.Since(begin); took > patience/4 {
					t.Errorf("call %d took %v", i, took)
				}
			}
		})
	}
}

// One that answers pings is only slow: what must not run more often than it has to is not asked of others.
func TestSlowProviderIsWaitedFor(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	_, heardA := hushed(t, a)
	_, heardB := hushed(t, b)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	winner, other, heard := a, b, heardA
	if call(t, c, cell, "count").Provider == peerText(b.host) {
		winner, other, heard = b, a, heardB
	}
	release, begun := make(chan struct{}), other.program.begun.Load()
	winner.program.handle = func(in *cellproto.Inbound) { <-release; answer(in) }
	done := make(chan *Result)
	go func() {
		res, err := try(t, c, cell.id.String(), request("count", "slow"))
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	before := heard.Load()
	eventually(t, "it is pinged three times", func() bool { return heard.Load() >= before+4 }) // and the call itself
	close(release)
	if res := <-done; res == nil || res.Provider != peerText(winner.host) {
		t.Errorf("it was answered by %+v", res)
	}
	if n := other.program.begun.Load(); n != begun {
		t.Errorf("the other one was asked %d times", n-begun)
	}
}

// A provider that fails while somebody looks after the call, since it takes long, is not waited for any longer: what is
// idempotent would wait for half of its time else.
func TestFailsWhileLookedAfter(t *testing.T) {
	for name, fail := range map[string]func(p *provider, in *cellproto.Inbound){
		"loses its connection": func(p *provider, _ *cellproto.Inbound) { p.cutLinks() },
		"has no place": func(_ *provider, in *cellproto.Inbound) {
			in.ReplyError(cellproto.Errorf("call", cellproto.Overloaded, "there is no place"))
		},
	} {
		for _, fn := range []string{"count", "echo"} {
			t.Run(name+", "+fn, func(t *testing.T) {
				cell := publish(t, testSchema())
				a, b := provide(t, cell, nil), provide(t, cell, nil)
				_, heardA := hushed(t, a)
				_, heardB := hushed(t, b)
				peers := &book{}
				peers.add(a.host, b.host)
				c := use(t, cell, peers, rare)
				winner, other, heard := a, b, heardA
				if call(t, c, cell, fn).Provider == peerText(b.host) {
					winner, other, heard = b, a, heardB
				}
				before := heard.Load()
				winner.program.handle = func(in *cellproto.Inbound) {
					for heard.Load() < before+2 && in.Context().Err() == nil { // the call itself, and a ping
						time.Sleep(time.Millisecond)
					}
					fail(winner, in)
				}
				begin := time.Now()
				res := call(t, c, cell, fn)
				if took := time.Since(begin); res.Provider != peerText(other.host) || took > patience/4 {
					t.Errorf("%s answered after %v", res.Provider, took)
				}
			})
		}
	}
}

// How long the answer to a ping may take: a round trip and a bit, more where pings differ or calls take longer, two round trips
// where that is more, and never more than what a race has measured allows.
func TestPong(t *testing.T) {
	ms := func(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }
	of := func(each ...float64) (r rtts) {
		for _, n := range each {
			r = r.with(ms(n))
		}
		return r
	}
	steady := func(n float64) rtts { return of(slices.Repeat([]float64{n}, 20)...) }
	quick := func(r rtts, n float64) rtts {
		for range 50 {
			r = r.called(ms(n))
		}
		return r
	}
	for name, c := range map[string]struct {
		pings       rtts
		median, p99 float64
		least, most float64
	}{
		"beside it":                 {steady(0.2), 0.2, 1, 40, 40},
		"near":                      {steady(5), 5, 8, 40, 40},
		"near, pinged once":         {of(5), 5, 8, 40, 40},
		"near, never pinged":        {rtts{}, 5, 8, 40, 40},
		"near, and busy":            {of(5, 5, 5, 25, 6, 30), 5, 8, 60, 80},
		"near, and was busy":        {quick(of(5, 5, 5, 25, 6, 30), 6), 5, 8, 40, 40},
		"near, its calls are slow":  {quick(steady(5), 80), 5, 90, 90, 90},
		"near, its calls take long": {quick(steady(5), 20_000), 5, 30_000, 160, 160},
		"far":                       {steady(60), 60, 70, 140, 141},
		"dawdles with pongs":        {steady(4000), 5, 8, 160, 160},
		"nothing is known":          {rtts{}, 0, 0, 40, 40},
	} {
		got := pong(c.pings, race.Ranked{Median: race.MicrosOf(ms(c.median)), CallP99: race.MicrosOf(ms(c.p99))})
		if got < ms(c.least) || got > ms(c.most) {
			t.Errorf("%s: %v, want %v to %v ms", name, got, c.least, c.most)
		}
	}
}

// held is a path that loses the first packet once lose is set, and has it sent again with the next one.
type held struct {
	net.Conn
	mu   sync.Mutex
	lose bool
	lost []byte
}

func (h *held) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lose {
		h.lose, h.lost = false, bytes.Clone(p)
		return len(p), nil
	}
	if _, err := h.Conn.Write(append(h.lost, p...)); err != nil {
		return 0, err
	}
	h.lost = nil
	return len(p), nil
}

// A peer is not silent because one packet to it was lost.
func TestLostPingIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(nil, "test", zap.NewNop())
		near, far := net.Pipe()
		path := &held{Conn: near}
		other, err := cellproto.NewConn(far, cellproto.Config{})
		if err != nil {
			t.Fatal(err)
		}
		var served sync.WaitGroup
		served.Go(func() { other.Run() })
		lk, err := l.start(path, linkKey{to: "peer"}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if mute(t.Context(), lk, pongLeast) {
			t.Error("it answers pings, and is said to be silent")
		}
		path.mu.Lock()
		path.lose = true
		path.mu.Unlock()
		if mute(t.Context(), lk, pongLeast) {
			t.Error("one packet was lost, and it is said to be silent")
		}
		l.close()
		served.Wait()
	})
}

// slowly is a path on which each write takes ten steps, each of ten milliseconds of this process.
type slowly struct{ net.Conn }

func (s slowly) Write(p []byte) (int, error) {
	for range 10 {
		time.Sleep(10 * time.Millisecond) // it stands for the work of a provider on this machine, which stands still with it
	}
	return s.Conn.Write(p)
}

// A machine that stands still for a moment, both ends of a link with it, finds nobody silent when it goes on, though the time of
// the clock is over.
func TestStandsStill(t *testing.T) {
	const asChild = "CELL_TEST_STANDS_STILL"
	if os.Getenv(asChild) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestStandsStill$", "-test.v") // what stands still is a process of its own
		cmd.Env = append(os.Environ(), asChild+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	l := newLinks(nil, "test", zap.NewNop())
	near, far := net.Pipe()
	other, err := cellproto.NewConn(slowly{far}, cellproto.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { other.Run() })
	lk, err := l.start(near, linkKey{to: "peer"}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lk.ping(t.Context()); err != nil { // after the hello
		t.Fatal(err)
	}
	stop := exec.Command("sh", "-c", "sleep 0.05; kill -STOP $PPID; sleep 0.21; kill -CONT $PPID")
	if err := stop.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if mute(t.Context(), lk, 300*time.Millisecond) {
		t.Errorf("it is said to be silent after %v", time.Since(begin))
	}
	if err := stop.Wait(); err != nil {
		t.Error(err)
	}
	l.close()
	served.Wait()
}

// However many calls wait for a peer that is silent, it is pinged for all of them together.
func TestLookingTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(nil, "test", zap.NewNop())
		near, far := net.Pipe()
		var pings atomic.Int64
		var heard sync.WaitGroup
		heard.Go(func() {
			for head := make([]byte, cellproto.FrameHeaderSize); ; {
				if _, err := io.ReadFull(far, head); err != nil {
					return
				}
				if head[4] == byte(cellproto.TypePing) {
					pings.Add(1)
				}
				if _, err := io.CopyN(io.Discard, far, int64(binary.BigEndian.Uint32(head))); err != nil {
					return
				}
			}
		})
		lk, err := l.start(near, linkKey{to: "peer"}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &Caller{ctx: t.Context()}
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if !c.findsMute(t.Context(), lk, pongLeast) {
					t.Error("it is not found to be silent")
				}
			})
			time.Sleep(time.Millisecond)
		}
		calls.Wait()
		if n := pings.Load(); n != 2 {
			t.Errorf("it was pinged %d times, want twice", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if c.findsMute(gone, lk, pongLeast) {
			t.Error("whose call is over hears that it is silent")
		}
		c.work.close()
		c.work.wait()
		l.close()
		far.Close()
		heard.Wait()
	})
}
