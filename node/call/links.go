package call

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// link is one connection of frames to somebody who serves a cell, with what is known of it.
type link struct {
	conn    *cellproto.Conn
	relayed bool    // through a libp2p relay
	remote  peer.ID // "" behind a Unix socket

	mu      sync.Mutex // held while we prove who we are, so that it is done once
	until   time.Time  // authorised until; zero: not yet
	token   []byte     // to be sent until a request was accepted; nil: none
	refused bool       // the saved token was
	proven  bool       // the hello's nonce was used
}

// linkKey names a link: the same peer can serve several versions.
type linkKey struct {
	to   string // peer ID, or path of a Unix socket
	cell string // CID that is wanted, or ""
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
	host     host.Host
	agent    string
	outgoing func(c *cellproto.Conn, f *cellproto.Frame) // calls of the other side; nil refuses
	log      *zap.Logger

	ctx    context.Context // ends with the caller half
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	made   map[linkKey]*dialing
}

func newLinks(h host.Host, agent string, log *zap.Logger) *links {
	l := &links{host: h, agent: agent, log: log, made: map[linkKey]*dialing{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// close ends all links and waits.
func (l *links) close() {
	l.cancel()
	l.wg.Wait()
}

// peer gives the link to a peer that serves cell ("": whichever it has), and makes it if needed.
func (l *links) peer(ctx context.Context, info peer.AddrInfo, cell string) (*link, error) {
	return l.get(ctx, linkKey{info.ID.String(), cell}, func(ctx context.Context) (*link, error) {
		return l.dialPeer(ctx, info, cell)
	})
}

// bulk makes a link of its own, for a large body; the caller closes its connection.
func (l *links) bulk(ctx context.Context, info peer.AddrInfo, cell string) (*link, error) {
	return l.dialPeer(ctx, info, cell)
}

// socket gives the link to the nucleus behind a Unix socket.
func (l *links) socket(ctx context.Context, path string, dial func(context.Context) (net.Conn, error)) (*link, error) {
	return l.get(ctx, linkKey{to: path}, func(ctx context.Context) (*link, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return l.start(conn, "", 0)
	})
}

// get returns the live link for key, or makes it. Whoever comes first dials; the others wait for
// it, each as long as its own context allows.
func (l *links) get(ctx context.Context, key linkKey, dial func(context.Context) (*link, error)) (*link, error) {
	for {
		l.mu.Lock()
		d, ok := l.made[key]
		if ok && d.dead() {
			delete(l.made, key)
			ok = false
		}
		if !ok {
			d = &dialing{ready: make(chan struct{})}
			l.made[key] = d
			l.mu.Unlock()
			d.link, d.err = dial(ctx)
			if d.err != nil {
				l.mu.Lock()
				if l.made[key] == d {
					delete(l.made, key)
				}
				l.mu.Unlock()
			}
			close(d.ready)
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

// dead reports that the link cannot take another call.
func (d *dialing) dead() bool {
	select {
	case <-d.ready:
	default:
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

// dialPeer opens a stream of frames to a peer.
func (l *links) dialPeer(ctx context.Context, info peer.AddrInfo, cell string) (*link, error) {
	op := "connect to " + info.ID.String()
	if l.host == nil {
		return nil, cellproto.Errorf(op, cellproto.Unavailable, "this nucleus has no network")
	}
	if err := l.host.Connect(ctx, info); err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	s, err := l.host.NewStream(network.WithAllowLimitedConn(ctx, "cell call"), info.ID, cellproto.ProtocolCall)
	if err != nil {
		return nil, cellproto.Errorf(op, unavailable(ctx), "%w", err)
	}
	lk, err := l.start(s, cell, cellproto.IdleTimeout)
	if err != nil {
		s.Reset()
		return nil, err
	}
	lk.relayed, lk.remote = s.Conn().Stat().Limited, info.ID
	return lk, nil
}

// unavailable is the kind of a failed attempt to connect: nothing has run, unless the caller's own
// time ended.
func unavailable(ctx context.Context) cellproto.Kind {
	if err := ctx.Err(); err != nil {
		return cellproto.KindOf(err)
	}
	return cellproto.Unavailable
}

// start runs the frames over a transport until it ends or the links are closed.
func (l *links) start(t cellproto.Transport, cell string, idle time.Duration) (*link, error) {
	conn, err := cellproto.NewConn(t, cellproto.Config{
		Opener: true, IdleTimeout: idle, Accept: l.outgoing,
		Hello: cellproto.Hello{Agent: l.agent, Cell: cell, Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}},
	})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(l.ctx, conn.Close)
	l.wg.Go(func() {
		defer stop()
		if err := conn.Run(); err != nil {
			l.log.Debug("link ended", zap.Error(err))
		}
	})
	return &link{conn: conn}, nil
}

// tokenStore keeps the token of one cell between runs; see cache.go.
type tokenStore interface {
	token(server string) (token []byte, until time.Time)
	setToken(server string, token []byte, until time.Time) // nil forgets it
}
