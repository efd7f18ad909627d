package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// link is one connection of frames to somebody who serves a cell, with what is known of it.
type link struct {
	key     linkKey
	conn    *cellproto.Conn
	relayed bool // through a libp2p relay
	made    time.Time
	since   time.Time // when the connection below it was made, which may carry others; zero behind a Unix socket
	remote  peer.ID   // "" behind a Unix socket
	meter   *Meter    // what is asked of remote; nil behind a Unix socket, as is use
	use     *gauge
	hello   atomic.Pointer[cellproto.Hello] // nil: not here yet, or not looked at
	doubts  chan struct{}                   // holds one: somebody doubts that the other end is there

	timing  sync.Mutex
	round   rtts     // timing guards it
	looking *looking // likewise; nil: nobody does

	mu      sync.Mutex // held while we prove who we are, so that it is done once
	until   time.Time  // when to prove it anew; zero: it was not yet
	token   []byte     // to be sent until a request was accepted; nil: none
	refused bool       // the saved token was
	proven  bool       // the hello's nonce was used
}

// linkKey names a link: the same peer can serve several versions.
type linkKey struct {
	to   string // peer ID, or path of a Unix socket
	cell string // CID that is wanted, or ""
	made string // hash of the schema that the caller was made for, as bytes; "": it does not know
}

// dialing is a link that is being made or is there.
type dialing struct {
	ready chan struct{}
	link  *link
	err   error
}

// links keeps one link a peer and cell, for as long as it is used. It owns the goroutines that read
// them.
type links struct {
	host  host.Host
	agent string
	self  string                                // peer ID of this nucleus
	heard func(made, live cellproto.SchemaHash) // see CallerDeps.Heard; or nil
	log   *zap.Logger
	meter *Meter

	ctx    context.Context // ends with the caller half
	cancel context.CancelFunc
	work   group
	mu     sync.Mutex
	made   map[linkKey]*dialing // live ones, and those that are being made

	places *Places

	renewed map[peer.ID]int // how often the links to a peer were made anew; see relayed.go
}

func newLinks(h host.Host, agent string, log *zap.Logger) *links {
	l := &links{host: h, agent: agent, log: log, meter: newMeter(), made: map[linkKey]*dialing{}, renewed: map[peer.ID]int{}, places: NewPlaces()}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// close ends all links and waits.
func (l *links) close() {
	l.work.close()
	l.cancel()
	l.work.wait()
}

// peer gives the link to a peer that serves cell ("": whichever it has), and makes it if needed.
func (l *links) peer(ctx context.Context, info peer.AddrInfo, cell, made string) (*link, error) {
	key := linkKey{info.ID.String(), cell, made}
	return l.get(ctx, key, func(ctx context.Context) (*link, error) {
		return l.dialPeer(network.WithAllowLimitedConn(ctx, "cell call"), ctx, info, key)
	})
}

// socket gives the link to the nucleus behind a Unix socket.
func (l *links) socket(ctx context.Context, path, made string, dial func(context.Context) (net.Conn, error)) (*link, error) {
	key := linkKey{to: path, made: made}
	return l.get(ctx, key, func(ctx context.Context) (*link, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return l.start(conn, key, "", 0)
	})
}

// live gives the link to a peer that serves cell if there is one, without waiting for anything.
func (l *links) live(to cellproto.PeerID, cell, made string) *link {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.made[linkKey{string(to), cell, made}]
	if d == nil || !d.done() || l.spent(d) {
		return nil
	}
	return d.link
}

// get returns the live link for key, or makes it. Whoever comes first dials; the others wait for
// it, each as long as its own context allows.
func (l *links) get(ctx context.Context, key linkKey, dial func(context.Context) (*link, error)) (*link, error) {
	for {
		l.mu.Lock()
		d, ok := l.made[key]
		if ok && l.spent(d) {
			delete(l.made, key)
			if !d.dead() && !l.direct(d.link.remote) { // it is relayed, and due
				l.mu.Unlock()
				l.renew(d.link.remote)
				continue
			}
			ok = false
		}
		if !ok {
			d = &dialing{ready: make(chan struct{})}
			l.made[key] = d
			l.mu.Unlock()
			d.link, d.err = dial(ctx)
			close(d.ready)
			if d.dead() {
				l.drop(key, d)
			}
			return d.link, d.err
		}
		l.mu.Unlock()
		select {
		case <-d.ready:
		case <-ctx.Done():
			return nil, cellproto.Errorf("connect", cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
		}
		if d.err == nil || ctx.Err() == nil && !gaveUp(d.err) {
			return d.link, d.err
		}
		// Whoever dialed gave up before we have to: dial ourselves.
	}
}

func gaveUp(err error) bool {
	kind := cellproto.KindOf(err)
	return kind == cellproto.Canceled || kind == cellproto.Timeout
}

// drop forgets a link that is of no use any more.
func (l *links) drop(key linkKey, d *dialing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made[key] == d {
		delete(l.made, key)
	}
}

// ended forgets a link whose connection has ended. One that is not noted yet is dropped by who dialed.
func (l *links) ended(lk *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.made[lk.key]; d != nil && d.done() && d.link == lk {
		delete(l.made, lk.key)
	}
}

// done reports that link or err is set.
func (d *dialing) done() bool {
	select {
	case <-d.ready:
		return true
	default:
		return false
	}
}

// dead reports that the link cannot take another call.
func (d *dialing) dead() bool {
	if !d.done() {
		return false
	}
	if d.err != nil || d.link.conn.Leaving() {
		return true
	}
	select {
	case <-d.link.conn.Done():
		return true
	default:
		return false
	}
}

// dialPeer opens a stream of frames to a peer. dial bounds how long that takes, and says whether a
// relayed connection will do; ctx is the caller's own.
func (l *links) dialPeer(dial, ctx context.Context, info peer.AddrInfo, key linkKey) (*link, error) {
	op := "connect to " + info.ID.String()
	if l.host == nil {
		return nil, cellproto.Errorf(op, cellproto.Unavailable, "this nucleus has no network")
	}
	if err := l.host.Connect(dial, info); err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", dialError(err))
	}
	s, err := l.host.NewStream(dial, info.ID, cellproto.ProtocolCall)
	if err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	if err := reserve(s); err != nil {
		s.Reset()
		return nil, err
	}
	lk, err := l.start(counted{stream{s}, l.meter.gauge(info.ID.String())}, key, info.ID, cellproto.IdleTimeout)
	if err != nil {
		return nil, err
	}
	lk.since = s.Conn().Stat().Opened
	if lk.relayed = s.Conn().Stat().Limited; !lk.relayed && s.Conn().Stat().Direction == network.DirOutbound {
		l.places.Reached(info.ID, s.Conn().RemoteMultiaddr())
	}
	return lk, nil
}

// dialError says why no address could be reached, in one line: libp2p's own error takes several.
func dialError(err error) error {
	var all *swarm.DialError
	if !errors.As(err, &all) || len(all.DialErrors) == 0 {
		return err
	}
	const shown = 3
	var why []string
	for _, e := range all.DialErrors[:min(len(all.DialErrors), shown)] {
		cause := e.Cause
		for next := errors.Unwrap(cause); next != nil; next = errors.Unwrap(cause) {
			cause = next
		}
		why = append(why, fmt.Sprintf("%s: %v", e.Address, cause))
	}
	if more := max(len(all.DialErrors)-shown, 0) + all.Skipped; more > 0 {
		why = append(why, fmt.Sprintf("and %d addresses more", more))
	}
	return errors.New(strings.Join(why, "; "))
}

// unavailable is the kind of a failed attempt to connect: nothing has run, unless the caller's own
// time ended.
func unavailable(ctx context.Context) cellproto.Kind {
	if err := ctx.Err(); err != nil {
		return cellproto.KindOf(err)
	}
	return cellproto.Unavailable
}

// start runs the frames over a transport, which it closes, until it ends or the links are closed.
func (l *links) start(t cellproto.Transport, key linkKey, remote peer.ID, idle time.Duration) (*link, error) {
	heard := l.hears(key)
	conn, err := cellproto.NewConn(t, cellproto.Config{
		Opener: true, IdleTimeout: idle, Event: func(_ *cellproto.Conn, f *cellproto.Frame) {
			if f.Header.Func == cellproto.EventSchema {
				heard(f.Payload)
			}
		},
		Hello: cellproto.Hello{Agent: l.agent, Cell: key.cell, MadeFor: []byte(key.made), Peer: l.self, Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}},
	})
	if err != nil {
		t.Close()
		return nil, err
	}
	lk := &link{key: key, conn: conn, remote: remote, made: time.Now(), doubts: make(chan struct{}, 1)}
	if remote != "" {
		lk.meter, lk.use = l.meter, l.meter.gauge(remote.String())
	}
	run := func() {
		stop := context.AfterFunc(l.ctx, conn.Close)
		defer stop()
		if err := conn.Run(); err != nil {
			l.log.Debug("link ended", zap.String("to", key.to), zap.Error(err))
		}
		l.ended(lk)
	}
	if !l.work.Go(run) {
		conn.Close()
		return nil, errStopping("connect to " + key.to)
	}
	l.work.Go(func() { l.watch(lk) })
	if key.made != "" {
		l.work.Go(func() {
			if hello, err := conn.PeerHello(l.ctx); err == nil {
				heard(hello.Schema)
			}
		})
	}
	return lk, nil
}

// hears gives what takes note of the hash of a schema that the other end of a link says that it has.
func (l *links) hears(key linkKey) func(hash []byte) {
	return func(hash []byte) {
		if l.heard != nil && len(key.made) == len(cellproto.SchemaHash{}) && len(hash) == len(cellproto.SchemaHash{}) {
			l.heard(cellproto.SchemaHash([]byte(key.made)), cellproto.SchemaHash(hash))
		}
	}
}

func errStopping(op string) error {
	return cellproto.Errorf(op, cellproto.Canceled, "the nucleus is stopping")
}

// A peer that vanishes without a word (its power fails, a cable is pulled) is noticed while calls
// wait for it: no other end of a link is too busy for a ping for so long.
const (
	watchEvery    = 2 * time.Second
	watchPatience = 5 * time.Second
)

// ping measures one round trip.
func (lk *link) ping(ctx context.Context) (time.Duration, error) {
	rtt, err := lk.conn.Ping(ctx)
	if err == nil {
		lk.timing.Lock()
		lk.round = lk.round.with(rtt)
		lk.timing.Unlock()
	}
	return rtt, err
}

// answered notes how long a call without a body took.
func (lk *link) answered(took time.Duration) {
	lk.timing.Lock()
	lk.round = lk.round.called(took)
	lk.timing.Unlock()
}

// pings is what is known of how long they take.
func (lk *link) pings() rtts {
	lk.timing.Lock()
	defer lk.timing.Unlock()
	return lk.round
}

// doubt has it looked at once whether the other end is there.
func (lk *link) doubt() {
	select {
	case lk.doubts <- struct{}{}:
	default:
	}
}

// watch ends a link whose other end has vanished, so that its calls can be made elsewhere, and the connection
// below it, so that the peer can be dialed where it is now.
func (l *links) watch(lk *link) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		doubted := false
		select {
		case <-tick.C:
		case <-lk.doubts:
			doubted = true
		case <-lk.conn.Done():
			return
		}
		if _, waiting := lk.conn.InFlight(); waiting == 0 && !doubted {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, watchPatience)
		_, err := lk.ping(ctx)
		cancel()
		if cellproto.KindOf(err) == cellproto.Timeout {
			l.log.Info("a peer has vanished", zap.String("peer", lk.key.to))
			lk.conn.Close()
			if lk.remote != "" {
				_ = l.host.Network().ClosePeer(lk.remote) // what is gone need not be closed
			}
			return
		}
	}
}

// tokenStore keeps the token of one cell between runs; see cache.go.
type tokenStore interface {
	token(server string) (token []byte, until time.Time)
	setToken(server string, token []byte, until time.Time)
	dropToken(server string, token []byte) // if it is the one that is kept
}
