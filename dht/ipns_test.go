package dht

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// record reads the record of a name as a peer has it.
func recordAt(t *testing.T, d *DHT, name string) *ipns.Record {
	t.Helper()
	id, err := ipns.NameFromString(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := d.Routing().GetValue(within(t), string(id.RoutingKey()))
	if err != nil {
		t.Fatalf("no record of %s: %v", name, err)
	}
	rec := valid(data, id)
	if rec == nil {
		t.Fatal("the record is not valid")
	}
	return rec
}

func TestPublishAndResolve(t *testing.T) {
	t.Parallel()
	net := join(t, "names", 6)
	key := newKey(t)
	id, _ := peer.IDFromPrivateKey(key)
	v1, v2 := cidOf(t, "version 1"), cidOf(t, "version 2")

	name, err := net[1].PublishName(within(t), key, v1)
	if err != nil {
		t.Fatal(err)
	}
	if len(name) < 50 || name[:3] != "k51" {
		t.Errorf("name = %q, want k51…", name)
	}
	for _, form := range []string{name, "/ipns/" + name, id.String(), "/ipns/" + id.String()} {
		got, err := net[4].ResolveName(within(t), form)
		if err != nil || got != v1 {
			t.Errorf("%s = %v, %v, want %v", form, got, err, v1)
		}
	}
	rec := recordAt(t, net[3], name)
	if ttl, err := rec.TTL(); err != nil || ttl != nameTTL {
		t.Errorf("TTL = %v, %v", ttl, err)
	}
	if eol, err := rec.Validity(); err != nil || time.Until(eol) < 47*time.Hour || time.Until(eol) > 48*time.Hour {
		t.Errorf("valid until %v, %v", eol, err)
	}
	if seq := sequenceOf(rec); seq != 0 {
		t.Errorf("sequence = %d, want 0", seq)
	}

	// The same again changes nothing, another value is one more, wherever it is published.
	if _, err := net[1].PublishName(within(t), key, v1); err != nil {
		t.Fatal(err)
	}
	if seq := sequenceOf(recordAt(t, net[3], name)); seq != 0 {
		t.Errorf("sequence = %d after the same value, want 0", seq)
	}
	if _, err := net[2].PublishName(within(t), key, v2); err != nil {
		t.Fatal(err)
	}
	if seq := sequenceOf(recordAt(t, net[5], name)); seq != 1 {
		t.Errorf("sequence = %d after another value, want 1", seq)
	}
	if got, err := net[5].ResolveName(within(t), name); err != nil || got != v2 {
		t.Errorf("resolves to %v, %v, want version 2", got, err)
	}
	// What was resolved is remembered for its TTL, and not longer.
	if got, _ := net[4].ResolveName(within(t), name); got != v1 {
		t.Errorf("resolves to %v within the TTL, want what was remembered", got)
	}
	net[4].names.cache.Purge()
	if got, _ := net[4].ResolveName(within(t), name); got != v2 {
		t.Errorf("resolves to %v after the TTL, want version 2", got)
	}
	if n := net[1].Status().Names; n != 1 {
		t.Errorf("status says %d names", n)
	}
}

// An old copy of a cell that is started again does not undo its successor, but whoever publishes
// explicitly does.
func TestKeepNameYields(t *testing.T) {
	t.Parallel()
	net := join(t, "keep", 4)
	key := newKey(t)
	v1, v2 := cidOf(t, "version 1"), cidOf(t, "version 2")
	name, err := net[1].PublishName(within(t), key, v1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net[2].PublishName(within(t), key, v2); err != nil {
		t.Fatal(err)
	}
	id, _ := ipns.NameFromString(name)
	net[1].names.mu.Lock()
	p := net[1].names.published[name]
	net[1].names.mu.Unlock()
	if err := net[1].names.publish(within(t), id, p); err != nil {
		t.Fatal(err)
	}
	if seq := sequenceOf(recordAt(t, net[3], name)); seq != 1 {
		t.Errorf("sequence = %d after the old copy republished, want 1", seq)
	}
	// So does a copy that has never published.
	if got, err := net[3].KeepName(key, v1); err != nil || got != name {
		t.Fatalf("KeepName = %q, %v", got, err)
	}
	eventually(t, "republication", func() bool {
		net[3].names.mu.Lock()
		defer net[3].names.mu.Unlock()
		return !net[3].names.published[name].owed
	})
	if got, err := net[0].ResolveName(within(t), name); err != nil || got != v2 {
		t.Errorf("resolves to %v, %v, want version 2", got, err)
	}
	if _, err := net[3].PublishName(within(t), key, v1); err != nil {
		t.Fatal(err)
	}
	if seq := sequenceOf(recordAt(t, net[0], name)); seq != 2 {
		t.Errorf("sequence = %d after going back on purpose, want 2", seq)
	}
}

// Alone, a name is kept, resolves here, and goes out when somebody is there. The sequence does not
// fall over a restart, though nobody else knows it.
func TestPublishAlone(t *testing.T) {
	t.Parallel()
	store, key := memory(), newKey(t)
	v1, v2 := cidOf(t, "version 1"), cidOf(t, "version 2")
	host := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	d := startWith(t, Config{Network: "alone"}, Deps{Host: host, Datastore: store})
	name, err := d.PublishName(within(t), key, v1)
	if cellproto.KindOf(err) != cellproto.Unavailable || cellproto.HintOf(err) == "" || name == "" {
		t.Errorf("PublishName = %q, %v; want the name, and Unavailable with a hint", name, err)
	}
	if got, err := d.ResolveName(within(t), name); err != nil || got != v1 {
		t.Errorf("resolves to %v, %v here", got, err)
	}
	d.Stop()

	d = startWith(t, Config{Network: "alone"}, Deps{Host: host, Datastore: store})
	if got, err := d.ResolveName(within(t), name); err != nil || got != v1 {
		t.Errorf("resolves to %v, %v after a restart", got, err)
	}
	if _, err := d.PublishName(within(t), key, v2); cellproto.KindOf(err) != cellproto.Unavailable {
		t.Errorf("alone again: %v", err)
	}
	other := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "alone", Bootstrap: addrs(t, host)})
	eventually(t, "republication", func() bool {
		got, err := other.ResolveName(within(t), name)
		return err == nil && got == v2
	})
	if seq := sequenceOf(recordAt(t, other, name)); seq != 1 {
		t.Errorf("sequence = %d, want 1", seq)
	}
}

// brokenStore fails as a full or worn-out disk does.
type brokenStore struct {
	ds.Batching
	broken bool
}

var errDisk = errors.New("input/output error")

func (s *brokenStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	if s.broken {
		return nil, errDisk
	}
	return s.Batching.Get(ctx, k)
}

// With a disk that cannot say which sequence was the last, nothing is published.
func TestPublishNeedsItsSequence(t *testing.T) {
	t.Parallel()
	store := &brokenStore{Batching: memory()}
	d := startWith(t, Config{Network: "broken"}, Deps{Host: newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Datastore: store})
	key := newKey(t)
	id, _ := peer.IDFromPrivateKey(key)
	name := ipns.NameFromPeer(id)
	d.names.d.store = &brokenStore{Batching: d.store, broken: true}
	p := &publication{key: key, value: cidOf(t, "x"), retry: newBackOff(time.Second, time.Second)}
	d.names.mu.Lock()
	d.names.published[name.String()] = p
	p.due = time.Now().Add(time.Hour)
	d.names.mu.Unlock()
	if err := d.names.put(within(t), name, p); !errors.Is(err, errDisk) {
		t.Errorf("err = %v, want the disk's", err)
	}
}

func TestNextSequence(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	v := cidOf(t, "v")
	rec := func(seq uint64, value cid.Cid) *ipns.Record {
		r, err := ipns.NewRecord(key, ipfsPath{value}, seq, time.Now().Add(time.Hour), nameTTL)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tt := range []struct {
		name   string
		newest *ipns.Record
		want   uint64
		fails  bool
	}{
		{"first", nil, 0, false},
		{"same value", rec(7, v), 7, false},
		{"another value", rec(7, cidOf(t, "w")), 8, false},
		{"same value at the end", rec(maxSequence, v), maxSequence, false},
		{"used up", rec(maxSequence, cidOf(t, "w")), 0, true},
	} {
		got, err := nextSequence(tt.newest, v)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%s: %d, %v", tt.name, got, err)
		}
	}
	a, b := rec(1, v), rec(2, v)
	if newer(a, b) != b || newer(b, a) != b || newer(nil, a) != a || newer(a, nil) != a || newer(nil, nil) != nil {
		t.Error("newer is not the one with the higher sequence")
	}
}

// Records of a wrong key, damaged ones and expired ones are refused.
func TestValidRecord(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	id, _ := peer.IDFromPrivateKey(key)
	name := ipns.NameFromPeer(id)
	make := func(eol time.Time, wrong bool) []byte {
		signer := key
		if wrong {
			signer = other
		}
		rec, err := ipns.NewRecord(signer, ipfsPath{cidOf(t, "v")}, 1, eol, nameTTL)
		if err != nil {
			t.Fatal(err)
		}
		data, err := ipns.MarshalRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good := make(time.Now().Add(time.Hour), false)
	if valid(good, name) == nil {
		t.Error("a good record was refused")
	}
	damaged := append([]byte(nil), good...)
	damaged[len(damaged)/2] ^= 1
	for label, data := range map[string][]byte{
		"none": nil, "garbage": []byte("garbage"), "cut": good[:len(good)/2], "damaged": damaged,
		"of another key": make(time.Now().Add(time.Hour), true),
		"expired":        make(time.Now().Add(-time.Hour), false),
	} {
		if valid(data, name) != nil {
			t.Errorf("a record that is %s was taken", label)
		}
	}
}

func TestPublishBadInput(t *testing.T) {
	t.Parallel()
	d, err := New(Config{Network: "bad"}, Deps{Host: newHost(t, nil, "/ip4/127.0.0.1/tcp/0")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.PublishName(t.Context(), nil, cidOf(t, "x")); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("without a key: %v", err)
	}
	if _, err := d.PublishName(t.Context(), newKey(t), cid.Undef); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("without a CID: %v", err)
	}
	if _, err := d.KeepName(nil, cidOf(t, "x")); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("keep without a key: %v", err)
	}
	if _, err := d.PublishName(t.Context(), newKey(t), cidOf(t, "x")); cellproto.KindOf(err) != cellproto.Unavailable {
		t.Errorf("before Start: %v", err)
	}
}
