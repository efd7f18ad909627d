package call

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// Bandwidth: what a caller's objective asks for is measured with real bytes. The reserved function
// cell.probe has no arguments; its reply is a body of MaxProbe bytes without meaning, on a stream of its
// own. A provider gives it to whoever may call, without waking the program, and not often.

const (
	// probeWarm is how much of a probe is not timed: until then TCP's window opens, bytes.
	probeWarm = cellproto.InitialWindow
	// probeTime bounds a probe. What has not come by then counts for the rest of the time: slow is slow.
	probeTime = 5 * time.Second
	// A provider is measured probeOften apart until there are keptProbes, and then probeRarely.
	probeOften, probeRarely = 2 * time.Second, time.Minute
	keptProbes              = 3
	maxMbps                 = 1_000_000

	// What a nucleus gives: to one peer at first three probes, then one every ten seconds; to all eight at
	// first, then one a second.
	peerProbes, allProbes           = 3, 8
	peerProbesEvery, allProbesEvery = 10 * time.Second, time.Second
	maxProbers                      = 1024 // peers that are told apart
)

// probers is what a nucleus knows of those who have asked for a probe.
type probers struct {
	mu    sync.Mutex
	all   *rate.Limiter
	peers map[string]*rate.Limiter // by subject
}

// take says whether a subject gets a probe, or how long it should wait.
func (p *probers) take(now time.Time, subject string) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all, p.peers = rate.NewLimiter(rate.Every(allProbesEvery), allProbes), map[string]*rate.Limiter{}
	}
	own := p.peers[subject]
	if own == nil {
		if len(p.peers) >= maxProbers { // forget who has all its probes again; else nobody new gets one
			for s, l := range p.peers {
				if l.TokensAt(now) >= peerProbes {
					delete(p.peers, s)
				}
			}
		}
		if len(p.peers) >= maxProbers {
			return peerProbesEvery, false
		}
		own = rate.NewLimiter(rate.Every(peerProbesEvery), peerProbes)
		p.peers[subject] = own
	}
	switch {
	case own.TokensAt(now) < 1:
		return peerProbesEvery, false
	case !p.all.AllowN(now, 1):
		return allProbesEvery, false
	}
	return 0, own.AllowN(now, 1)
}

// probeBytes repeat in every probe. They do not compress.
var probeBytes = sync.OnceValue(func() []byte {
	b := make([]byte, cellproto.ChunkSize)
	rng := rand.NewChaCha8([32]byte{'c', 'e', 'l', 'l'})
	rng.Read(b) // it never fails
	return b
})

// probe answers cell.probe.
func (s *session) probe(c *cellproto.Conn, f *cellproto.Frame) error {
	if wait, ok := s.s.probers.take(time.Now(), s.subject); !ok {
		e := cellproto.Errorf("call "+cellproto.FuncProbe, cellproto.Overloaded, "enough has been measured for now")
		e.RetryAfter = wait
		return e
	}
	if err := s.take(); err != nil {
		return err
	}
	in := c.Inbound(s.ctx, f)
	send := func() {
		defer s.giveBack()
		var parts []io.Reader
		for range cellproto.MaxProbe / cellproto.ChunkSize {
			parts = append(parts, bytes.NewReader(probeBytes()))
		}
		_ = in.ReplyBody(cellproto.Header{}, io.MultiReader(parts...)) // a lost caller needs none
	}
	if !s.s.work.Go(send) {
		s.giveBack()
		return cellproto.Errorf("call "+cellproto.FuncProbe, cellproto.Unavailable, "the nucleus is stopping")
	}
	return nil
}

// speed is what was measured of one provider.
type speed struct {
	mbps []int64 // the last, at most keptProbes
	at   time.Time
}

// due says whether it is to be measured now.
func (s *speed) due(now time.Time) bool {
	gap := probeRarely
	if len(s.mbps) < keptProbes {
		gap = probeOften
	}
	return s.at.IsZero() || now.Sub(s.at) >= gap || now.Before(s.at)
}

// best is the highest of the last measurements: whatever disturbs one makes it lower. 0: there is none.
func (s *speed) best() int64 {
	if len(s.mbps) == 0 {
		return 0
	}
	return slices.Max(s.mbps)
}

// bandwidth gives what a provider sends, in Mbit/s; 0: that could not be measured. It measures if that is
// due, which takes as long as 1 MiB does.
func (c *Caller) bandwidth(r *remote, p cellproto.PeerID) int64 {
	now := time.Now()
	r.mu.Lock()
	if r.speeds == nil || len(r.speeds) >= maxInfos {
		r.speeds = map[cellproto.PeerID]*speed{}
	}
	s := r.speeds[p]
	if s == nil {
		s = &speed{}
		r.speeds[p] = s
	}
	if !s.due(now) {
		defer r.mu.Unlock()
		return s.best()
	}
	s.at = now
	r.mu.Unlock()
	mbps, err := c.measure(r, p)
	if err != nil {
		c.deps.Log.Debug("the bandwidth of a provider cannot be measured", zap.String("peer", string(p)), zap.Error(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		s.mbps = append(s.mbps, mbps)
		s.mbps = s.mbps[max(len(s.mbps)-keptProbes, 0):]
	}
	return s.best()
}

// measure has a provider send a probe.
func (c *Caller) measure(r *remote, p cellproto.PeerID) (int64, error) {
	ctx, cancel := context.WithTimeout(c.ctx, probeTime)
	defer cancel()
	if id, err := peer.Decode(string(p)); err != nil || c.links.relayedOnly(id) {
		return 0, cellproto.Errorf("measure "+string(p), cellproto.Unavailable, "there is no direct connection, and a relay is not for bulk")
	}
	lk, err := c.connect(ctx, r, p, true)
	if err != nil {
		return 0, err
	}
	defer lk.conn.Close()
	reply, err := c.send(ctx, lk, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncProbe}}, string(p), string(r.name))
	if err != nil {
		return 0, err
	}
	if reply.Body == nil {
		return 0, cellproto.Errorf("measure "+string(p), cellproto.Corrupt, "%d bytes instead of a probe", len(reply.Payload))
	}
	defer reply.Body.Close()
	return timeProbe(ctx, reply.Body, time.Now)
}

// timeProbe reads a probe, and times what comes after the first probeWarm bytes. One that does not come to
// its end in time is measured by what came.
func timeProbe(ctx context.Context, body io.Reader, clock func() time.Time) (int64, error) {
	buf := make([]byte, cellproto.ChunkSize)
	total, timed := 0, 0
	var warm time.Time
	for total < cellproto.MaxProbe {
		n, err := body.Read(buf)
		total += n
		if !warm.IsZero() {
			timed += n
		} else if total >= probeWarm {
			warm = clock()
		}
		switch {
		case err == nil || total >= cellproto.MaxProbe:
		case ctx.Err() != nil && warm.IsZero():
			return max(mbps(total, probeTime), 1), nil
		case ctx.Err() != nil:
			return max(mbps(timed, clock().Sub(warm)), 1), nil
		default:
			return 0, cellproto.Errorf("measure", cellproto.KindOf(err), "the probe broke off after %d bytes: %w", total, err)
		}
	}
	return max(mbps(timed, clock().Sub(warm)), 1), nil
}

// mbps is a rate in Mbit/s, at most maxMbps.
func mbps(n int, took time.Duration) int64 {
	us := max(took.Microseconds(), 1)
	return min(int64(n)*8/us, maxMbps)
}

// winnerSpeed gives the measuring of a race's winner to whoever has an objective for it; nil: nobody won.
func (c *Caller) winnerSpeed(r *remote, d *race.Decision) func() int64 {
	if d.Winner == "" {
		return nil
	}
	return func() int64 { return c.bandwidth(r, d.Winner) }
}
