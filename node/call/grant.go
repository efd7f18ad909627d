package call

import (
	"context"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// MayHold says whether a caller on the Unix socket may have its connection handed to the program, by
// the hello that it begins with: it has asked for that, wants what is served here, and is the owner or
// needs no proof or has given a token, and may see the schema. subject is what the program is told of it, "" for the owner;
// until is when its token expires, zero for never. Whoever may not is served by Serve, which says why.
func (s *Server) MayHold(who Who, h *cellproto.Hello) (subject string, until time.Time, ok bool) {
	if !slices.Contains(h.Capabilities, cellproto.CapHandoff) || !s.serving.Load().serves(h.Cell) {
		return "", time.Time{}, false
	}
	if who.Owner {
		return "", time.Time{}, true
	}
	if !s.cfg.ShowSchema { // the program tells its own to whoever asks
		return "", time.Time{}, false
	}
	subject = who.subject()
	if !s.tokens.needed() {
		return subject, time.Time{}, true
	}
	tok, err := signed.OpenToken(h.Token, s.tokens.id.Peer, s.cellName(), subject, time.Now())
	if err != nil || !s.tokens.admits(tok.Key, who) {
		return "", time.Time{}, false
	}
	return subject, tok.Expires, true
}

// Invite has those callers on the Unix socket come back who are relayed, and may have their connections
// handed to the program. It does not wait.
func (s *Server) Invite() {
	now, cancel := context.WithCancel(context.Background())
	cancel() // a hello that is not here yet is not waited for
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, sess := range s.conns {
		if sess.who.Peer != "" {
			continue
		}
		hello, err := c.PeerHello(now)
		if err != nil {
			continue
		}
		if _, _, ok := s.MayHold(sess.who, &hello); ok {
			s.work.Go(func() { _ = c.Goaway("the program takes connections again") }) // a lost connection has left
		}
	}
}

// Served counts calls that did not pass through here, of which some took so long.
func (s *Server) Served(calls uint64, times []time.Duration) {
	if calls == 0 && len(times) == 0 {
		return
	}
	s.served.Add(int64(calls))
	s.last.Store(time.Now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range times {
		s.latency.Record(t)
	}
}
