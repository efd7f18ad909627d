package dht

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/namespace"
	dssync "github.com/ipfs/go-datastore/sync"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	"github.com/libp2p/go-libp2p-kad-dht/dual"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// privatePrefix and a private network's name begin its DHT's protocol ID.
const privatePrefix = "/cell/"

// DHT is one network's finding. Its methods may be called from any goroutine; before Start and
// after Stop they find nothing.
type DHT struct {
	cfg   Config
	host  host.Host
	store ds.Batching // under this network's own prefix
	log   *zap.Logger
	now   func() time.Time
	group grouper
	seen  func(peer.ID) // told of the peers that mDNS shows; may be nil

	tables    atomic.Pointer[tables] // nil: not running
	announcer *announcer
	donating  donating
	names     *names
	boot      *bootstrapper
	lan       *lanPeers
	static    *static

	mu     sync.Mutex
	state  int // fresh, running, stopped
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything that runs under ctx
}

// What DHT.state may be.
const (
	fresh = iota
	running
	stopped
)

// tables are the running Kademlia tables.
type tables struct {
	all interface { // both, as one
		routing.Routing
		routing.PubKeyFetcher
		Close() error
	}
	wan *kad.IpfsDHT // the network's own table
	lan *kad.IpfsDHT // public only: those on the LAN; else nil
}

// each gives the tables that there are.
func (t *tables) each() []*kad.IpfsDHT {
	if t.lan == nil {
		return []*kad.IpfsDHT{t.wan}
	}
	return []*kad.IpfsDHT{t.wan, t.lan}
}

// size gives the number of peers in all tables.
func (t *tables) size() int {
	n := 0
	for _, table := range t.each() {
		n += table.RoutingTable().Size()
	}
	return n
}

// New prepares the DHT of one network on a host. It starts nothing and asks the host for nothing,
// so that the host may still be under construction. The error is Config.Validate's.
func New(cfg Config, deps Deps) (*DHT, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Host == nil {
		return nil, cellproto.Errorf("make a DHT", cellproto.BadInput, "no host")
	}
	if deps.Datastore == nil {
		deps.Datastore = dssync.MutexWrap(ds.NewMapDatastore())
	}
	if deps.Log == nil {
		deps.Log = zap.NewNop()
	}
	cfg = cfg.withDefaults()
	d := &DHT{
		cfg:   cfg,
		host:  deps.Host,
		store: namespace.Wrap(deps.Datastore, ds.NewKey("/cell/dht/"+cfg.Network)),
		log:   deps.Log,
		now:   time.Now,
		group: groupOf,
		lan:   newLANPeers(),
		seen:  deps.Seen,
	}
	var err error
	if d.boot, err = newBootstrapper(d); err != nil {
		return nil, cellproto.Errorf("make a DHT", cellproto.BadInput, "bootstrap: %w", err)
	}
	if d.static, err = newStatic(cfg.Static); err != nil {
		return nil, cellproto.Errorf("make a DHT", cellproto.BadInput, "static list: %w", err)
	}
	d.static.listed = deps.Listed
	d.announcer = newAnnouncer(d)
	d.names = newNames(d, deps.DNS)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// Start joins the network: it answers and asks, connects to bootstrap peers and announces, all in
// the background. It is called once; ctx is only about starting.
func (d *DHT) Start(ctx context.Context) error {
	if err := d.launch(ctx); err != nil {
		return err
	}
	d.announcer.start()
	return nil
}

// launch does Start's work under the lock that Stop and begin take.
func (d *DHT) launch(ctx context.Context) error {
	const op = "start the DHT"
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != fresh {
		return cellproto.Errorf(op, cellproto.Failed, "it was started before")
	}
	if err := ctx.Err(); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	t, err := d.newTables()
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	d.state = running
	d.tables.Store(t)
	if d.cfg.MDNS {
		// A machine without multicast is no reason not to run.
		if err := d.lan.start(d); err != nil {
			d.log.Warn("no mDNS: cells on this LAN are not found by it", zap.Error(err))
		}
	}
	d.wg.Go(d.boot.run)
	d.wg.Go(d.watch)
	d.wg.Go(d.names.run)
	return nil
}

// Stop leaves the network and returns when everything has ended. What was being looked up ends
// early. It may be called before Start and more than once.
func (d *DHT) Stop() {
	d.mu.Lock()
	was := d.state
	d.state = stopped
	d.mu.Unlock()
	d.cancel()
	if was == running {
		d.lan.stop()
	}
	d.wg.Wait()
	if t := d.tables.Swap(nil); t != nil {
		if err := t.all.Close(); err != nil {
			d.log.Warn("the DHT did not close cleanly", zap.Error(err))
		}
	}
}

// begin enters something that Stop waits for, with a context that Stop ends; false when not running.
// The caller calls done exactly once.
func (d *DHT) begin(ctx context.Context) (_ context.Context, done func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != running {
		return ctx, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	unlink := context.AfterFunc(d.ctx, cancel)
	d.wg.Add(1)
	return ctx, func() {
		unlink()
		cancel()
		d.wg.Done()
	}, true
}

// newTables makes and starts the tables of the configured network.
func (d *DHT) newTables() (*tables, error) {
	mode := kad.Mode(d.mode())
	store := kad.Datastore(d.store)
	if d.cfg.Network != Public {
		table, err := kad.New(d.host, store, mode,
			kad.ProtocolPrefix(privatePrefix+protocol.ID(d.cfg.Network)),
			kad.RoutingTablePeerDiversityFilter(newDiversity(d.host, d.group)),
			kad.WithCustomMessageSender(d.newSender))
		if err != nil {
			return nil, err
		}
		return &tables{all: table, wan: table}, nil
	}
	// dual's WAN table has kad-dht's diversity filter already. The LAN table is not limited: the
	// peers of a LAN are one address group.
	both, err := dual.New(d.host,
		dual.DHTOption(store, mode),
		dual.WanDHTOption(kad.WithCustomMessageSender(d.newSender)),
		dual.LanDHTOption(kad.WithCustomMessageSender(newLANSender)))
	if err != nil {
		return nil, err
	}
	return &tables{all: both, wan: both.WAN, lan: both.LAN}, nil
}

func (d *DHT) newSender(h host.Host, protos []protocol.ID) pb.MessageSenderWithDisconnect {
	return &sender{host: h, protos: protos, limit: d.messageLookup}
}

func newLANSender(h host.Host, protos []protocol.ID) pb.MessageSenderWithDisconnect {
	return &sender{host: h, protos: protos}
}

// mode gives kad-dht's name for the configured mode. On a private network AutoNAT may have nobody to
// ask, so that "auto" is to serve unless it says that others cannot reach us.
func (d *DHT) mode() kad.ModeOpt {
	switch {
	case d.cfg.ServerMode == ModeClient:
		return kad.ModeClient
	case d.cfg.ServerMode == ModeServer:
		return kad.ModeServer
	case d.cfg.Network != Public:
		return kad.ModeAutoServer
	}
	return kad.ModeAuto
}

// protocol gives the protocol ID of the network's own table.
func (d *DHT) protocol() protocol.ID {
	if d.cfg.Network == Public {
		return amino.ProtocolID
	}
	return privatePrefix + protocol.ID(d.cfg.Network) + "/kad/1.0.0"
}

// Routing gives the network's routing for bitswap, AutoRelay and the like. It may be asked for at
// any time.
func (d *DHT) Routing() routing.Routing { return router{d} }

// FindPeer looks the addresses of p up, so that a DHT can be given to libp2p.Routing.
func (d *DHT) FindPeer(ctx context.Context, p peer.ID) (peer.AddrInfo, error) {
	return router{d}.FindPeer(ctx, p)
}

// Status says how the network is doing.
type Status struct {
	Network        string // Public or the private network's name
	Mode           string // ModeServer or ModeClient, what it is now; "" when not running
	WANPeers       int    // peers in the network's own routing table, the only one of a private network
	LANPeers       int    // public only: peers in the routing table of the LAN
	Connected      int    // peers that this host is connected to, for whatever reason
	Bootstrapped   int    // bootstrap peers that are connected
	BootstrapTotal int    // bootstrap peers that there are
	MDNSPeers      int    // peers seen by mDNS and not expired
	Announced      int    // CIDs being announced
	Names          int    // names being republished
	Err            error  // what last went wrong in joining the network, nil when nothing is wrong now; has a hint
}

// Status reports on the network as it is now.
func (d *DHT) Status() Status {
	s := Status{
		Network:   d.cfg.Network,
		MDNSPeers: len(d.lan.list(d.now())),
		Announced: d.announcer.len(),
		Names:     d.names.len(),
	}
	s.Bootstrapped, s.BootstrapTotal, s.Err = d.boot.state()
	t := d.tables.Load()
	if t == nil {
		return s
	}
	s.WANPeers = t.wan.RoutingTable().Size()
	if t.lan != nil {
		s.LANPeers = t.lan.RoutingTable().Size()
	}
	s.Connected = len(d.host.Network().Peers())
	s.Mode = ModeClient
	for _, p := range d.host.Mux().Protocols() {
		if p == d.protocol() {
			s.Mode = ModeServer
		}
	}
	return s
}

// noPeers is the error of an operation that needs others when there are none.
func (d *DHT) noPeers(op string) error {
	err := cellproto.Errorf(op, cellproto.Unavailable, "no peer of the network is known yet")
	switch {
	case d.cfg.Network == Public:
		return err.WithHint("Check that this machine is on the internet; `cellctl doctor` shows what is reachable.")
	case len(d.cfg.Bootstrap) == 0:
		return err.WithHint("The private network %q has no bootstrap peer: set [network] bootstrap or CELL_BOOTSTRAP to an address of a running nucleus.", d.cfg.Network)
	}
	return err.WithHint("None of the bootstrap peers of the network %q answers yet; `cellctl doctor` shows which.", d.cfg.Network)
}
