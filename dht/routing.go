package dht

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
)

// errNotRunning is what asking gives before Start and after Stop.
var errNotRunning = errors.New("the DHT is not running")

// router is the network's routing with each operation a lookup of its own, so that the limit on
// address groups holds for it. Before Start and after Stop it finds nothing.
type router struct{ d *DHT }

var (
	_ routing.Routing       = router{}
	_ routing.PubKeyFetcher = router{}
)

// within gives the running tables and the context of a new lookup for key.
func (r router) within(ctx context.Context, key string) (context.Context, *tables, error) {
	t := r.d.tables.Load()
	if t == nil {
		return ctx, nil, errNotRunning
	}
	if lookupOf(ctx) == nil {
		ctx = withLookup(ctx, r.d.newLookup(t, key))
	}
	return ctx, t, nil
}

func (r router) Provide(ctx context.Context, c cid.Cid, announce bool) error {
	ctx, t, err := r.within(ctx, string(c.Hash()))
	if err != nil {
		return err
	}
	return t.all.Provide(ctx, c, announce)
}

func (r router) FindProvidersAsync(ctx context.Context, c cid.Cid, count int) <-chan peer.AddrInfo {
	ctx, t, err := r.within(ctx, string(c.Hash()))
	if err != nil {
		none := make(chan peer.AddrInfo)
		close(none)
		return none
	}
	return t.all.FindProvidersAsync(ctx, c, count)
}

func (r router) FindPeer(ctx context.Context, p peer.ID) (peer.AddrInfo, error) {
	ctx, t, err := r.within(ctx, string(p))
	if err != nil {
		return peer.AddrInfo{}, err
	}
	return t.all.FindPeer(ctx, p)
}

func (r router) PutValue(ctx context.Context, key string, value []byte, opts ...routing.Option) error {
	ctx, t, err := r.within(ctx, key)
	if err != nil {
		return err
	}
	return t.all.PutValue(ctx, key, value, opts...)
}

func (r router) GetValue(ctx context.Context, key string, opts ...routing.Option) ([]byte, error) {
	ctx, t, err := r.within(ctx, key)
	if err != nil {
		return nil, err
	}
	return t.all.GetValue(ctx, key, opts...)
}

func (r router) SearchValue(ctx context.Context, key string, opts ...routing.Option) (<-chan []byte, error) {
	ctx, t, err := r.within(ctx, key)
	if err != nil {
		return nil, err
	}
	return t.all.SearchValue(ctx, key, opts...)
}

func (r router) GetPublicKey(ctx context.Context, p peer.ID) (crypto.PubKey, error) {
	ctx, t, err := r.within(ctx, routing.KeyForPublicKey(p))
	if err != nil {
		return nil, err
	}
	return t.all.GetPublicKey(ctx, p)
}

func (r router) Bootstrap(ctx context.Context) error {
	t := r.d.tables.Load()
	if t == nil {
		return errNotRunning
	}
	return t.all.Bootstrap(ctx)
}

// newLookup makes the memory of a lookup for key, with the peers that kad-dht will begin with.
func (d *DHT) newLookup(t *tables, key string) *lookup {
	l := newLookup(d.group, d.ownGroups(), 1)
	for _, p := range t.wan.RoutingTable().NearestPeers(kb.ConvertKey(key), t.wan.BucketSize()) {
		addrs := remoteAddrs(d.host, p)
		if len(addrs) == 0 {
			addrs = d.host.Peerstore().Addrs(p)
		}
		l.seed(p, addrs)
	}
	return l
}

// messageLookup makes the memory for a message that belongs to no lookup of ours: kad-dht refreshes
// its table with some. Nothing connects them, so that each answer is limited by itself.
func (d *DHT) messageLookup(string) *lookup {
	return newLookup(d.group, d.ownGroups(), maxPerGroup)
}

// ownGroups gives the address groups that are not limited because this peer is there itself. On the
// public network there are none: whoever wants to surround a peer there could move in next door.
func (d *DHT) ownGroups() map[string]bool {
	if d.cfg.Network == Public {
		return nil
	}
	own := make(map[string]bool)
	for _, a := range d.host.Addrs() {
		if g := d.group(a); g != "" && g != dnsGroup {
			own[g] = true
		}
	}
	return own
}
