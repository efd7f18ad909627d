package call

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A nucleus that hands its callers over to another celld: those on Unix sockets are held, and their
// connections carried; peers on the network are told to leave, and come back.

// Handed is the connection of a caller on the Unix socket as one nucleus leaves it to the next. Who it
// is the system says anew.
type Handed struct {
	Conn   []byte  `cbor:"1,keyasint"`           // cellproto.Suspended
	Cell   string  `cbor:"2,keyasint"`           // what hello called the cell
	Wanted *string `cbor:"3,keyasint,omitempty"` // what the caller wants; nil: it has not called yet
	Nonce  []byte  `cbor:"4,keyasint,omitempty"` // the challenge that it has not used
	Until  int64   `cbor:"5,keyasint,omitempty"` // it is authorised until then, unix ms
}

// HandedServer is what a server counts.
type HandedServer struct {
	Served  int64  `cbor:"1,keyasint"`
	Last    int64  `cbor:"2,keyasint"` // end of the last call, unix ns
	Latency []byte `cbor:"3,keyasint"` // race.Latency as JSON
}

// maxHandedLatency bounds that, in bytes.
const maxHandedLatency = 64 << 10

// Counts gives what is counted, for the next nucleus.
func (s *Server) Counts() (HandedServer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	latency, err := s.latency.MarshalJSON()
	return HandedServer{Served: s.served.Load(), Last: s.last.Load(), Latency: latency}, err
}

// Count takes up what another nucleus has counted. What cannot be read counts as nothing.
func (s *Server) Count(h HandedServer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served.Store(max(h.Served, 0))
	s.last.Store(min(h.Last, time.Now().UnixNano()))
	var latency race.Latency
	if len(h.Latency) <= maxHandedLatency && latency.UnmarshalJSON(h.Latency) == nil {
		s.latency = latency
	}
}

// Leave tells all peers on the network to come back later, refuses them meanwhile, and ends their
// connections once their calls have ended. It gives how many calls have not when ctx ends: those go on,
// until Close or another Leave. Welcome lets peers in again.
func (s *Server) Leave(ctx context.Context) (left int) {
	s.mu.Lock()
	s.away = true
	var peers []*cellproto.Conn
	for c, sess := range s.conns {
		if sess.who.Peer != "" {
			peers = append(peers, c)
		}
	}
	s.mu.Unlock()
	var leaving sync.WaitGroup
	var busy sync.Map
	for _, c := range peers {
		leaving.Go(func() {
			if n := farewell(ctx, c, replacedText); n > 0 {
				busy.Store(c, n)
			}
		})
	}
	leaving.Wait()
	for _, n := range busy.Range {
		left += n.(int)
	}
	return left
}

// farewell sends a peer away, saying why, and gives how many of its calls have not ended when ctx has.
func farewell(ctx context.Context, c *cellproto.Conn, why string) (busy int) {
	_ = c.Goaway(why)  // a lost connection has left
	_, _ = c.Ping(ctx) // what it began before it knew is here then
	if busy = quiet(ctx, c); busy == 0 {
		_ = c.Drain(ctx, why) // nothing is cut
	}
	return busy
}

// quiet waits until no call is in flight on a connection, and gives how many are when ctx ends.
func quiet(ctx context.Context, c *cellproto.Conn) (busy int) {
	tick := time.NewTicker(handoverTick)
	defer tick.Stop()
	for {
		in, out := c.InFlight()
		if in+out == 0 {
			return 0
		}
		select {
		case <-tick.C:
		case <-c.Done():
			return 0
		case <-ctx.Done():
			return in + out
		}
	}
}

// replacedText is what peers are told whose nucleus is handed over.
const replacedText = "celld is replaced: come back at once"

// handoverTick is how often it is looked whether calls in flight have ended.
const handoverTick = time.Millisecond

// Welcome lets peers in again.
func (s *Server) Welcome() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = false
}

// Hold keeps back what callers on Unix sockets ask from now on, and what is asked on connections that
// are yet to begin, until Release. What is in flight goes on: see Busy.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
	for c, sess := range s.conns {
		if sess.who.Peer == "" {
			_ = c.Hold() // every transport of theirs can be held
		}
	}
}

// Release undoes Hold: what was held back is taken up, in order.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = false
	for c, sess := range s.conns {
		if sess.who.Peer == "" {
			c.Unhold()
		}
	}
}

// helloPatience is how long a caller that has just come is expected to say hello.
const helloPatience = time.Second

// greeted reports that the peer's hello is here.
func greeted(c *cellproto.Conn) bool {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.PeerHello(now)
	return err == nil
}

// Busy gives how many calls of callers on Unix sockets are in flight. One who is about to say hello
// counts as well.
func (s *Server) Busy() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c, sess := range s.conns {
		if sess.who.Peer == "" {
			in, out := c.InFlight()
			n += in + out
			if !greeted(c) && time.Since(sess.begun) < helloPatience {
				n++
			}
		}
	}
	return n
}

// Cut ends the connections that have calls in flight, which may have run.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if in, out := c.InFlight(); in+out > 0 {
			c.Close()
		}
	}
}

// Carried is a connection that was taken out of a server.
type Carried struct {
	Handed
	Transport cellproto.Transport
	Who       Who
}

// Suspend takes the connections on Unix sockets out of the server; Hold comes first. One whose caller
// has not said hello for helloPatience is ended. If one has a call in
// flight or takes no bytes, all are resumed here, and the error says so; with cut it is ended instead.
func (s *Server) Suspend(ctx context.Context, cut bool) ([]Carried, error) {
	s.mu.Lock()
	conns := make(map[*cellproto.Conn]*session, len(s.conns))
	for c, sess := range s.conns {
		if sess.who.Peer == "" {
			conns[c] = sess
		}
	}
	s.mu.Unlock()
	var all []Carried
	for c, sess := range conns {
		if !greeted(c) {
			c.Close()
			continue
		}
		suspended, err := c.Suspend(ctx)
		var b []byte
		if err == nil {
			<-sess.over
			b, err = suspended.Marshal()
		}
		if err != nil && isClosed(c.Done()) && suspended == nil {
			continue // it has left
		}
		switch {
		case err != nil && cut:
			c.Close()
			continue
		case err != nil:
			s.Return(all)
			return nil, err
		}
		all = append(all, Carried{Handed: sess.hand(b), Transport: sess.transport, Who: sess.who})
	}
	return all, nil
}

// Return puts connections back that Suspend has taken out. They are held as before.
func (s *Server) Return(all []Carried) {
	for _, c := range all {
		if !s.work.Go(func() { _ = s.Resume(context.Background(), c.Transport, c.Who, c.Handed) }) { // Resume logs nothing either
			_ = c.Transport.Close() // the nucleus is stopping
		}
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// hand gives what is to be known of a session whose connection was suspended.
func (s *session) hand(conn []byte) Handed {
	h := Handed{Conn: conn, Cell: s.cell, Nonce: s.nonce}
	if s.checked {
		h.Wanted = s.wanted.Load()
	}
	if !s.until.IsZero() {
		h.Until = s.until.UnixMilli()
	}
	return h
}

// Resume is Serve for a connection that was suspended, perhaps by another nucleus.
func (s *Server) Resume(ctx context.Context, t cellproto.Transport, who Who, h Handed) error {
	suspended, err := cellproto.ParseSuspended(h.Conn)
	if err == nil && (len(h.Nonce) != 0 && len(h.Nonce) != cellproto.NonceSize || who.Peer != "") {
		err = cellproto.Errorf("resume", cellproto.Corrupt, "its challenge has %d bytes", len(h.Nonce))
	}
	if err != nil {
		return errors.Join(err, t.Close())
	}
	sess := s.session(t, who, h.Cell, h.Nonce)
	if h.Wanted != nil {
		hello, err := cellproto.ParseHello(suspended.Peer)
		if err != nil { // it was read before
			return errors.Join(err, t.Close())
		}
		sess.wanted.Store(h.Wanted)
		sess.hello, sess.checked = userHello{hello.MadeFor, hello.Peer}, true
	}
	if h.Until != 0 {
		sess.until = time.UnixMilli(h.Until)
	}
	run, err := s.admit(ctx, sess, func(cfg cellproto.Config) (*cellproto.Conn, error) {
		return cellproto.ResumeConn(t, cfg, suspended)
	})
	if err != nil {
		return err
	}
	return run()
}
