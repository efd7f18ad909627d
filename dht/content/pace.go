package content

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
)

// leastRate is how many bytes a second a peer has to take, or to give, while the other side waits for
// it: whoever is slower holds a place that others wait for. It is a 64 kbit/s line.
const leastRate = 8 << 10

// pace says whether a peer keeps up. Only the time counts in which this side waited for it: of each
// window of that, window times leastRate bytes must come.
type pace struct {
	window time.Duration
	spent  time.Duration // waited since that many bytes had come last
	moved  int           // bytes since then
}

func newPace(window time.Duration) pace { return pace{window: window} }

func (p *pace) least() int { return max(int(p.window.Seconds()*leastRate), 1) }

// left is how long the next bytes may take.
func (p *pace) left() time.Duration { return max(p.window-p.spent, 0) }

// count notes that n bytes were waited for so long.
func (p *pace) count(n int, waited time.Duration) {
	p.spent += waited
	if p.moved += n; p.moved >= p.least() {
		p.spent, p.moved = 0, 0
	}
}

// paced is a stream whose peer has to keep up, in each direction by itself: one that does not ends
// it with kind Timeout. It is for one reader and one writer.
type paced struct {
	network.Stream
	in, out pace
}

func newPaced(st network.Stream, window time.Duration) *paced {
	return &paced{Stream: st, in: newPace(window), out: newPace(window)}
}

func (s *paced) Read(p []byte) (int, error) {
	began := time.Now()
	if err := s.SetReadDeadline(began.Add(s.in.left())); err != nil {
		return 0, err
	}
	n, err := s.Stream.Read(p)
	s.in.count(n, time.Since(began))
	return n, tooSlow(err, &s.in)
}

// Write writes in pieces, so that a peer that takes any of them in time may have its time for the next.
func (s *paced) Write(p []byte) (n int, err error) {
	for first := true; first || n < len(p); first = false {
		began := time.Now()
		if err := s.SetWriteDeadline(began.Add(s.out.left())); err != nil {
			return n, err
		}
		k, err := s.Stream.Write(p[n:min(len(p), n+s.out.least())])
		n += k
		s.out.count(k, time.Since(began))
		if err != nil {
			return n, tooSlow(err, &s.out)
		}
	}
	return n, nil
}

func tooSlow(err error, p *pace) error {
	if err == nil || !timedOut(err) {
		return err
	}
	return cellproto.Errorf("wait for a slow peer", cellproto.Timeout, "%d bytes in %s, at least %d: %w", p.moved, p.window, p.least(), err)
}
