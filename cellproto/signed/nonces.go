package signed

import (
	"crypto/rand"
	"sync"
	"time"
)

// Nonce is a challenge: 32 random bytes.
type Nonce [32]byte

// NewNonce gives a fresh challenge from the system's random source.
func NewNonce() Nonce {
	var n Nonce
	_, _ = rand.Read(n[:]) // cannot fail since Go 1.24: it ends the program instead
	return n
}

// Nonces remembers which challenges a server has issued and not yet seen used. It is bounded in number
// and in time: when it is full, the oldest challenge is forgotten, and whoever answers that one late
// has to ask again. It is safe for concurrent use.
type Nonces struct {
	ttl time.Duration

	mu    sync.Mutex
	until map[Nonce]time.Time
	ring  []Nonce // in the order of Add; a used one stays until it is overwritten
	next  int
}

// NewNonces remembers at most max challenges, at least one, each for ttl.
func NewNonces(max int, ttl time.Duration) *Nonces {
	if max < 1 {
		max = 1
	}
	return &Nonces{ttl: ttl, until: make(map[Nonce]time.Time), ring: make([]Nonce, 0, max)}
}

// Add remembers a challenge that is issued now.
func (s *Nonces) Add(n Nonce, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) < cap(s.ring) {
		s.ring = append(s.ring, n)
	} else {
		delete(s.until, s.ring[s.next])
		s.ring[s.next] = n
		s.next = (s.next + 1) % len(s.ring)
	}
	s.until[n] = now.Add(s.ttl)
}

// Use reports that n was issued, has not been used and has not expired. It reports so once.
func (s *Nonces) Use(n Nonce, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, ok := s.until[n]
	delete(s.until, n)
	return ok && now.Before(until)
}
