package call

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// slowReader gives a chunk at each interval of a clock that it moves itself.
type slowReader struct {
	now   time.Time
	every time.Duration
	left  int
	end   error
}

func (s *slowReader) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, s.end
	}
	n := min(len(p), s.left)
	s.left -= n
	s.now = s.now.Add(s.every)
	return n, nil
}

func TestTimeProbe(t *testing.T) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		every  time.Duration
		bytes  int
		end    error
		mbps   int64
		failed bool
	}{
		"64 KiB in 1 ms":       {t.Context(), time.Millisecond, cellproto.MaxProbe, nil, 524, false},
		"64 KiB in 100 ms":     {t.Context(), 100 * time.Millisecond, cellproto.MaxProbe, nil, 5, false},
		"in no time":           {t.Context(), 0, cellproto.MaxProbe, nil, maxMbps, false},
		"very slow":            {t.Context(), 10 * time.Second, cellproto.MaxProbe, nil, 1, false},
		"cut by the time":      {over, 10 * time.Millisecond, cellproto.MaxProbe / 2, context.DeadlineExceeded, 52, false},
		"cut at the beginning": {over, 10 * time.Millisecond, 1000, context.DeadlineExceeded, 1, false},
		"nothing came":         {over, 0, 0, context.DeadlineExceeded, 1, false},
		"too short":            {t.Context(), time.Millisecond, cellproto.MaxProbe - 1, io.EOF, 0, true},
		"broken off":           {t.Context(), time.Millisecond, 1000, errors.New("lost"), 0, true},
	} {
		r := &slowReader{now: time.Unix(1, 0), every: c.every, left: c.bytes, end: c.end}
		got, err := timeProbe(c.ctx, r, func() time.Time { return r.now })
		if got != c.mbps || (err != nil) != c.failed {
			t.Errorf("%s: %d Mbit/s, %v; want %d", name, got, err, c.mbps)
		}
	}
	if _, err := timeProbe(t.Context(), iotest.ErrReader(io.ErrUnexpectedEOF), time.Now); err == nil {
		t.Error("an error is no measurement")
	}
}

func TestProbersAreBounded(t *testing.T) {
	now := time.Unix(1, 0)
	var p probers
	given := 0
	for range 10 {
		if _, ok := p.take(now, "greedy"); ok {
			given++
		}
	}
	if given != peerProbes {
		t.Errorf("one peer got %d", given)
	}
	if wait, ok := p.take(now.Add(peerProbesEvery), "greedy"); !ok {
		t.Errorf("and none %v later, but %v", peerProbesEvery, wait)
	}
	given = 0
	for i := range 100 { // Sybils
		if _, ok := p.take(now.Add(peerProbesEvery), string(rune('a'+i))); ok {
			given++
		}
	}
	if given > allProbes {
		t.Errorf("all together got %d", given)
	}
	for i := range 10 * maxProbers {
		p.take(now.Add(time.Hour+time.Duration(i)*time.Millisecond), string(rune(i)))
	}
	if len(p.peers) > maxProbers {
		t.Errorf("%d peers are remembered", len(p.peers))
	}
	if _, ok := p.take(now.Add(3*time.Hour), "new"); !ok {
		t.Error("nobody new gets one any more")
	}
}

func TestSpeed(t *testing.T) {
	now := time.Unix(1000, 0)
	s := &speed{}
	if !s.due(now) || s.best() != 0 {
		t.Error("it is due at first")
	}
	for i, m := range []int64{3, 9, 1} {
		s.mbps, s.at = append(s.mbps, m), now
		if s.due(now) || s.due(now.Add(probeOften)) != (i < 2) {
			t.Errorf("after %d", i+1)
		}
	}
	if s.best() != 9 || s.due(now.Add(probeRarely-1)) || !s.due(now.Add(probeRarely)) || !s.due(now.Add(-time.Hour)) {
		t.Errorf("%+v", s)
	}
}

// narrow is a stream that takes so many bytes a second, in pieces.
type narrow struct {
	network.Stream
	perSecond int
}

func (n narrow) Write(p []byte) (done int, err error) {
	for len(p) > 0 && err == nil {
		k := 0
		k, err = n.Stream.Write(p[:min(len(p), 16<<10)])
		done, p = done+k, p[k:]
		time.Sleep(time.Duration(k) * time.Second / time.Duration(n.perSecond)) // this is what is measured
	}
	return done, err
}

// Real bytes over real connections: a narrow one is found to be so, and nobody is asked too often.
func TestBandwidth(t *testing.T) {
	cell := publish(t, testSchema())
	for name, perSecond := range map[string]int{"as it is": 0, "4 MB/s": 4 << 20} {
		t.Run(name, func(t *testing.T) {
			p := provide(t, cell, func(cfg *ServerConfig) { cfg.Challenge = cellproto.AuthSimple })
			if perSecond > 0 {
				p.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) {
					_ = p.server.ServeStream(context.Background(), narrow{s, perSecond})
				})
			}
			peers := &book{}
			peers.add(p.host)
			heard := make(chan int64, 1)
			c := use(t, cell, peers, func(cfg *CallerConfig, d *CallerDeps) {
				cfg.Policy = race.Policy{Keep: time.Hour}
				d.Raced = func(r Raced) time.Duration { heard <- r.Bandwidth(); return 0 }
			})
			if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
				t.Fatal(err)
			}
			got := <-heard
			t.Logf("%d Mbit/s", got)
			if most := int64(perSecond * 8 / 1_000_000); got < 1 || perSecond > 0 && got > most+most/5 {
				t.Errorf("%d Mbit/s, at most %d can be", got, most)
			}
			r, id := c.remote(cell.id), cellproto.PeerID(peerText(p.host))
			before := p.calls.Load()
			if again := c.bandwidth(r, id); again != got || p.calls.Load() != before {
				t.Errorf("it was measured again at once: %d", again)
			}
			if n := p.program.starts.Load(); n != 0 {
				t.Error("the program was started for it")
			}
			eventually(t, "the place is given back", func() bool { return p.server.Load().InFlight == 0 })
		})
	}
}

// A provider refuses who asks too often, and those that it does not admit.
func TestProbeIsRefused(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	conn := onSocket(t, p)
	probe := &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncProbe}}
	for range peerProbes {
		reply, err := conn.Call(t.Context(), probe)
		if err != nil {
			t.Fatal(err)
		}
		body, err := reply.Bytes(2 * cellproto.MaxProbe)
		if err != nil || len(body) != cellproto.MaxProbe || bytes.Equal(body[:1024], make([]byte, 1024)) {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
	}
	_, err := conn.Call(t.Context(), probe)
	wantKind(t, err, cellproto.Overloaded)
	if cellproto.RetryAfterOf(err) != peerProbesEvery {
		t.Errorf("come back in %v", cellproto.RetryAfterOf(err))
	}
	strict := provide(t, cell, func(cfg *ServerConfig) { cfg.Challenge = cellproto.AuthSig })
	peers := &book{}
	peers.add(strict.host)
	c := use(t, cell, peers, nil)
	if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
		t.Fatal(err)
	}
	if got := c.bandwidth(c.remote(cell.id), cellproto.PeerID(peerText(strict.host))); got != 0 {
		t.Errorf("%d Mbit/s of who refuses", got)
	}
}
