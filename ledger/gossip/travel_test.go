package gossip

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap/zaptest"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

var testNet = ledger.NetOf("test")

// town is a host with a ledger that hears whom it is connected to.
type town struct {
	host    host.Host
	key     ed25519.PrivateKey
	led     *ledger.Ledger
	travel  *Travel
	charged atomic.Int64
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{host: newHost(t)}
	raw, err := w.host.Peerstore().PrivKey(w.host.ID()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	w.key = raw
	files, err := ledger.OpenDir(t.TempDir())
	if err == nil {
		all := func(ledger.Key, ledger.Key) bool { return true }
		w.led, _, err = ledger.Open(ledger.Config{Net: testNet, Self: ledger.KeyOf(w.key), Near: all}, files, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.led.Close() })
	w.travel = NewTravel(Config{Net: testNet, Key: w.key, First: 1000}, Deps{
		Host: w.host, Ledger: w.led, Neighbours: w.host.Network().Peers, Charge: w.charge, Log: zaptest.NewLogger(t),
	})
	w.host.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) {
		err := w.travel.Serve(s, nil)
		w.charge(s.Conn().RemotePeer(), err)
		if err != nil {
			s.Reset()
			return
		}
		s.Close()
	})
	return w
}

// charge cuts off who has broken the protocol three times, as a nucleus does.
func (w *town) charge(p peer.ID, err error) {
	if kind := cellproto.KindOf(err); kind == cellproto.BadInput || kind == cellproto.TooLarge {
		if w.charged.Add(1) >= 3 {
			_ = w.host.Network().ClosePeer(p)
		}
	}
}

// run has it hear and tell until the test ends.
func (w *town) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.travel.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func (w *town) banned(id ledger.Key) (yes bool) {
	w.led.View(func(b *ledger.Book) { yes = b.Banned(id) })
	return yes
}

func (w *town) entries(id ledger.Key) (n int) {
	w.led.View(func(b *ledger.Book) { n = len(b.Log(id, 0)) })
	return n
}

func (w *town) registers() (n int) {
	w.led.View(func(b *ledger.Book) { b.Registers(func(ledger.RegKey, ledger.Register) bool { n++; return true }) })
	return n
}

func (w *town) readers() int {
	w.travel.mu.Lock()
	defer w.travel.mu.Unlock()
	return len(w.travel.readers)
}

// owes has a host be in debt with somebody, who matters to it then.
func (w *town) owes(t *testing.T, id ledger.Key) {
	t.Helper()
	r := ledger.Receipt{Net: testNet, Consumer: ledger.KeyOf(w.key), Provider: id, N: 1, Credit: 1000, Est: 4, MeterV: 1}
	if _, err := w.led.SignTotal(time.Now(), r, ledger.RoleConsumer, w.key); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, a, b host.Host) {
	t.Helper()
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// towns makes n of them, of which each is connected to its neighbours in a circle or a line.
func towns(t *testing.T, n int, circle bool) []*town {
	t.Helper()
	all := make([]*town, n)
	for i := range all {
		all[i] = newTown(t)
	}
	for i := range all {
		if i+1 < n || circle {
			connect(t, all[i].host, all[(i+1)%n].host)
		}
	}
	for _, w := range all {
		w.run(t)
	}
	for i, w := range all {
		want := 2
		if !circle && (i == 0 || i == n-1) {
			want = 1
		}
		eventually(t, "neighbours ask each other", func() bool { return w.readers() == want })
	}
	return all
}

// keyEntries gives the first entries of key 1's log, and another one in the place of the last.
func keyEntries(t *testing.T) (log [][]byte, other []byte) {
	t.Helper()
	encode := func(e *ledger.KeyEntry, key byte) []byte {
		if err := e.Sign(testKey(key), 0); err != nil {
			t.Fatal(err)
		}
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	id := ledger.KeyOf(testKey(1))
	genesis := &ledger.KeyEntry{Net: testNet, ID: id, Payload: &ledger.Genesis{Next: ledger.HashKey(ledger.KeyOf(testKey(2)))}}
	log = append(log, encode(genesis, 1))
	prev, err := genesis.Hash()
	if err != nil {
		t.Fatal(err)
	}
	rotation := func(next byte) []byte {
		return encode(&ledger.KeyEntry{Net: testNet, ID: id, Seq: 1, Prev: prev, Payload: &ledger.Rotate{
			Key: ledger.KeyOf(testKey(2)), Next: ledger.HashKey(ledger.KeyOf(testKey(next))),
		}}, 2)
	}
	return append(log, rotation(3)), rotation(4)
}

// The proof of a fork is with everybody within moments, though a minute is between two questions; each host
// checks it, and passes it on once.
func TestProofReachesAll(t *testing.T) {
	all := towns(t, 8, true)
	log, other := keyEntries(t)
	for _, e := range append(log, other) {
		if err := all[0].travel.Ingest("somebody", e); err != nil {
			t.Fatal(err)
		}
	}
	id := ledger.KeyOf(testKey(1))
	begin := time.Now()
	for i, w := range all {
		eventually(t, fmt.Sprintf("host %d has banned it", i), func() bool { return w.banned(id) })
	}
	t.Logf("8 hosts in a circle know of the fork after %v", time.Since(begin).Round(time.Millisecond))
	for i, w := range all { // a ban comes a moment before it is counted and told
		eventually(t, fmt.Sprintf("host %d has told of it", i), func() bool {
			entries, _ := w.travel.news.Since(0, maxPull)
			return w.travel.Counts()[ledger.Forked.String()] > 0 && slices.ContainsFunc(entries, func(e []byte) bool { _, err := ledger.DecodeProof(e); return err == nil })
		})
	}
	for i, w := range all {
		if n := w.travel.Counts()[ledger.Forked.String()]; n != 1 {
			t.Errorf("host %d has taken the proof %d times", i, n)
		}
		entries, _ := w.travel.news.Since(0, maxPull)
		proofs := 0
		for _, e := range entries {
			if _, err := ledger.DecodeProof(e); err == nil {
				proofs++
			}
		}
		if proofs != 1 || w.charged.Load() != 0 {
			t.Errorf("host %d publishes %d proofs, and has charged %d times", i, proofs, w.charged.Load())
		}
	}
}

// Changes of the keys of who matters travel at once too, but one of an identity in ten minutes: what follows comes when neighbours
// are asked next. Nobody is asked for what was told before.
func TestKeysTravel(t *testing.T) {
	all := towns(t, 4, false)
	log, _ := keyEntries(t)
	id := ledger.KeyOf(testKey(1))
	for _, w := range all {
		w.owes(t, id)
	}
	for _, e := range log {
		if err := all[0].travel.Ingest("somebody", e); err != nil {
			t.Fatal(err)
		}
	}
	for i, w := range all {
		eventually(t, fmt.Sprintf("host %d knows of the identity", i), func() bool { return w.entries(id) >= 1 })
	}
	for i, w := range all[1:] {
		w.travel.PullAll(t.Context())
		eventually(t, fmt.Sprintf("host %d knows the new key", i+1), func() bool { return w.entries(id) == 2 })
	}
	now := time.Now()
	w := all[0].travel
	if w.hurry(id, now) || !w.hurry(id, now.Add(urgentEvery)) || w.hurry(id, now.Add(urgentEvery+time.Minute)) {
		t.Error("changes of one identity are urgent more than once in ten minutes, or never again")
	}
}

// A host that starts anew tells what it knows of others: a ban, keys, what they owe each other.
func TestToldAfterRestart(t *testing.T) {
	w := newTown(t)
	w.owes(t, ledger.KeyOf(testKey(1)))
	log, other := keyEntries(t)
	entries := append(log, other, signedReceipt(t, 5, 6, 1000))
	for _, e := range entries {
		if err := w.travel.Ingest("somebody", e); err != nil {
			t.Fatal(err)
		}
	}
	again := NewTravel(Config{Net: testNet, Key: w.key}, w.travel.deps)
	got, _ := again.news.Since(0, maxPull)
	if len(got) != 4 { // two key entries, the proof, the receipt
		t.Errorf("it tells %d entries", len(got))
	}
}

func signedReceipt(t testing.TB, consumer, provider byte, credit uint64) []byte {
	t.Helper()
	return sealed(t, ledger.Receipt{
		Net: testNet, Consumer: ledger.KeyOf(testKey(consumer)), Provider: ledger.KeyOf(testKey(provider)), N: credit, Credit: credit, Est: 4, MeterV: 1,
	}, consumer)
}

func sealed(t testing.TB, r ledger.Receipt, consumer byte) []byte {
	t.Helper()
	s, err := ledger.SealReceipt(r, testKey(consumer), ledger.RoleConsumer)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What one host has to tell is more than it may send at once, and than fits into one answer: it comes all the same,
// and goes on to who is not connected to it.
func TestLongNews(t *testing.T) {
	const pairs = 1700
	first, between, last := newTown(t), newTown(t), newTown(t)
	size := 0
	for i := range pairs {
		r := ledger.Receipt{
			Net: testNet, Consumer: ledger.KeyOf(testKey(5)), Provider: ledger.KeyOf(testKey(6)), Epoch: uint32(i), N: 1, Credit: 1000, Est: 4, MeterV: 1,
		}
		entry := sealed(t, r, 5)
		size += len(entry)
		if res, err := first.travel.take("somebody", entry); res.Verdict != ledger.Stored {
			t.Fatal(res.Verdict, err)
		}
	}
	if size <= maxPull {
		t.Fatalf("%d bytes fit into one answer", size)
	}
	for _, w := range []*town{between, last} {
		w.travel.limit.rate = 5000
	}
	connect(t, between.host, first.host)
	connect(t, last.host, between.host)
	for _, w := range []*town{first, between} {
		w.run(t)
	}
	eventually(t, "all is read", func() bool { return between.registers() == pairs })
	last.run(t)
	eventually(t, "and passed on", func() bool { return last.registers() == pairs })
	if n := between.travel.Counts()[Flooding] + last.travel.Counts()[Flooding]; n > 0 || between.charged.Load() > 0 {
		t.Errorf("what was asked for counts as a flood: %d", n)
	}
}

// hostile is a host that answers each pull with what it likes.
type hostile struct {
	host    host.Host
	entries [][]byte
}

func newHostile(t *testing.T, entries ...[]byte) *hostile {
	h := &hostile{host: newHost(t), entries: entries}
	h.host.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) { _ = Serve(s, h); s.Close() })
	return h
}

func (*hostile) Consents(ledger.Key) ([]*ledger.Delegate, error) { return nil, nil }

func (h *hostile) Sign(ledger.Key, []byte, []byte) ([]byte, error)    { return nil, nil }
func (h *hostile) Since(uint64) ([][]byte, uint64)                    { return h.entries, 1 }
func (h *hostile) Head(ledger.Key, []byte) error                      { return nil }
func (h *hostile) Entries(ledger.Key, uint64, int) ([][]byte, uint64) { return nil, 0 }

// Each sort of bad entry is dropped, counted, charged if its sender is to blame, and nothing of it is kept.
func TestBadEntries(t *testing.T) {
	good := signedReceipt(t, 5, 6, 1000)
	flip := func(e []byte, at int) []byte { e = bytes.Clone(e); e[at] ^= 1; return e }
	foreign := sealed(t, ledger.Receipt{
		Net: ledger.NetOf("other"), Consumer: ledger.KeyOf(testKey(5)), Provider: ledger.KeyOf(testKey(6)), N: 1, Credit: 5000, Est: 4, MeterV: 1,
	}, 5)
	less := sealed(t, ledger.Receipt{
		Net: testNet, Consumer: ledger.KeyOf(testKey(5)), Provider: ledger.KeyOf(testKey(6)), N: 1, Credit: 2000, Est: 4, MeterV: 1,
	}, 5)
	log, other := keyEntries(t)
	w := newTown(t)
	for _, e := range [][]byte{good, log[0], log[1]} {
		if err := w.travel.Ingest("somebody", e); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		entry   []byte
		want    ledger.Verdict
		kind    string
		charged int64
	}{
		"malformed":           {[]byte("no entry"), ledger.Malformed, "malformed", 1},
		"cut off":             {good[:len(good)-1], ledger.Malformed, "malformed", 1},
		"oversized":           {make([]byte, cellproto.MaxLedgerEntry+1), ledger.TooLarge, "oversized", 1},
		"not canonical":       {append([]byte{0x98, 3}, good[1:]...), ledger.Malformed, "non_canonical", 1},
		"of another network":  {foreign, ledger.Foreign, "foreign", 0},
		"of a later version":  {flip(flip(good, 2), 2), ledger.Stale, "foreign", 0}, // replaced below
		"forged":              {flip(signedReceipt(t, 5, 6, 3000), len(good)-20), ledger.Forged, "forged", 1},
		"replayed":            {good, ledger.Stale, "replayed", 0},
		"reordered":           {signedReceipt(t, 5, 6, 500), ledger.Stale, "reordered", 0},
		"a number that falls": {less, ledger.Decreasing, "decreasing", 0}, // the fault of who has signed it
		"a forged key entry":  {flip(other, len(other)-20), ledger.Forged, "forged", 1},
	} {
		if name == "of a later version" {
			c.entry = bytes.Clone(good)
			c.entry[2], c.want = 2, ledger.Foreign
		}
		t.Run(name, func(t *testing.T) {
			before, charged := w.travel.Counts()[c.want.String()], w.charged.Load()
			metrics := w.travel.Metrics()
			h := newHostile(t, c.entry)
			connect(t, w.host, h.host)
			w.travel.pull(t.Context(), h.host.ID(), &source{})
			if n := w.travel.Counts()[c.want.String()]; n != before+1 {
				t.Errorf("counted as %s: %d; all counts: %v", c.want, n-before, w.travel.Counts())
			}
			after := w.travel.Metrics()
			if n := after.Refused[c.kind] - metrics.Refused[c.kind]; n != 1 || after.Taken != metrics.Taken || after.In-metrics.In < uint64(len(c.entry)) {
				t.Errorf("%d more are %s; %+v", n, c.kind, after)
			}
			if n := w.charged.Load() - charged; n != c.charged {
				t.Errorf("its sender was charged %d times", n)
			}
			if used := w.travel.limit.peers[h.host.ID()].used; used <= 0 {
				t.Error("it may send as much as before")
			}
			if w.registers() != 1 || w.entries(ledger.KeyOf(testKey(1))) != 2 || w.banned(ledger.KeyOf(testKey(1))) {
				t.Error("something of it was kept")
			}
			if entries, _ := w.travel.news.Since(0, maxPull); len(entries) != 1 {
				t.Errorf("%d entries are published", len(entries))
			}
		})
	}
	// Who answers with many of them is cut off within one answer.
	before := w.charged.Load()
	many := make([][]byte, 100)
	for i := range many {
		many[i] = []byte("no entry")
	}
	h := newHostile(t, many...)
	connect(t, w.host, h.host)
	w.travel.pull(t.Context(), h.host.ID(), &source{})
	if n := w.charged.Load() - before; n != badOfOnePull {
		t.Errorf("charged %d times", n)
	}
	eventually(t, "it is cut off", func() bool { return w.host.Network().Connectedness(h.host.ID()) == network.NotConnected })
}

// Who sends ten times what a peer may is charged, and cut off.
func TestFlood(t *testing.T) {
	w := newTown(t)
	w.host.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) {
		err := w.travel.Serve(s, refuser{})
		w.charge(s.Conn().RemotePeer(), err)
		s.Reset()
	})
	flooder := newHost(t)
	connect(t, flooder, w.host)
	bill := signedReceipt(t, 5, 6, 1000)
	sent := 0
	for ; sent < 20*entryBurst && flooder.Network().Connectedness(w.host.ID()) == network.Connected; sent++ {
		_, _ = Bill(t.Context(), flooder, w.host.ID(), bill, nil)
	}
	counts := w.travel.Counts()
	t.Logf("cut off after %d bills: %v", sent, counts)
	if counts[Flooding] < 3 || w.travel.Metrics().Refused[Flooding] != counts[Flooding] || sent >= 20*entryBurst || w.registers() != 0 {
		t.Errorf("%d bills were taken, %d registers", sent, w.registers())
	}
}

type refuser struct{}

func (refuser) Sign(ledger.Key, []byte, []byte) ([]byte, error) {
	return nil, cellproto.Errorf("check bill", cellproto.Denied, "no")
}

// However many peers send forged entries, looking at them takes a tenth of a processor, after the first second.
func TestCrowdOfForgers(t *testing.T) {
	w := newTown(t)
	forged := signedReceipt(t, 5, 6, 1000)
	forged[len(forged)-20] ^= 1
	var looked, longest time.Duration
	begin := time.Now()
	for i := 0; time.Since(begin) < 4*time.Second && i < 2e6; i++ {
		before := w.travel.Counts()[ledger.Forged.String()]
		at := time.Now()
		_ = w.travel.Ingest(peer.ID(fmt.Sprint("forger ", i%200)), forged)
		if took := time.Since(at); w.travel.Counts()[ledger.Forged.String()] > before {
			looked, longest = looked+took, max(longest, took)
		}
	}
	took := time.Since(begin)
	counts := w.travel.Counts()
	t.Logf("%v: %v of it were spent on forged entries; %v", took.Round(time.Millisecond), looked.Round(time.Millisecond), counts)
	w.travel.limit.mu.Lock()
	defer w.travel.limit.mu.Unlock()
	if spent := w.travel.limit.spent; spent <= 0 || spent > cpuBurst+longest || counts[Busy] == 0 {
		t.Errorf("%v are on the account of peers, of which there may be %v", spent, cpuBurst)
	}
}

// A head is asked after only if it comes from a neighbour, says something new, and is signed.
func TestHeads(t *testing.T) {
	w := newTown(t)
	w.travel.ctx = t.Context()
	h := newHostile(t)
	connect(t, w.host, h.host)
	raw, err := h.host.Peerstore().PrivKey(h.host.ID()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	from := ledger.KeyOf(ed25519.PrivateKey(raw))
	head := func(net ledger.Net, key ed25519.PrivateKey, next uint64) []byte {
		data, err := ledger.SealHead(ledger.Head{Net: net, Host: ledger.KeyOf(key), Next: next}, key)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good := head(testNet, raw, 50)
	forged := bytes.Clone(good)
	forged[len(forged)-5] ^= 1
	take := func(data []byte) cellproto.Kind { return cellproto.KindOf(w.travel.head(h.host.ID(), from, data)) }
	asked := func() bool {
		w.travel.mu.Lock()
		defer w.travel.mu.Unlock()
		s := w.travel.sources[h.host.ID()]
		return s != nil && s.busy
	}
	if kind := take(good); kind != 0 || asked() {
		t.Errorf("of one who is no neighbour: %v, asked %v", kind, asked())
	}
	w.travel.sources[h.host.ID()] = &source{next: 50}
	for name, c := range map[string]struct {
		data []byte
		want cellproto.Kind
	}{
		"nothing new":        {good, 0},
		"of another network": {head(ledger.NetOf("other"), raw, 90), 0},
		"of another host":    {head(testNet, testKey(1), 90), cellproto.BadInput},
		"no head":            {[]byte{1}, cellproto.BadInput},
		"forged, but old":    {forged, 0},
	} {
		if kind := take(c.data); kind != c.want || asked() {
			t.Errorf("%s: %v, asked %v", name, kind, asked())
		}
	}
	w.travel.sources[h.host.ID()].next, w.travel.sources[h.host.ID()].away = 49, true
	if kind := take(good); kind != 0 || asked() {
		t.Errorf("of one who is no neighbour any more: %v, asked %v", kind, asked())
	}
	w.travel.sources[h.host.ID()].away = false
	if kind := take(forged); kind != cellproto.BadInput || asked() {
		t.Errorf("forged: %v, asked %v", kind, asked())
	}
	w.travel.slots = make(chan struct{}) // it cannot begin
	if kind := take(good); kind != 0 || !asked() {
		t.Errorf("a good one: %v, asked %v", kind, asked())
	}
}

// Neighbours who answer each question with as much as they may, all of it known, do not keep this host from hearing another one.
func TestCrowdOfTalkers(t *testing.T) {
	w := newTown(t)
	known := signedReceipt(t, 5, 6, 1000)
	if err := w.travel.Ingest("somebody", known); err != nil {
		t.Fatal(err)
	}
	many := make([][]byte, maxPull/len(known))
	for i := range many {
		many[i] = known
	}
	for range 12 {
		h := newHostile(t, many...)
		connect(t, w.host, h.host)
		w.travel.ask(t.Context(), h.host.ID())
	}
	replayed := func() uint64 { return w.travel.Metrics().Refused["replayed"] }
	eventually(t, "they talk", func() bool { return replayed() > 0 })
	honest := newHostile(t, signedReceipt(t, 7, 8, 1000))
	connect(t, w.host, honest.host)
	w.travel.ask(t.Context(), honest.host.ID())
	eventually(t, "the honest one is heard", func() bool { return w.registers() == 2 })
	if w.charged.Load() > 0 {
		t.Error("somebody was charged")
	}
}

// What a neighbour tells again costs it a tenth of what is new: after a separation much is read that is known.
func TestKnownEntriesAreCheap(t *testing.T) {
	var l Limiter
	now := time.Unix(1000, 0)
	took := func(again bool) (n int) {
		for end := now.Add(10 * time.Second); now.Before(end); {
			if wait := l.Wait(now, "a"); wait > 0 {
				now = now.Add(wait)
				continue
			}
			if n++; again {
				l.Known("a")
			}
		}
		return n
	}
	took(false)
	fresh := took(false)
	if known := took(true); known < 9*fresh {
		t.Errorf("%d known entries in the time of %d that are new", known, fresh)
	}
}

// Who comes back is asked at once, from where it was left.
func TestNeighbourComesBack(t *testing.T) {
	w, h := newTown(t), newTown(t)
	if err := h.travel.Ingest("somebody", signedReceipt(t, 5, 6, 1000)); err != nil {
		t.Fatal(err)
	}
	p := h.host.ID()
	here := []peer.ID{p}
	w.travel.deps.Neighbours = func() []peer.ID { return here }
	connect(t, w.host, h.host)
	idle := func() bool {
		w.travel.mu.Lock()
		defer w.travel.mu.Unlock()
		s := w.travel.sources[p]
		return s != nil && !s.busy
	}
	w.travel.PullAll(t.Context())
	eventually(t, "it is heard", func() bool { return w.registers() == 1 && idle() })
	here = nil
	w.travel.PullAll(t.Context())
	if err := h.travel.Ingest("somebody", signedReceipt(t, 7, 8, 1000)); err != nil {
		t.Fatal(err)
	}
	here = []peer.ID{p}
	w.travel.pullNew(t.Context())
	eventually(t, "it is heard again", func() bool { return w.registers() == 2 && idle() })
	if n := w.travel.Metrics().Refused["replayed"]; n > 0 {
		t.Errorf("%d entries were read again", n)
	}
	w.travel.pullNew(t.Context())
	if !idle() {
		t.Error("who has not left is asked anew")
	}
}

// However many strangers ask, neighbours are told what is urgent.
func TestStrangersDoNotTakeTheReadersPlaces(t *testing.T) {
	w, n := newTown(t), newTown(t)
	connect(t, w.host, n.host)
	w.travel.deps.Neighbours = func() []peer.ID { return []peer.ID{n.host.ID()} }
	w.travel.PullAll(t.Context())
	reads := func(p peer.ID) bool {
		w.travel.mu.Lock()
		defer w.travel.mu.Unlock()
		_, ok := w.travel.readers[p]
		return ok
	}
	for i := range 2 * maxReaders {
		w.travel.since(peer.ID(fmt.Sprint("stranger ", i)), 0)
	}
	w.travel.since(n.host.ID(), 0)
	for i := range 2 * maxReaders {
		w.travel.since(peer.ID(fmt.Sprint("another ", i)), 0)
	}
	if !reads(n.host.ID()) || w.readers() != maxReaders {
		t.Errorf("the neighbour is told: %v; %d are", reads(n.host.ID()), w.readers())
	}
}
