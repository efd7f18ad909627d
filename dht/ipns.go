package dht

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const (
	// nameLifetime is how long a record is valid after it was signed, and nameTTL how long others
	// may keep it without asking again.
	nameLifetime = 48 * time.Hour
	nameTTL      = time.Minute
	// nameRenewal is how often a record is signed and put again, as kubo does: peers come and go.
	nameRenewal = 4 * time.Hour
	// nameTimeout bounds one publication in the background, seekTimeout the search for a record that
	// was published before.
	nameTimeout = 2 * time.Minute
	seekTimeout = 30 * time.Second
	// nameQuorum is how many records a search reads before it takes the newest; kubo reads as many.
	nameQuorum = 16
	// maxCached names are remembered for nameTTL.
	maxCached = 256
	// maxSequence keeps a sequence within dag-cbor's integers, with one more to come.
	maxSequence = math.MaxInt64 - 1
)

// ipfsPath is the value of a record, as boxo's ipns takes it.
type ipfsPath struct{ c cid.Cid }

func (p ipfsPath) String() string     { return "/ipfs/" + p.c.String() }
func (p ipfsPath) Namespace() string  { return "ipfs" }
func (p ipfsPath) Mutable() bool      { return false }
func (p ipfsPath) Segments() []string { return []string{"ipfs", p.c.String()} }

// names publishes and resolves. It remembers keys while it runs, but stores only records.
type names struct {
	d   *DHT
	dns TXTResolver

	publishing sync.Mutex // one publication at a time, so that no sequence is used twice

	mu        sync.Mutex
	published map[string]*publication // name -> what it stands for
	wake      chan struct{}

	cache *lru.Cache[string, cachedName]
}

// publication is a name that is kept alive.
type publication struct {
	key   crypto.PrivKey
	value cid.Cid
	yield bool      // a newer record of another holder of the key stands: this value was out before it
	owed  bool      // no other peer has taken the record yet
	due   time.Time // when to publish it next
	retry *backoff.ExponentialBackOff
}

// cachedName is what a name stood for.
type cachedName struct {
	value   string // a path
	expires time.Time
}

func newNames(d *DHT, dns TXTResolver) *names {
	cache, err := lru.New[string, cachedName](maxCached)
	if err != nil {
		panic("dht: " + err.Error()) // only for a size below 1
	}
	if dns == nil {
		dns = systemDNS()
	}
	return &names{
		d: d, dns: dns, cache: cache,
		published: make(map[string]*publication),
		wake:      make(chan struct{}, 1),
	}
}

// PublishName has the IPNS name of key stand for value: it puts a record that is valid for 48 h, and
// puts it anew every 4 h until the DHT stops. The sequence is that of the newest record known here
// or to the network plus one, or the same if that has this value already.
//
// It gives the name (k51…) whenever the key is good. An error of kind Unavailable or Timeout then
// says that no other peer holds the record yet: that is retried in the background, and this peer
// itself resolves the name at once.
func (d *DHT) PublishName(ctx context.Context, key crypto.PrivKey, value cid.Cid) (string, error) {
	const op = "publish a name"
	if key == nil || !value.Defined() {
		return "", cellproto.Errorf(op, cellproto.BadInput, "a key and a CID are needed")
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return "", cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	name := ipns.NameFromPeer(id)
	ctx, done, ok := d.begin(ctx)
	if !ok {
		return name.String(), cellproto.Errorf(op+" "+name.String(), cellproto.Unavailable, "%w", errNotRunning)
	}
	defer done()
	n := d.names
	p := &publication{key: key, value: value, owed: true, retry: newBackOff(firstRetry, longestRetry)}
	n.mu.Lock()
	n.published[name.String()] = p
	p.due = d.now().Add(nameRenewal) // not by the background, while this goes on
	n.mu.Unlock()
	return name.String(), n.publish(ctx, name, p)
}

// KeepName goes on republishing value under the name of key, as PublishName does, from the start of
// a nucleus: in the background, and giving way to a newer record that another holder of the key has
// published, so that an old copy of a cell that is started again does not undo its successor.
func (d *DHT) KeepName(key crypto.PrivKey, value cid.Cid) (string, error) {
	const op = "keep a name"
	if key == nil || !value.Defined() {
		return "", cellproto.Errorf(op, cellproto.BadInput, "a key and a CID are needed")
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return "", cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	name := ipns.NameFromPeer(id).String()
	n := d.names
	n.mu.Lock()
	if have, ok := n.published[name]; !ok || !have.value.Equals(value) {
		n.published[name] = &publication{
			key: key, value: value, yield: true, owed: true,
			due: d.now(), retry: newBackOff(firstRetry, longestRetry),
		}
	}
	n.mu.Unlock()
	n.poke()
	return name, nil
}

// publish puts p's record and says when to do so again.
func (n *names) publish(ctx context.Context, name ipns.Name, p *publication) error {
	err := n.put(ctx, name, p)
	n.mu.Lock()
	if err == nil {
		p.retry.Reset()
		p.due = n.d.now().Add(nameRenewal)
	} else {
		p.due = n.d.now().Add(p.retry.NextBackOff())
	}
	n.mu.Unlock()
	n.poke()
	return err
}

// put signs and puts one record.
func (n *names) put(ctx context.Context, name ipns.Name, p *publication) error {
	op := "publish the name " + name.String()
	n.publishing.Lock()
	defer n.publishing.Unlock()
	t := n.d.tables.Load()
	if t == nil {
		return cellproto.Errorf(op, cellproto.Unavailable, "%w", errNotRunning)
	}
	if n.superseded(name, p) {
		return nil
	}
	kept, err := n.load(ctx, name)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "cannot read the record before: %w", err)
	}
	newest := kept
	if t.size() > 0 {
		newest = newer(kept, n.seek(ctx, name))
	}
	if n.yields(p) && newest != kept && valueOf(newest) != (ipfsPath{p.value}).String() {
		n.d.log.Info("another holder of the key has published this name; not republished here",
			zap.String("name", name.String()), zap.String("value", valueOf(newest)))
		n.mu.Lock()
		p.owed = false
		n.mu.Unlock()
		return nil
	}
	seq, err := nextSequence(newest, p.value)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	rec, err := ipns.NewRecord(p.key, ipfsPath{p.value}, seq, n.d.now().Add(nameLifetime), nameTTL)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "cannot sign the record: %w", err)
	}
	data, err := ipns.MarshalRecord(rec)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	// Kept before it leaves, so that no later record can have this sequence and another value.
	if err := n.keep(ctx, name, data); err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "cannot keep the record: %w", err)
	}
	n.remember(name.String(), rec)
	return n.send(ctx, op, t, name, data, p)
}

// superseded reports whether the name was given another value since p.
func (n *names) superseded(name ipns.Name, p *publication) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.published[name.String()] != p
}

// send puts a signed record into the network.
func (n *names) send(ctx context.Context, op string, t *tables, name ipns.Name, data []byte, p *publication) error {
	key := string(name.RoutingKey())
	l := n.d.newLookup(t, key)
	err := router{n.d}.PutValue(withLookup(ctx, l), key, data)
	switch {
	case t.size() == 0:
		return n.d.noPeers(op)
	case err == nil && l.stored.Load() == 0:
		err = errors.New("no peer took the record")
	}
	if err != nil {
		return cellproto.Errorf(op, kindOr(err, cellproto.Unavailable), "%w", err).
			WithHint("It is tried again by itself; the CID can be used meanwhile.")
	}
	n.mu.Lock()
	p.yield, p.owed = true, false
	n.mu.Unlock()
	return nil
}

func (n *names) yields(p *publication) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return p.yield
}

// seek gives the newest valid record that the network has, or nil.
func (n *names) seek(ctx context.Context, name ipns.Name) *ipns.Record {
	ctx, cancel := context.WithTimeout(ctx, seekTimeout)
	defer cancel()
	data, _ := router{n.d}.GetValue(ctx, string(name.RoutingKey()), kad.Quorum(nameQuorum))
	return valid(data, name)
}

// recordKey is where the last record of a name that was published here is kept.
func recordKey(name ipns.Name) ds.Key { return ds.NewKey("/name/" + name.String()) }

// keep stores a record durably.
func (n *names) keep(ctx context.Context, name ipns.Name, data []byte) error {
	if err := n.d.store.Put(ctx, recordKey(name), data); err != nil {
		return err
	}
	return n.d.store.Sync(ctx, recordKey(name))
}

// load gives the last record that was published here, expired or not, or nil. A damaged one is as
// good as none, for the network has the sequence too; a datastore that fails is an error, for the
// sequence may not fall.
func (n *names) load(ctx context.Context, name ipns.Name) (*ipns.Record, error) {
	data, err := n.d.store.Get(ctx, recordKey(name))
	if errors.Is(err, ds.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := ipns.UnmarshalRecord(data)
	if err != nil {
		return nil, nil //nolint:nilerr // see above
	}
	if err := ipns.ValidateWithName(rec, name); err != nil && !errors.Is(err, ipns.ErrExpiredRecord) {
		return nil, nil //nolint:nilerr // see above
	}
	return rec, nil
}

// again has everything published anew that the network may not have.
func (n *names) again() {
	n.mu.Lock()
	for _, p := range n.published {
		if p.owed {
			p.due = n.d.now()
		}
	}
	n.mu.Unlock()
	n.poke()
}

func (n *names) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *names) len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.published)
}

// next gives the publication that is due first, and when.
func (n *names) next() (name string, p *publication, due time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, candidate := range n.published {
		if p == nil || candidate.due.Before(due) {
			name, p, due = id, candidate, candidate.due
		}
	}
	return name, p, due
}

// run keeps names alive until the DHT stops.
func (n *names) run() {
	ctx := n.d.ctx
	timer := time.NewTimer(nameRenewal)
	defer timer.Stop()
	for {
		id, p, due := n.next()
		if p != nil {
			timer.Reset(due.Sub(n.d.now()))
		}
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
			continue
		case <-timer.C:
		}
		if p == nil || n.d.now().Before(due) {
			timer.Reset(nameRenewal)
			continue
		}
		name, err := ipns.NameFromString(id)
		if err != nil {
			panic("dht: a name that was published is none: " + err.Error())
		}
		round, cancel := context.WithTimeout(ctx, nameTimeout)
		if err := n.publish(round, name, p); err != nil && ctx.Err() == nil {
			n.d.log.Debug("a name is not published yet", zap.Error(err))
		}
		cancel()
	}
}

// valid gives the record in data if it is one of name and not expired, else nil.
func valid(data []byte, name ipns.Name) *ipns.Record {
	if len(data) == 0 {
		return nil
	}
	rec, err := ipns.UnmarshalRecord(data)
	if err != nil || ipns.ValidateWithName(rec, name) != nil {
		return nil
	}
	return rec
}

// newer gives the one with the higher sequence, a when they are equal. Either may be nil.
func newer(a, b *ipns.Record) *ipns.Record {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	if sequenceOf(b) > sequenceOf(a) {
		return b
	}
	return a
}

// sequenceOf gives a record's sequence, 0 if it has none.
func sequenceOf(rec *ipns.Record) uint64 {
	seq, err := rec.Sequence()
	if err != nil {
		return 0
	}
	return seq
}

// valueOf gives a record's path, "" if it has none.
func valueOf(rec *ipns.Record) string {
	value, err := rec.Value()
	if err != nil {
		return ""
	}
	return value.String()
}

// nextSequence gives the sequence of a record with this value after the newest one: the same if
// nothing changes, else one more; 0 for the first.
func nextSequence(newest *ipns.Record, value cid.Cid) (uint64, error) {
	if newest == nil {
		return 0, nil
	}
	seq := sequenceOf(newest)
	if valueOf(newest) == (ipfsPath{value}).String() {
		return seq, nil
	}
	if seq >= maxSequence {
		return 0, errors.New("the name's sequence is used up")
	}
	return seq + 1, nil
}
