package gossip

import (
	"context"
	"maps"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// What Counts has besides the verdicts of package ledger.
const (
	Flooding   = "flooding"   // past what one peer may send
	Unreadable = "unreadable" // no message of the protocol
	Refused    = "bill refused"
	Busy       = "busy" // put off: all peers together have taken the time that there is for it
)

// Metrics is what a Travel has counted since it was made, for monitoring.
type Metrics struct {
	Taken    uint64            // entries that were new
	Regained uint64            // of these, those that this host had signed and had lost
	Refused  map[string]uint64 // what was not taken, by one of Kinds
	Bills    uint64            // that this host did not sign
	In, Out  uint64            // bytes of the protocol
}

// Kinds are those of what is refused. For malformed, oversized, non_canonical, forged, unreadable and flooding the sender is charged; for all
// of them it has that much less of what it may send.
var Kinds = []string{
	"malformed", "oversized", "non_canonical", "foreign", "forged", "replayed", "reordered", Flooding, // what somebody may try
	"decreasing", "banned", "beyond", "missing", Busy, Early, Unreadable,
}

// Metrics gives what was counted.
func (t *Travel) Metrics() Metrics {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Metrics{
		Taken:    t.counts[ledger.Stored.String()] + t.counts[ledger.Forked.String()],
		Regained: t.back, Refused: maps.Clone(t.refused), Bills: t.counts[Refused], In: t.bytes.in.Load(), Out: t.bytes.out.Load(),
	}
}

func (t *Travel) count(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[what]++
}

// Counts gives what became of what peers have sent: how many entries had each verdict, and were dropped before one.
func (t *Travel) Counts() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}

// refuse counts what was not taken: for people under one of the words of Counts, for monitoring under one of Kinds.
func (t *Travel) refuse(what, kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[what]++
	t.refused[kind]++
}

// unreadable counts a message that breaks the protocol.
func (t *Travel) unreadable(kind cellproto.Kind) {
	if kind == cellproto.TooLarge {
		t.refuse(Unreadable, ledger.Result{Verdict: ledger.TooLarge}.Sort())
		return
	}
	t.refuse(Unreadable, Unreadable)
}

// took counts what became of an entry.
func (t *Travel) took(r ledger.Result) {
	switch {
	case r.Verdict != ledger.Stored && r.Verdict != ledger.Forked:
		t.refuse(r.Verdict.String(), r.Sort())
		return
	case r.Lost:
		t.mu.Lock()
		t.back++
		t.mu.Unlock()
	}
	t.count(r.Verdict.String())
}

// Host gives the host, for what others send by the protocol: its bytes are counted.
func (t *Travel) Host() host.Host { return t.host }

// traffic is bytes of the protocol.
type traffic struct{ in, out atomic.Uint64 }

// counting is a host that counts what goes over the streams that it opens.
type counting struct {
	host.Host
	bytes *traffic
}

// NewStream is host.Host's.
func (c counting) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := c.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	return countedStream{s, c.bytes}, nil
}

type countedStream struct {
	network.Stream
	bytes *traffic
}

func (s countedStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.bytes.in.Add(uint64(max(n, 0)))
	return n, err
}

func (s countedStream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	s.bytes.out.Add(uint64(max(n, 0)))
	return n, err
}
