package dht

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
)

// Where a provider was found.
const (
	SourceDHT    = "dht"    // it announced the CID
	SourceMDNS   = "mdns"   // it is a cell on this LAN; what it provides is not known
	SourceStatic = "static" // the owner listed it; what it provides is not known
)

const (
	// addrTimeout bounds the search for the addresses of a provider whose record has none.
	addrTimeout = 10 * time.Second
	// addrAtOnce is how many such searches one Find does at the same time, and maxAddrless how many
	// in all: a record without addresses is cheap to make and dear to complete.
	addrAtOnce  = 4
	maxAddrless = 16
)

// Provider is a candidate: a peer that may provide a CID, and at least one address of it. Nothing
// that it says has been verified.
type Provider struct {
	Info   peer.AddrInfo
	Source string // SourceDHT, SourceMDNS or SourceStatic
}

// Progress says how far a Find got. It may be read while the search goes on.
type Progress struct {
	Keys  int           // keys that are looked up: the plain one and the salted ones
	asked *atomic.Int64 // peers that answered, each counted for each key
	read  atomic.Int64  // distinct providers in the records that were read
}

// Asked gives how many answers peers of the DHT have given, all keys together.
func (p *Progress) Asked() int { return int(p.asked.Load()) }

// Read gives how many distinct providers the records named, usable or not.
func (p *Progress) Read() int { return int(p.read.Load()) }

// Find looks for providers of c, and gives each as soon as it is known: at once peers of the static
// list and of the LAN, which are to be asked whether they provide c, then those that announced it,
// under the plain or a salted key, for which it waits until there is a peer to ask (AwaitPeers).
// Each peer is given once; this peer is left out. It reads the first 64 providers
// (cellproto.MaxProviders), at least a share of them from each key, so that records stuffed under one
// key do not hide the others.
//
// The channel is closed at the end: when all lookups have ended, ctx has, or the DHT stopped. It
// holds all there can be, so that a caller who has enough can leave; cancelling ctx then saves the
// network the rest.
func (d *DHT) Find(ctx context.Context, c cid.Cid) <-chan Provider {
	found, _ := d.FindWithProgress(ctx, c)
	return found
}

// FindWithProgress is Find for a caller who wants to say how far it got.
func (d *DHT) FindWithProgress(ctx context.Context, c cid.Cid) (<-chan Provider, *Progress) {
	out := make(chan Provider, cellproto.MaxProviders+maxStatic*maxStaticPeers+maxLANPeers)
	progress := &Progress{asked: new(atomic.Int64)}
	t := d.tables.Load()
	ctx, done, ok := d.begin(ctx)
	if !ok || t == nil || !c.Defined() {
		if ok {
			done()
		}
		close(out)
		return out, progress
	}
	keys := findKeys(d.cfg.Network, c, d.now())
	progress.Keys = len(keys)
	f := &finding{d: d, out: out, given: make(map[peer.ID]bool), progress: progress}
	for _, info := range d.static.known() {
		f.give(info, SourceStatic)
	}
	for _, info := range d.lan.list(d.now()) {
		f.give(info, SourceMDNS)
	}
	go func() {
		defer done()
		defer close(out)
		var wg sync.WaitGroup
		wg.Go(func() {
			d.static.read(ctx, func(info peer.AddrInfo) { f.give(info, SourceStatic) })
		})
		d.AwaitPeers(ctx, func() {
			for _, info := range d.lan.list(d.now()) {
				f.give(info, SourceMDNS)
			}
		})
		f.lookUp(ctx, t, keys)
		wg.Wait()
	}()
	return out, progress
}

// peersPoll is how often AwaitPeers looks: the routing table does not tell.
const peersPoll = 10 * time.Millisecond

// AwaitPeers waits until the DHT has a peer to ask: one that was just started has none yet. It ends
// at once where nobody is to be expected, and when ctx ends. each, which may be nil, is called now and
// then meanwhile.
func (d *DHT) AwaitPeers(ctx context.Context, each func()) {
	tick := time.NewTicker(peersPoll)
	defer tick.Stop()
	for ctx.Err() == nil {
		t := d.tables.Load()
		_, bootstrap, _ := d.boot.state()
		if t == nil || t.size() > 0 || bootstrap == 0 && !d.lan.expects(d.now()) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if each != nil {
			each()
		}
	}
}

// finding is one Find.
type finding struct {
	d        *DHT
	out      chan<- Provider // has room for all
	progress *Progress

	mu    sync.Mutex
	given map[peer.ID]bool
}

// give passes a provider on, unless it was already, or is of no use.
func (f *finding) give(info peer.AddrInfo, source string) {
	info, ok := usable(info)
	if !ok || info.ID == f.d.host.ID() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.given[info.ID] {
		f.given[info.ID] = true
		f.out <- Provider{Info: info, Source: source}
	}
}

// record is a provider record that was read under the key with this index; a key's last one has an
// empty peer.
type record struct {
	key  int
	info peer.AddrInfo
}

// lookUp looks all keys up at once and gives what comes. It returns when nothing more will.
func (f *finding) lookUp(ctx context.Context, t *tables, keys []cid.Cid) {
	lookCtx, enough := context.WithCancel(ctx)
	defer enough()
	records := make(chan record)
	var lookups, completions sync.WaitGroup
	for i, key := range keys {
		lookups.Go(func() { f.follow(lookCtx, t, i, key, records) })
	}
	slots := make(chan struct{}, addrAtOnce)
	q := newQuota(len(keys), cellproto.MaxProviders)
	addrless := 0
	for open := len(keys); open > 0 && !q.full() && ctx.Err() == nil; {
		var pass []peer.AddrInfo
		select {
		case <-ctx.Done():
			continue
		case r := <-records:
			if r.info.ID == "" {
				open--
				pass = q.end(r.key)
			} else {
				pass = q.add(r.key, r.info)
			}
		}
		f.progress.read.Store(int64(q.total))
		for _, info := range pass {
			if len(info.Addrs) == 0 {
				info.Addrs = f.d.host.Peerstore().Addrs(info.ID)
			}
			if len(info.Addrs) > 0 {
				f.give(info, SourceDHT)
			} else if addrless < maxAddrless {
				addrless++
				completions.Go(func() { f.complete(ctx, info.ID, slots) })
			}
		}
	}
	enough()
	lookups.Wait()
	completions.Wait()
}

// follow passes on what the lookup of one key brings, and an empty record at its end.
func (f *finding) follow(ctx context.Context, t *tables, i int, key cid.Cid, records chan<- record) {
	pass := func(info peer.AddrInfo) {
		select {
		case records <- record{key: i, info: info}:
		case <-ctx.Done():
		}
	}
	defer pass(peer.AddrInfo{})
	l := f.d.newLookup(t, string(key.Hash()))
	l.asked = f.progress.asked
	for info := range t.all.FindProvidersAsync(withLookup(ctx, l), key, cellproto.MaxProviders) {
		if info.ID.Validate() == nil && info.ID != f.d.host.ID() {
			pass(info)
		}
	}
}

// complete searches for the addresses of a provider, and gives it if there are any.
func (f *finding) complete(ctx context.Context, p peer.ID, slots chan struct{}) {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, addrTimeout)
	defer cancel()
	info, err := router{f.d}.FindPeer(ctx, p)
	if err == nil && info.ID == p {
		f.give(info, SourceDHT)
	}
}

// usable gives info with what can be dialled: a valid peer ID and at most cellproto.MaxAdvertAddrs
// addresses without the peer at their end.
func usable(info peer.AddrInfo) (peer.AddrInfo, bool) {
	if info.ID.Validate() != nil {
		return peer.AddrInfo{}, false
	}
	clean := peer.AddrInfo{ID: info.ID}
	for _, a := range info.Addrs {
		if a == nil {
			continue
		}
		transport, id := peer.SplitAddr(a)
		if len(transport) == 0 || id != "" && id != info.ID {
			continue
		}
		clean.Addrs = append(clean.Addrs, transport)
		if len(clean.Addrs) == cellproto.MaxAdvertAddrs {
			break
		}
	}
	clean.Addrs = ma.Unique(clean.Addrs)
	return clean, len(clean.Addrs) > 0
}

// quota decides which of the providers that come in under several keys are read. Each key has a
// share that the others cannot use up while its lookup goes on; what comes in beyond waits until
// shares are free. It is not safe for concurrent use.
type quota struct {
	max   int
	share int
	ended []bool
	taken []int
	seen  map[peer.ID]bool // with addresses or not
	bare  map[peer.ID]bool // of these, without addresses so far
	wait  []record
	total int
}

func newQuota(keys, limit int) *quota {
	return &quota{
		max: limit, share: limit / keys,
		ended: make([]bool, keys), taken: make([]int, keys),
		seen: make(map[peer.ID]bool), bare: make(map[peer.ID]bool),
	}
}

// full reports that no more is to be read.
func (q *quota) full() bool { return q.total >= q.max }

// add gives what may be passed on after info came in under a key.
func (q *quota) add(key int, info peer.AddrInfo) []peer.AddrInfo {
	if q.seen[info.ID] {
		if q.bare[info.ID] && len(info.Addrs) > 0 {
			delete(q.bare, info.ID)
			return []peer.AddrInfo{info} // the same provider, with addresses now
		}
		return nil
	}
	if q.room(key) {
		q.take(key, info)
		return []peer.AddrInfo{info}
	}
	if len(q.wait) < q.max*len(q.taken) {
		q.wait = append(q.wait, record{key: key, info: info})
	}
	return nil
}

// end gives what may be passed on after the lookup of a key has ended.
func (q *quota) end(key int) []peer.AddrInfo {
	q.ended[key] = true
	var pass []peer.AddrInfo
	still := q.wait[:0]
	for _, r := range q.wait {
		switch {
		case q.seen[r.info.ID]:
		case q.room(r.key):
			q.take(r.key, r.info)
			pass = append(pass, r.info)
		default:
			still = append(still, r)
		}
	}
	q.wait = still
	return pass
}

// room reports whether one more provider of this key fits beside what the other keys may still take.
func (q *quota) room(key int) bool {
	free := q.max - q.total
	for k := range q.taken {
		if k != key && !q.ended[k] && q.taken[k] < q.share {
			free -= q.share - q.taken[k]
		}
	}
	return free > 0
}

func (q *quota) take(key int, info peer.AddrInfo) {
	q.taken[key]++
	q.total++
	q.seen[info.ID] = true
	if len(info.Addrs) == 0 {
		q.bare[info.ID] = true
	}
}
