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
	rate  float64 // entries a second of one peer; 0: entryRate
}

// bucket holds tokens, which come back at entryRate.
type bucket struct {
	used float64
	at   time.Time
}

// Allow says whether another entry of a peer is looked at: it has not sent too many, else it floods, and there
// was not too much work with those of all.
func (l *Limiter) Allow(now time.Time, p peer.ID) (flood, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(now, p)
	switch {
	case b != nil && b.used >= entryBurst:
		return true, false
	case b == nil || l.spent >= cpuBurst:
		return false, false
	}
	b.used++
	return false, true
}

// Floods counts what a peer asks, and says whether it is too much. However much there was to look at, what is
// asked is answered.
func (l *Limiter) Floods(now time.Time, p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(now, p)
	if b == nil {
		return false
	}
	if b.used >= entryBurst {
		return true
	}
	b.used++
	return false
}

// answerUnit is how many bytes of an answer count as another question: a pull of eleven bytes is answered with 256 KiB.
const answerUnit = 8 << 10

// Answered counts what a peer was sent because it asked, in bytes.
func (l *Limiter) Answered(now time.Time, p peer.ID, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.bucket(now, p); b != nil {
		b.used += float64(size) / answerUnit
	}
}

// Wait says for how long to wait before another entry that a peer was asked for is looked at; 0: not at all, and
// it counts.
func (l *Limiter) Wait(now time.Time, p peer.ID) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(now, p)
	switch {
	case b == nil:
		return time.Second
	case l.spent >= cpuBurst:
		return max((l.spent-cpuBurst)*cpuShare, time.Millisecond)
	case b.used >= entryBurst:
		return time.Duration(float64(time.Second) / l.perSecond())
	}
	b.used++
	return 0
}

// knownPart is which part of an entry's share what was known costs: it was looked at without any crypto, and who tells it cannot know
// that it is known. After a separation that is most of what there is.
const knownPart = 10

// Known says that the last entry of a peer that Wait let pass was known.
func (l *Limiter) Known(p peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.peers[p]; b != nil {
		b.used = max(b.used-1+1.0/knownPart, 0)
	}
}

// bucket gives that of a peer as it is now; nil if there are too many. l.mu is held.
func (l *Limiter) bucket(now time.Time, p peer.ID) *bucket {
	l.pass(now)
	b := l.peers[p]
	if b == nil {
		if l.peers == nil {
			l.peers = map[peer.ID]*bucket{}
		}
		if len(l.peers) >= maxPeers {
			l.forget(now)
		}
		if len(l.peers) >= maxPeers {
			return nil
		}
		b = &bucket{at: now}
		l.peers[p] = b
	}
	b.drain(now, l.perSecond())
	return b
}

func (l *Limiter) perSecond() float64 {
	if l.rate > 0 {
		return l.rate
	}
	return entryRate
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

func (b *bucket) drain(now time.Time, rate float64) {
	if gone := now.Sub(b.at).Seconds(); gone > 0 {
		b.used, b.at = max(b.used-gone*rate, 0), now
	}
}

// forget drops those who have not sent anything for long enough to start anew.
func (l *Limiter) forget(now time.Time) {
	for p, b := range l.peers {
		if b.drain(now, l.perSecond()); b.used == 0 {
			delete(l.peers, p)
		}
	}
}
