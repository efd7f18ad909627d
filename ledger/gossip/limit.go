package gossip

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What a peer may send, and what looking at it may cost.
const (
	entryRate  = 50  // entries a second of one peer
	entryBurst = 500 //
	cpuShare   = 10  // a tenth of one processor for all peers together
	cpuBurst   = time.Second
	maxPeers   = 1024
)

// Limiter bounds what peers send. The zero value is ready.
type Limiter struct {
	mu    sync.Mutex
	peers map[peer.ID]*bucket
	spent time.Duration // on entries; a tenth of the time that passes is taken off
	last  time.Time
}

// bucket holds tokens, which come back at entryRate.
type bucket struct {
	used float64
	at   time.Time
}

// Allow says whether another entry of a peer is looked at: it has not sent too many, and there was not too
// much work with those of all.
func (l *Limiter) Allow(now time.Time, p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass(now)
	if l.spent >= cpuBurst {
		return false
	}
	b := l.peers[p]
	if b == nil {
		if l.peers == nil {
			l.peers = map[peer.ID]*bucket{}
		}
		if len(l.peers) >= maxPeers {
			l.forget(now)
		}
		if len(l.peers) >= maxPeers {
			return false
		}
		b = &bucket{at: now}
		l.peers[p] = b
	}
	b.drain(now)
	if b.used >= entryBurst {
		return false
	}
	b.used++
	return true
}

// Spent notes how long an entry was looked at.
func (l *Limiter) Spent(now time.Time, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass(now)
	l.spent += d
}

func (l *Limiter) pass(now time.Time) {
	if gone := now.Sub(l.last); gone > 0 {
		l.spent = max(l.spent-gone/cpuShare, 0)
		l.last = now
	}
}

func (b *bucket) drain(now time.Time) {
	if gone := now.Sub(b.at).Seconds(); gone > 0 {
		b.used, b.at = max(b.used-gone*entryRate, 0), now
	}
}

// forget drops those who have not sent anything for long enough to start anew.
func (l *Limiter) forget(now time.Time) {
	for p, b := range l.peers {
		if b.drain(now); b.used == 0 {
			delete(l.peers, p)
		}
	}
}
