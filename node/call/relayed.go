package call

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// A peer behind a NAT is reached through a relay at first. It then begins to punch a hole, once, when
// the relayed connection comes in; a nucleus that was started for this very call does not know its own
// address by then, and the attempt is in vain. So a link that is still relayed after a while is made
// anew when it is idle, and the peer tries again.
const (
	renewAfter = time.Second // the age of a relayed link at which it is made anew; each time ten times as much
	maxRenewed = 3           // times, for one peer
	punchTime  = time.Second // that a large body waits for the hole before the next attempt
	maxRelayed = 1024        // peers for which that is counted; past it all start anew
)

// direct reports whether there is a connection to a peer without a relay between, and relayedOnly
// whether there are others only.
func (l *links) direct(p peer.ID) bool {
	return l.host != nil && l.host.Network().Connectedness(p) == network.Connected
}

func (l *links) relayedOnly(p peer.ID) bool {
	return l.host != nil && l.host.Network().Connectedness(p) == network.Limited
}

// spent reports that a link cannot take another call, or that there is, or could be, a better way than
// through the relay that it was made over. What is under way on it goes on; without a call it ends by
// itself. l.mu is held.
func (l *links) spent(d *dialing) bool {
	if d.dead() {
		return true
	}
	if !d.done() || !d.link.relayed {
		return false
	}
	return l.direct(d.link.remote) || l.due(d.link)
}

// due reports that a relayed link is to be made anew. l.mu is held.
func (l *links) due(lk *link) bool {
	n := l.renewed[lk.remote]
	if n >= maxRenewed {
		return false
	}
	wait := renewAfter
	for range n {
		wait *= 10
	}
	return time.Since(lk.made) >= wait && l.idle(lk.remote)
}

// idle reports that no call is under way to a peer. l.mu is held.
func (l *links) idle(p peer.ID) bool {
	for _, d := range l.made {
		if d.done() && d.err == nil && d.link.remote == p {
			if in, out := d.link.conn.InFlight(); in+out > 0 {
				return false
			}
		}
	}
	return true
}

// renew ends the relayed connections to a peer, unless calls are under way on them.
func (l *links) renew(p peer.ID) {
	l.mu.Lock()
	ok := l.idle(p)
	if ok {
		if len(l.renewed) >= maxRelayed {
			clear(l.renewed)
		}
		l.renewed[p]++
		for key, d := range l.made {
			if d.done() && d.err == nil && d.link.remote == p {
				delete(l.made, key)
			}
		}
	}
	l.mu.Unlock()
	if ok {
		_ = l.host.Network().ClosePeer(p) // it may have left
	}
}

// hopeful reports that a peer is reached through a relay, and that there may be a direct connection
// soon: it has not been waited for in vain.
func (l *links) hopeful(p cellproto.PeerID) bool {
	id, err := peer.Decode(string(p))
	if err != nil || !l.relayedOnly(id) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renewed[id] < maxRenewed
}

// givesBody reports that a function's replies have bodies, as far as the schema is known.
func (r *remote) givesBody(ctx context.Context, function string) bool {
	_, s := r.description()
	if s = r.as(ctx, s); s == nil {
		return false
	}
	fn, err := s.Function(function)
	return err == nil && fn.BodyOut
}

// bulk makes a link of its own, for a large body; the caller closes its connection. It is never
// relayed: a relay grants 128 KiB, and would cut the body off.
func (l *links) bulk(ctx context.Context, info peer.AddrInfo, cell, made string) (*link, error) {
	key := linkKey{info.ID.String(), cell, made}
	for {
		dial, cancel := context.WithTimeout(ctx, punchTime)
		lk, err := l.dialPeer(dial, ctx, info, key)
		cancel()
		if err == nil || !l.relayedOnly(info.ID) {
			return lk, err
		}
		if ctx.Err() != nil {
			return nil, cellproto.Errorf("connect to "+info.ID.String(), unavailable(ctx),
				"a relay is the only way there, and carries no body over %d KiB: %w", cellproto.ChunkSize>>10, err)
		}
		l.renew(info.ID)
	}
}
