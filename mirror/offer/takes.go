package offer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// What a donor takes up at the moment.

// Takes that go on at once, of all, and of one peer or network: identities cost nothing.
const (
	maxTakes    = 2
	maxOwnTakes = 1
	takesRetry  = 20 * time.Second // what who comes too late is told
	// stalledAfter is how long a take may bring nothing new while somebody else waits for its place.
	stalledAfter = 30 * time.Second
	stalledRetry = 2 * time.Second // what that one is told
)

// taking is a cell that is being taken up. All who ask for it meanwhile wait for the same.
type taking struct {
	by     Asker // who came first
	now    func() time.Time
	cancel context.CancelFunc
	done   chan struct{}
	info   peer.AddrInfo // set before done is closed, as is err
	err    error

	mu      sync.Mutex
	waiting int // who wait for it; when nobody does, it is given up
	step    string
	news    chan struct{}   // closed, and replaced, when step is another one
	seen    []string        // steps that there were
	moved   time.Time       // when there was a new one
	again   func()          // ends an attempt, so that the next one is made
	known   []peer.ID       // providers that were named
	others  []peer.AddrInfo // of them, with whom no attempt was made
}

// room says whether another take may begin. Who waits for one that goes on needs none.
func (s *Server) room(from Asker, cell cid.Cid) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomLocked(from, cell)
}

// roomLocked is room with s.mu held. One that brings nothing new gives way to another's.
func (s *Server) roomLocked(from Asker, cell cid.Cid) error {
	if s.takes[cell] != nil {
		return nil
	}
	own, retry, now := 0, takesRetry, s.now()
	for _, t := range s.takes {
		if t.by.Peer == from.Peer || t.by.Group == from.Group {
			own++
		}
	}
	if len(s.takes) < maxTakes && own < maxOwnTakes {
		return nil
	}
	if own < maxOwnTakes {
		for _, t := range s.takes {
			if t.stalled(now) {
				t.cancel()
				retry = stalledRetry
				break
			}
		}
	}
	err := cellproto.Errorf("take a cell up", cellproto.Overloaded, "%d others are being taken up, %d of them for this peer or network", len(s.takes), own)
	err.RetryAfter = retry
	return err
}

// join gives the taking of a cell, which is begun if nobody has. leave is due.
func (s *Server) join(from Asker, o Offer, m *signed.Manifest) (t *taking, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ctx.Err(); err != nil {
		return nil, cellproto.Errorf("take a cell up", cellproto.Unavailable, "the donor is stopping")
	}
	if t = s.takes[o.Cell]; t != nil && t.enter(o.Providers) {
		return t, nil
	}
	if err := s.roomLocked(from, o.Cell); err != nil || t != nil {
		if err == nil { // it is just being given up
			late := cellproto.Errorf("take a cell up", cellproto.Overloaded, "it was given up a moment ago")
			late.RetryAfter = time.Second
			err = late
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, TakeTimeout)
	t = &taking{
		by: from, now: s.now, moved: s.now(), cancel: cancel, again: func() {}, done: make(chan struct{}), news: make(chan struct{}),
		waiting: 1,
	}
	t.learn(o.Providers)
	t.others = nil
	s.takes[o.Cell] = t
	s.work.Go(func() {
		defer cancel()
		for {
			attempt, end := t.attempt(ctx)
			t.info, t.err = s.donor.Take(attempt, from, o, m, t.say)
			end()
			if t.err == nil || ctx.Err() != nil || !t.next(&o) {
				break
			}
		}
		s.mu.Lock()
		delete(s.takes, o.Cell)
		s.mu.Unlock()
		close(t.done)
	})
	return t, nil
}

// next puts the providers that others have named since before those of o, and reports whether there are any.
func (t *taking) next(o *Offer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	more := slices.Concat(t.others, o.Providers)
	fresh := len(t.others) > 0
	o.Providers, t.others = more[:min(len(more), MaxProviders)], nil
	return fresh
}

// attempt gives the context of one attempt.
func (t *taking) attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	t.again = cancel
	return ctx, cancel
}

// What is remembered of one taking.
const (
	maxKnown = 4 * MaxProviders
	maxSeen  = 64
)

// enter is one more who waits, and may know more providers, unless it is being given up.
func (t *taking) enter(providers []peer.AddrInfo) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == 0 {
		return false
	}
	t.waiting++
	t.learn(providers)
	return true
}

// learn notes providers. t.mu is held, or nobody else has t yet.
func (t *taking) learn(providers []peer.AddrInfo) {
	for _, p := range providers {
		if !slices.Contains(t.known, p.ID) && len(t.known) < maxKnown {
			t.known, t.others = append(t.known, p.ID), append(t.others, p)
		}
	}
}

func (t *taking) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting--; t.waiting == 0 {
		t.cancel()
	}
}

func (t *taking) say(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step = plain(text)
	if len(t.seen) < maxSeen && !slices.Contains(t.seen, t.step) { // another attempt begins anew, and is no news
		t.seen, t.moved = append(t.seen, t.step), t.now()
	}
	close(t.news)
	t.news = make(chan struct{})
}

func (t *taking) latest() (step string, news <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.step, t.news
}

// stalled says that it has brought nothing new for long.
func (t *taking) stalled(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.Sub(t.moved) >= stalledAfter
}

// hurry has another attempt be made, with the providers that others have named since, if this one brings nothing new.
func (t *taking) hurry(now time.Time) {
	if !t.stalled(now) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.others) > 0 {
		t.again()
	}
}
