package dht

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const (
	// enoughPeers in the routing tables make further connections to well-known bootstrap peers and
	// to peers of the LAN needless. kubo keeps as many.
	enoughPeers    = 4
	connectTimeout = 15 * time.Second
	// checkInterval is how often the state of a network that is well is looked at.
	checkInterval = 30 * time.Second
	maxRetryWait  = 2 * time.Minute
	// newsDelay lets the answers to one multicast question come in before they are acted on.
	newsDelay = 100 * time.Millisecond

	// tableTick is how often the routing tables are looked at, for they do not tell when they get a peer; soonTick
	// while they are empty and a peer has been identified no longer than soon ago: it may be the first one, once it
	// has answered a query.
	tableTick = time.Second
	soonTick  = 100 * time.Millisecond
	soon      = 15 * time.Second
	// settle is the least time between two rounds of announcing because of other addresses: the host
	// finds them one by one.
	settle = 5 * time.Second
	// regrowth is the least time between two rounds of announcing because of a table that grew.
	regrowth = time.Minute
)

// bootstrapper connects to bootstrap peers, for as long as the network is joined. Those that the
// owner named are kept connected, so that a network whose first peer restarts does not fall apart;
// the well-known ones of the public network are left alone while the tables have enough peers.
type bootstrapper struct {
	d     *DHT
	peers []peer.AddrInfo
	keep  bool // named by the owner

	mu  sync.Mutex
	err error // why the last attempt failed; nil when none did
}

func newBootstrapper(d *DHT) (*bootstrapper, error) {
	b := &bootstrapper{d: d, keep: true}
	infos, err := addrInfos(d.cfg.Bootstrap)
	if err != nil {
		return nil, err
	}
	if len(infos) == 0 && d.cfg.Network == Public {
		b.keep = false
		addrs := make([]string, len(kad.DefaultBootstrapPeers))
		for i, a := range kad.DefaultBootstrapPeers {
			addrs[i] = a.String()
		}
		if infos, err = addrInfos(addrs); err != nil {
			return nil, err
		}
	}
	for _, info := range infos {
		if info.ID != d.host.ID() { // one list may serve all peers of a network
			b.peers = append(b.peers, info)
		}
	}
	return b, nil
}

// note remembers what went wrong, or with nil that nothing is wrong now.
func (b *bootstrapper) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// state gives how many bootstrap peers are connected, of how many, and what last went wrong.
func (b *bootstrapper) state() (connected, total int, err error) {
	for _, p := range b.peers {
		if b.connected(p.ID) {
			connected++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return connected, len(b.peers), b.err
}

func (b *bootstrapper) connected(p peer.ID) bool {
	return b.d.host.Network().Connectedness(p) == network.Connected
}

// missing gives the peers that should be connected and are not.
func (b *bootstrapper) missing() []peer.AddrInfo {
	few := true
	if t := b.d.tables.Load(); t != nil {
		few = t.size() < enoughPeers
	}
	var want []peer.AddrInfo
	if b.keep || few {
		want = append(want, b.peers...)
	}
	if few {
		want = append(want, b.d.lan.list(b.d.now())...)
	}
	missing := want[:0]
	for _, p := range want {
		if !b.connected(p.ID) {
			missing = append(missing, p)
		}
	}
	return missing
}

// run connects until the DHT stops.
func (b *bootstrapper) run() {
	ctx := b.d.ctx
	lost := make(chan struct{}, 1)
	notify := &network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) {
		if b.ours(c.RemotePeer()) {
			select {
			case lost <- struct{}{}:
			default:
			}
		}
	}}
	b.d.host.Network().Notify(notify)
	defer b.d.host.Network().StopNotify(notify)
	retry := newBackOff(time.Second, maxRetryWait)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-lost:
			timer.Reset(retry.NextBackOff())
			continue
		case <-b.d.lan.news:
			timer.Reset(newsDelay)
			continue
		case <-timer.C:
		}
		if b.round(ctx) {
			retry.Reset()
			timer.Reset(checkInterval)
		} else {
			timer.Reset(retry.NextBackOff())
		}
	}
}

// ours reports whether p is a bootstrap peer.
func (b *bootstrapper) ours(p peer.ID) bool {
	for _, info := range b.peers {
		if info.ID == p {
			return true
		}
	}
	return false
}

// round connects to all peers that are missing, at once, and reports whether none is missing now.
func (b *bootstrapper) round(ctx context.Context) bool {
	missing := b.missing()
	errs := make([]error, len(missing))
	var wg sync.WaitGroup
	for i, p := range missing {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			errs[i] = b.d.host.Connect(ctx, p)
		})
	}
	wg.Wait()
	var failed error
	count := 0
	for i, err := range errs {
		if err != nil {
			count++
			failed = cellproto.Errorf("connect to "+missing[i].ID.String(), cellproto.Unavailable, "%w", err).
				WithHint("Check that the peer runs, that the address is right, and that no firewall is between.")
		}
	}
	if ctx.Err() != nil {
		return true
	}
	b.note(failed)
	if failed != nil {
		b.d.log.Debug("peers to join the network by do not answer", zap.Int("failed", count), zap.Error(failed))
	}
	return failed == nil
}

// watch looks after the routing tables, and has everything announced again when they get their
// first peers, when they have grown much, and when this host has other addresses than the records of
// it say: one that takes a relay has been announcing nothing that others could use until then.
func (d *DHT) watch() {
	tick := time.NewTicker(tableTick)
	defer tick.Stop()
	moves, changed := d.hostEvents()
	defer moves()
	var was int
	var last, moved time.Time
	met := d.now()                        // when a peer was identified last
	addrs, late := d.usableAddrs(), false // late: the addresses may have changed since they were looked at
	for {
		select {
		case <-d.ctx.Done():
			return
		case e := <-changed:
			if _, identified := e.(event.EvtPeerIdentificationCompleted); identified {
				met = d.now()
			} else {
				late = true
			}
		case <-tick.C:
		}
		n, now := d.tables.Load().size(), d.now()
		if late && now.Sub(moved) >= settle {
			late = false
			if current := d.usableAddrs(); current != addrs {
				if addrs, moved = current, now; current != "" && n > 0 {
					d.announcer.again()
				}
			}
		}
		d.keepDonating()
		if again(was, n, now.Sub(last)) {
			last, was = now, n
			d.announcer.again()
			d.names.again()
		} else if n == 0 {
			was = 0
		}
		if n == 0 && now.Sub(met) < soon {
			tick.Reset(soonTick)
		} else {
			tick.Reset(tableTick)
		}
	}
}

// hostEvents tells when the host's addresses change, and when a peer was identified, until stop is called.
func (d *DHT) hostEvents() (stop func(), changed <-chan any) {
	sub, err := d.host.EventBus().Subscribe(
		[]any{new(event.EvtLocalAddressesUpdated), new(event.EvtPeerIdentificationCompleted)}, eventbus.Name("dht watch"))
	if err != nil {
		d.log.Warn("first peers, and changes of this host's addresses, are noticed late", zap.Error(err))
		return func() {}, nil
	}
	return func() { sub.Close() }, sub.Out()
}

// usableAddrs gives the addresses that a provider record of this host has, as text.
func (d *DHT) usableAddrs() string {
	var all []string
	for _, table := range d.tables.Load().each() {
		for _, a := range table.FilteredAddrs() {
			all = append(all, a.String())
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// again reports whether what was announced to tables of size was, since ago, is to be announced
// again at size n: at once when they were empty, and when they have doubled since. Records went to
// peers that are no longer the closest by then.
func again(was, n int, since time.Duration) bool {
	if n == 0 {
		return false
	}
	return was == 0 || n >= 2*was && since >= regrowth
}

// newBackOff makes the waits between attempts: doubling from first to longest, each half to one and
// a half times as long by chance.
func newBackOff(first, longest time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, longest, 2
	b.Reset()
	return b
}
