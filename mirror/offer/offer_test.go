package offer

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/addrgroup"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Started by the init functions of libraries, for the life of the process.
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreAnyFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"),
	)
}

// machine is a donor's machine.
type machine struct {
	refusal error
	take    func(ctx context.Context, step func(string)) (peer.AddrInfo, error)

	mu    sync.Mutex
	takes int
}

func (m *machine) Consider(context.Context, Asker, Offer, *signed.Manifest) error { return m.refusal }

func (m *machine) Take(ctx context.Context, _ Asker, _ Offer, _ *signed.Manifest, step func(string)) (peer.AddrInfo, error) {
	m.mu.Lock()
	m.takes++
	m.mu.Unlock()
	return m.take(ctx, step)
}

func newHost(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func infoOf(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

// donor starts a donor. What its streams end with arrives at ended.
func donor(t testing.TB, m *machine) (info peer.AddrInfo, s *Server, ended <-chan error) {
	t.Helper()
	h := newHost(t)
	s = NewServer(m, zap.NewNop())
	t.Cleanup(s.Close)
	ends := make(chan error, 64)
	h.SetStreamHandler(cellproto.ProtocolHost, func(st network.Stream) {
		err := s.Serve(st)
		if err != nil {
			st.Reset()
		} else {
			st.Close()
		}
		ends <- err
	})
	return infoOf(h), s, ends
}

var account = func() crypto.PrivKey {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

// cell gives an offer of a cell of that name.
func cell(t testing.TB, name string) Offer {
	t.Helper()
	block, id, err := signed.SealManifest(signed.Manifest{Name: name, Version: "1.0.0", Created: 1, Privacy: "public"}, account)
	if err != nil {
		t.Fatal(err)
	}
	return Offer{Cell: id, Block: block, Providers: []peer.AddrInfo{testPeer()}}
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ask(t testing.TB, h host.Host, donor peer.AddrInfo, o Offer) *Talk {
	t.Helper()
	talk, err := Ask(soon(t), h, donor, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(talk.Close)
	return talk
}

func TestTake(t *testing.T) {
	where := testPeer()
	m := &machine{take: func(_ context.Context, step func(string)) (peer.AddrInfo, error) {
		step("fetching\x1b")
		return where, nil
	}}
	d, _, _ := donor(t, m)
	talk := ask(t, newHost(t), d, cell(t, "calculator"))
	if talk.Refusal != nil || talk.RTT <= 0 || talk.Donor != d.ID {
		t.Fatalf("%+v", talk)
	}
	var steps []string
	got, err := talk.Take(soon(t), func(s string) { steps = append(steps, s) })
	if err != nil || got.ID != where.ID || len(got.Addrs) != 2 || !got.Addrs[0].Equal(where.Addrs[0]) {
		t.Errorf("%+v, %v", got, err)
	}
	if len(steps) > 1 || len(steps) == 1 && steps[0] != "fetching" { // the last one may be overtaken by the end
		t.Errorf("%q", steps)
	}
}

// No and when arrive with their reason; so does what goes wrong later.
func TestRefusals(t *testing.T) {
	when := cellproto.Errorf("take it", cellproto.Overloaded, "the owner is back")
	when.RetryAfter = 90 * time.Second
	for _, refusal := range []*cellproto.Error{when, cellproto.Errorf("take it", cellproto.Denied, "not this publisher")} {
		d, _, ended := donor(t, &machine{refusal: refusal})
		talk := ask(t, newHost(t), d, cell(t, "calculator"))
		if r := talk.Refusal; r == nil || r.Kind != refusal.Kind || r.RetryAfter != refusal.RetryAfter || !strings.Contains(r.Error(), refusal.Err.Error()) {
			t.Errorf("%v arrives as %v", refusal, r)
		}
		if err := <-ended; err != nil {
			t.Errorf("a refusal is no breach: %v", err)
		}
	}
	m := &machine{take: func(context.Context, func(string)) (peer.AddrInfo, error) {
		return peer.AddrInfo{}, cellproto.Errorf("fetch", cellproto.Corrupt, "another program came")
	}}
	d, _, _ := donor(t, m)
	talk := ask(t, newHost(t), d, cell(t, "calculator"))
	if _, err := talk.Take(soon(t), func(string) {}); cellproto.KindOf(err) != cellproto.Corrupt || !strings.Contains(err.Error(), "another program came") {
		t.Errorf("%v", err)
	}
}

func TestNoDonor(t *testing.T) {
	if _, err := Ask(soon(t), newHost(t), infoOf(newHost(t)), cell(t, "calculator")); cellproto.KindOf(err) != cellproto.Unsupported {
		t.Errorf("%v", err)
	}
}

// Two who offer the same cell at once get the same mirror, which is made once; it goes on for the one
// when the other leaves, and ends when nobody is left.
func TestOneMirrorForAll(t *testing.T) {
	begun, finish, given := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	m := &machine{take: func(ctx context.Context, step func(string)) (peer.AddrInfo, error) {
		close(begun)
		select {
		case <-finish:
			return testPeer(), nil
		case <-ctx.Done():
			given <- struct{}{}
			return peer.AddrInfo{}, ctx.Err()
		}
	}}
	d, s, _ := donor(t, m)
	o := cell(t, "calculator")
	type result struct {
		info peer.AddrInfo
		err  error
	}
	results := make(chan result, 3)
	leaving, leave := context.WithCancel(t.Context())
	defer leave()
	take := func(ctx context.Context) {
		talk := ask(t, newHost(t), d, o)
		go func() {
			info, err := talk.Take(ctx, func(string) {})
			results <- result{info, err}
		}()
	}
	take(leaving)
	<-begun
	take(soon(t))
	take(soon(t))
	waiting := func() (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range s.takes {
			t.mu.Lock()
			n += t.waiting
			t.mu.Unlock()
		}
		return n
	}
	until(t, "all three wait", func() bool { return waiting() == 3 })
	leave()
	if r := <-results; cellproto.KindOf(r.err) != cellproto.Canceled {
		t.Errorf("who has left: %v", r.err)
	}
	until(t, "the one that left is gone", func() bool { return waiting() == 2 })
	close(finish)
	for range 2 {
		if r := <-results; r.err != nil || r.info.ID != testPeer().ID {
			t.Errorf("%+v, %v", r.info, r.err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.takes != 1 || len(given) != 0 {
		t.Errorf("it was made %d times, and given up %d times", m.takes, len(given))
	}
}

// Nobody waits any more: it is given up. Meanwhile another one of the same peer is not taken up.
func TestGivenUp(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	m := &machine{take: func(ctx context.Context, _ func(string)) (peer.AddrInfo, error) {
		close(begun)
		<-ctx.Done()
		close(over)
		return peer.AddrInfo{}, ctx.Err()
	}}
	d, _, _ := donor(t, m)
	h := newHost(t)
	talk := ask(t, h, d, cell(t, "calculator"))
	go talk.Take(soon(t), func(string) {}) // ends with Close, below
	<-begun
	if r := ask(t, h, d, cell(t, "counter")).Refusal; cellproto.KindOf(r) != cellproto.Overloaded || r.RetryAfter == 0 {
		t.Errorf("a second one at once: %v", r)
	}
	talk.Close()
	select {
	case <-over:
	case <-soon(t).Done():
		t.Error("it goes on for nobody")
	}
}

// Who breaks the protocol is named as such.
func TestBreaches(t *testing.T) {
	m := &machine{}
	d, _, ended := donor(t, m)
	forged := cell(t, "calculator")
	forged.Cell = cell(t, "counter").Cell
	if _, err := Ask(soon(t), newHost(t), d, forged); err == nil {
		t.Error("a forged manifest is answered")
	}
	if err := <-ended; cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("a forged manifest ends with %v", err)
	}
	for _, c := range []struct {
		name string
		data []byte
		kind cellproto.Kind
	}{
		{"a take before the offer", message(typeTake, nil), cellproto.BadInput},
		{"too much", []byte{0xff, 0, 0, 0, typeOffer}, cellproto.TooLarge},
		{"only pings", []byte(strings.Repeat(string(message(typePing, nil)), maxPings+1)), cellproto.BadInput},
		{"half a message", message(typeOffer, make([]byte, 100))[:50], cellproto.Unavailable},
	} {
		h := newHost(t)
		if err := h.Connect(soon(t), d); err != nil {
			t.Fatal(err)
		}
		st, err := h.NewStream(soon(t), d.ID, cellproto.ProtocolHost)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write(c.data); err != nil {
			t.Fatal(err)
		}
		st.CloseWrite()
		if err := <-ended; cellproto.KindOf(err) != c.kind {
			t.Errorf("%s ends with %v", c.name, err)
		}
		st.Reset()
	}
}

// One who opens streams and says nothing leaves room for the others.
func TestSilentStreams(t *testing.T) {
	d, s, _ := donor(t, &machine{refusal: cellproto.Errorf("take it", cellproto.Denied, "no")})
	silent := newHost(t)
	if err := silent.Connect(soon(t), d); err != nil {
		t.Fatal(err)
	}
	for range maxStreams + 8 {
		st, err := silent.NewStream(soon(t), d.ID, cellproto.ProtocolHost)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Reset()
		_, _ = st.Write([]byte{0}) // it has been opened; of those past the limit nobody listens
	}
	open := func() int { s.mu.Lock(); defer s.mu.Unlock(); return s.streams.all }
	until(t, "they are open", func() bool { return open() >= maxPeerStreams })
	if talk := ask(t, newHost(t), d, cell(t, "calculator")); talk.Refusal == nil {
		t.Error("it says yes")
	}
	if n := open(); n > maxPeerStreams+1 {
		t.Errorf("one peer has %d streams", n)
	}
}

func TestQuota(t *testing.T) {
	q, now := newQuota(), time.Unix(1_000_000, 0)
	take := func(peer, group string) bool { return q.take(now, Asker{Peer: testID(peer), Group: group}) == nil }
	for i := range quotaPeer {
		if !take("a", "g") {
			t.Fatalf("offer %d is refused", i)
		}
	}
	if take("a", "g") {
		t.Error("one peer has no limit")
	}
	n := 0
	for i := range 2 * quotaGroup {
		if take(string(rune('b'+i)), "g") {
			n++
		}
	}
	if n != quotaGroup-quotaPeer {
		t.Errorf("%d more of the same network", n)
	}
	if !take("z", "other") {
		t.Error("another network has no room")
	}
	now = now.Add(quotaWindow + quotaWindow/2) // half of the first minute's count still
	n = 0
	for range quotaPeer {
		if take("a", "g") {
			n++
		}
	}
	if n != quotaPeer/2 {
		t.Errorf("%d in the minute after", n)
	}
	now = now.Add(3 * quotaWindow)
	if !take("a", "g") {
		t.Error("it is not forgotten")
	}
	if err := newQuota().take(time.Unix(0, 0), Asker{}); err != nil {
		t.Error(err)
	}
}

// The places of a donor are shared: two networks that take what they can get leave room for the next ones, of streams and
// of offers in a minute.
func TestGreedyNetworks(t *testing.T) {
	s := NewServer(&machine{}, zap.NewNop())
	var entered []Asker
	t.Cleanup(func() {
		for _, a := range entered {
			s.leave(a)
		}
		s.Close()
	})
	q, now := newQuota(), time.Unix(1_000_000, 0)
	for name, c := range map[string]struct {
		most  int
		enter func(a Asker) bool
	}{
		"streams": {maxStreams, func(a Asker) bool {
			if !s.enter(a) {
				return false
			}
			entered = append(entered, a)
			return true
		}},
		"offers": {quotaAll, func(a Asker) bool { return q.take(now, a) == nil }},
	} {
		greedy := func(group string) (n int) {
			for i := range 2 * c.most {
				if c.enter(Asker{Peer: testID(fmt.Sprint(group, i)), Group: group}) {
					n++
				}
			}
			return n
		}
		all, before := 0, c.most
		for g := range 6 {
			n := greedy(fmt.Sprint("net", g))
			if n == 0 || n > before || 2*n > c.most-all+2 {
				t.Errorf("%s: network %d has %d places when %d of %d were held; the one before has %d", name, g, n, all, c.most, before)
			}
			all, before = all+n, n
		}
		if all >= c.most || !c.enter(Asker{Peer: testID("good"), Group: "good"}) {
			t.Errorf("%s: six networks hold %d of %d", name, all, c.most)
		}
	}
}

func testID(name string) peer.ID { return peer.ID(name) }

// until waits for what has no event to wait for.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := soon(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still not: %s", what)
		}
	}
}

// A relay is nobody's network: whoever is behind one may be behind as many as there are.
func TestGroupOf(t *testing.T) {
	const relayed = "/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC/p2p-circuit"
	for addr, want := range map[string]string{
		"/ip4/8.8.8.8/tcp/1":               "8.8.8.0/24",
		"/ip4/8.8.8.8/tcp/1" + relayed:     addrgroup.Relayed,
		"/ip4/9.9.9.9/tcp/1" + relayed:     addrgroup.Relayed,
		"/ip4/192.168.1.1/tcp/1" + relayed: addrgroup.Relayed,
		"/ip4/192.168.1.1/tcp/1":           "192.168.1.1",
		"/ip4/127.0.0.1/tcp/1":             "127.0.0.1",
		"/dns4/example.org/tcp/1":          "",
	} {
		if got := GroupOf(ma.StringCast(addr)); got != want {
			t.Errorf("%s is of the network %q, want %q", addr, got, want)
		}
	}
}
