package call

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What calls cost, by whom they are from, in totals. A call adds to three numbers, by times that were
// read anyway. Everything else is measured once in a while and divided by time in flight, which these
// numbers give exactly: see Meter.Tick.

// Usage is what a peer has used, in all. GPUs are not measured.
type Usage struct {
	Calls  uint64
	CPU    uint64 // ns, its share of what the program has used
	Wall   uint64 // ns in flight, over all calls
	RAM    uint64 // KiB x s, its share
	In     uint64 // bytes that it has sent, over its streams
	Out    uint64 // bytes that it was sent
	Energy uint64 // µWh
}

// Less gives what was used since before; what would be below nothing is nothing.
func (u Usage) Less(before Usage) Usage {
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	return Usage{
		Calls: less(u.Calls, before.Calls), CPU: less(u.CPU, before.CPU), Wall: less(u.Wall, before.Wall), RAM: less(u.RAM, before.RAM),
		In: less(u.In, before.In), Out: less(u.Out, before.Out), Energy: less(u.Energy, before.Energy),
	}
}

// gauge counts the calls of one peer.
type gauge struct {
	// flight has in its low flightBits how many calls are in flight, and above that the sum, in ns and
	// modulo 2^48, of when calls ended less when they began. With it the time in flight up to any moment
	// is read in one go.
	flight  atomic.Uint64
	calls   atomic.Uint64 // that have ended
	in, out atomic.Uint64

	// Meter.mu guards these.
	streams                int // that are open
	wall, cpu, ram, energy uint64
	seen                   uint64 // of the time in flight, what wall has; 48 bits
	rem                    [3]uint64
}

const flightBits = 16

func (t *gauge) begin(at time.Duration) { t.flight.Add(1 - uint64(at)<<flightBits) }
func (t *gauge) end(at time.Duration)   { t.flight.Add(uint64(at)<<flightBits - 1); t.calls.Add(1) }

// flown gives the time in flight since it was asked last, and what to set seen to.
func (t *gauge) flown(at time.Duration) (ns, seen uint64) {
	v := t.flight.Load()
	now := v>>flightBits + v&(1<<flightBits-1)*uint64(at)
	gain := int64((now-t.seen)<<flightBits) >> flightBits
	if gain <= 0 { // a call began a moment after at, or had ended before the last look and not said so
		return 0, t.seen
	}
	return uint64(gain), now
}

// maxGauges bounds the peers that are counted apart.
const maxGauges = 4096

// Meter counts what peers use of a program, or, on the caller's side, what this host asks of peers.
type Meter struct {
	base   time.Time
	asleep atomic.Bool   // whoever calls Tick waits for Awake
	awake  chan struct{} // capacity 1

	mu     sync.Mutex
	gauges map[string]*gauge
	others gauge // those past maxGauges, together
}

func newMeter() *Meter {
	m := &Meter{base: time.Now(), awake: make(chan struct{}, 1), gauges: map[string]*gauge{}}
	m.asleep.Store(true)
	return m
}

// gauge gives the counts of a peer.
func (m *Meter) gauge(who string) *gauge {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of(who)
}

// of is gauge. m.mu is held.
func (m *Meter) of(who string) *gauge {
	t := m.gauges[who]
	switch {
	case t != nil:
	case len(m.gauges) >= maxGauges:
		return &m.others
	default:
		t = &gauge{}
		m.gauges[who] = t
	}
	return t
}

// enter gives the counts of a peer for one of its streams, at whose end leave is called.
func (m *Meter) enter(who string) *gauge {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.of(who)
	t.streams++
	return t
}

// leave forgets a peer whose last stream has ended, if it has used nothing. What another stream of it uses has to be found.
func (m *Meter) leave(who string, t *gauge) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.streams--
	if t.streams == 0 && m.gauges[who] == t && t.calls.Load() == 0 && t.flight.Load() == 0 {
		delete(m.gauges, who)
	}
}

func (m *Meter) begin(t *gauge, at time.Time) {
	t.begin(at.Sub(m.base))
	if m.asleep.Load() && m.asleep.CompareAndSwap(true, false) {
		select {
		case m.awake <- struct{}{}:
		default:
		}
	}
}

func (m *Meter) end(t *gauge, at time.Time) { t.end(at.Sub(m.base)) }

// forget gives what a peer has used in all, and begins anew with it; false while it has calls in flight.
func (m *Meter) forget(who string) (Usage, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.gauges[who]
	if t == nil || t.streams > 0 || t.flight.Load()&(1<<flightBits-1) > 0 {
		return Usage{}, false
	}
	delete(m.gauges, who)
	return t.usage(), true
}

// Crowded reports that there is little room for further peers.
func (m *Meter) Crowded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.gauges) > maxGauges*3/4
}

// Forget gives what a caller that has left had used in all, and forgets it; false if it is here, or was
// never.
func (s *Server) Forget(who string) (Usage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[who] != nil {
		return Usage{}, false
	}
	return s.meter.forget(who)
}

// Awake is sent something when there are calls again after Tick has said that there are none.
func (m *Meter) Awake() <-chan struct{} { return m.awake }

// Spent is what a program has used between two ticks.
type Spent struct {
	CPU    uint64 // ns
	RAM    uint64 // KiB x s
	Energy uint64 // µWh
	Cores  int    // CPU is no more than these in the time in flight: what is, is the program's own
	// Aside are ns in flight of calls that are not counted here, and take their share.
	Aside uint64
}

// Tick divides what was spent since the last one among those whose calls were in flight, by the time for
// which they were. It gives the sum of that. When there were none the program worked on its own account.
// When it gives 0, there is nothing to do until Awake.
func (m *Meter) Tick(now time.Time, s Spent) (flown time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := now.Sub(m.base)
	type share struct {
		t  *gauge
		ns uint64
	}
	var shares []share
	var total uint64
	busy := false
	look := func(t *gauge) {
		ns, seen := t.flown(at)
		busy = busy || t.flight.Load()&(1<<flightBits-1) > 0
		if ns == 0 {
			return
		}
		t.seen = seen
		t.wall += ns
		total += ns
		shares = append(shares, share{t, ns})
	}
	for _, t := range m.gauges {
		look(t)
	}
	look(&m.others)
	if total == 0 {
		if !busy {
			m.asleep.Store(true)
		}
		return 0
	}
	whole := total + s.Aside
	if s.Cores > 0 {
		s.CPU = min(s.CPU, whole*uint64(s.Cores))
	}
	for _, sh := range shares {
		sh.t.cpu += part(s.CPU, sh.ns, whole, &sh.t.rem[0])
		sh.t.ram += part(s.RAM, sh.ns, whole, &sh.t.rem[1])
		sh.t.energy += part(s.Energy, sh.ns, whole, &sh.t.rem[2])
	}
	return time.Duration(total)
}

// part gives of, times ns over whole. What is lost to rounding is kept in rem, in 2^-32 of a unit.
func part(of, ns, whole uint64, rem *uint64) uint64 {
	hi, lo := bits.Mul64(of, ns)
	q, r := bits.Div64(hi, lo, whole) // ns <= whole: it fits
	h, l := bits.Mul64(r, 1<<32)
	frac, _ := bits.Div64(h, l, whole)
	*rem += frac
	q += *rem >> 32
	*rem &= 1<<32 - 1
	return q
}

// Each calls f with what each peer has used up to the last Tick.
func (m *Meter) Each(f func(who string, u Usage)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for who, t := range m.gauges {
		if u := t.usage(); u.Calls > 0 || u.Wall > 0 {
			f(who, u)
		}
	}
}

// Of gives what one peer has used, with its calls in flight and their time up to now, of which nothing is
// divided yet.
func (m *Meter) Of(who string, now time.Time) Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.gauges[who]
	if t == nil {
		return Usage{}
	}
	u := t.usage()
	ns, _ := t.flown(now.Sub(m.base))
	u.Wall += ns
	u.Calls += t.flight.Load() & (1<<flightBits - 1)
	return u
}

func (t *gauge) usage() Usage {
	return Usage{Calls: t.calls.Load(), CPU: t.cpu, Wall: t.wall, RAM: t.ram, In: t.in.Load(), Out: t.out.Load(), Energy: t.energy}
}

// Meter gives what peers have used, by the text of their peer ID, "uid:N" for those on Unix sockets.
func (s *Server) Meter() *Meter { return s.meter }

// began and over count a call that is made over a link, if that leads to another host.
func (lk *link) began(at time.Time) {
	if lk.use != nil {
		lk.meter.begin(lk.use, at)
	}
}

func (lk *link) over(at time.Time) {
	if lk.use != nil {
		lk.meter.end(lk.use, at)
	}
}

// clock gives the time if calls over the link are counted.
func (lk *link) clock() (now time.Time) {
	if lk.use != nil {
		now = time.Now()
	}
	return now
}

// Meter gives what this host has asked of peers, by the text of their peer ID. Whoever ticks it has nothing to divide:
// Spent{}.
func (c *Caller) Meter() *Meter { return c.links.meter }

// Spent gives what this host has asked of peers: calls and the time that it has waited for them.
func (c *Caller) Spent(p peer.ID, now time.Time) Usage { return c.links.meter.Of(p.String(), now) }

// counted is a stream whose bytes are counted.
type counted struct {
	stream
	t *gauge
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	c.t.in.Add(uint64(n))
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.stream.Write(p)
	c.t.out.Add(uint64(n))
	return n, err
}

// Divided gives what one peer has used up to the last Tick.
func (m *Meter) Divided(who string) Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.gauges[who]; t != nil {
		return t.usage()
	}
	return Usage{}
}
