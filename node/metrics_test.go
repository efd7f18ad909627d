package node

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// watchedHome gives a home cell that hears whom it is connected to, and charges those who break the protocol.
func watchedHome(t *testing.T) *account {
	t.Helper()
	home := t.TempDir()
	o := openHome(t, home, nil)
	o.networked(t)
	a := o.a
	a.n.log, a.n.gater = zap.NewNop(), newGater(true, nil)
	a.travel = gossip.NewTravel(gossip.Config{Net: a.net, Key: a.key, Account: o.id}, gossip.Deps{
		Host: a.n.host, Ledger: a.led, Neighbours: a.n.host.Network().Peers, Charge: a.n.charge, Log: zap.NewNop(),
	})
	a.n.handle(cellproto.ProtocolLedger, func(s network.Stream) error { return a.travel.Serve(s, a) })
	return o
}

// series reads what Prometheus would of a metric.
func (o *account) series(t *testing.T, name string) float64 {
	t.Helper()
	var text strings.Builder
	if err := expose(&text, ctl.Metrics{Ledger: o.a.metrics()}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no %s in\n%s", name, text.String())
	return 0
}

// teller is what a host answers to each question.
type teller struct{ entries [][]byte }

func (teller) Sign(ledger.Key, []byte, []byte) ([]byte, error)    { return nil, nil }
func (h teller) Since(uint64) ([][]byte, uint64)                  { return h.entries, 1 }
func (teller) Head(ledger.Key, []byte) error                      { return nil }
func (teller) Entries(ledger.Key, uint64, int) ([][]byte, uint64) { return nil, 0 }
func (teller) Consents(ledger.Key) ([]*ledger.Delegate, error)    { return nil, nil }
func seeded(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}
func (o *account) offences(p peer.ID) int {
	o.a.n.gater.mu.RLock()
	defer o.a.n.gater.mu.RUnlock()
	return len(o.a.n.gater.broken[p])
}

// meets connects a host that tells these entries.
func (o *account) meets(t *testing.T, entries ...[]byte) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) { _ = gossip.Serve(s, teller{entries}); s.Close() })
	if err := o.a.n.host.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	return h
}

// ledgerBytes gives all that a ledger has, in memory and on its disk.
func (o *account) ledgerBytes(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	var err error
	o.a.led.View(func(book *ledger.Book) { err = book.Export(&b) })
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(o.home, ledgerDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := readBounded(f, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %x", f, data)
	}
	return b.String()
}

func receiptOf(t *testing.T, net ledger.Net, credit uint64) []byte {
	t.Helper()
	consumer := seeded(5)
	s, err := ledger.SealReceipt(ledger.Receipt{Net: net, Consumer: ledger.KeyOf(consumer), Provider: ledger.KeyOf(seeded(6)), N: credit, Credit: credit, Est: 4, MeterV: 1}, consumer, ledger.RoleConsumer)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Whatever bad thing a peer sends, over the wire: the metric of its sort rises, its sender is charged (a breach of the protocol, or what
// every entry costs of what it may send), and nothing is stored.
func TestBadEntriesAreCounted(t *testing.T) {
	o := watchedHome(t)
	known := receiptOf(t, o.a.net, 1000)
	mark(t, o, known)
	forged := receiptOf(t, o.a.net, 3000)
	forged[len(forged)-20] ^= 1
	for _, c := range []struct {
		kind   string
		entry  []byte
		breach int
	}{
		{"malformed", []byte("no entry"), 1},
		{"oversized", make([]byte, cellproto.MaxLedgerEntry+1), 1},
		{"non_canonical", append([]byte{0x98, 3}, known[1:]...), 1},
		{"foreign", receiptOf(t, ledger.NetOf("other"), 5000), 0},
		{"forged", forged, 1},
		{"replayed", known, 0},
		{"reordered", receiptOf(t, o.a.net, 500), 0},
	} {
		t.Run(c.kind, func(t *testing.T) {
			name := "celld_ledger_refused_total" + label("kind", c.kind)
			before, taken, bytesIn := o.series(t, name), o.series(t, "celld_ledger_entries_taken_total"), o.series(t, `celld_ledger_gossip_bytes_total{direction="in"}`)
			stored := o.ledgerBytes(t)
			h := o.meets(t, c.entry)
			defer h.Close()
			o.a.travel.PullAll(t.Context())
			waitFor(t, "it is counted", func() bool { return o.series(t, name) == before+1 && o.offences(h.ID()) == c.breach })
			if o.series(t, "celld_ledger_entries_taken_total") != taken || o.ledgerBytes(t) != stored {
				t.Error("something of it is stored")
			}
			if got := o.series(t, `celld_ledger_gossip_bytes_total{direction="in"}`) - bytesIn; got < float64(len(c.entry)) {
				t.Errorf("%v bytes have come", got)
			}
		})
	}
}

// mark has the home cell take an entry, on its disk too.
func mark(t *testing.T, o *account, entry []byte) {
	t.Helper()
	debt := ledger.Receipt{Net: o.a.net, Consumer: o.a.self, Provider: ledger.KeyOf(seeded(6)), N: 1, Credit: 1000, Est: 4, MeterV: 1}
	if _, err := o.a.led.SignTotal(time.Now(), debt, ledger.RoleConsumer, o.a.key); err != nil { // so that it matters here
		t.Fatal(err)
	}
	if r := o.a.led.Ingest(time.Now(), entry); r.Verdict != ledger.Stored {
		t.Fatal(r.Verdict, r.Err)
	}
	if err := o.a.led.Tick(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
}

// The text is one that Prometheus reads, whatever there is: names, types, and each series once.
func TestExposition(t *testing.T) {
	var text strings.Builder
	m := ctl.Metrics{Served: 1 << 40, Ledger: &ctl.LedgerMetrics{Refused: map[string]uint64{"forged": 3}, DiskFails: true}}
	if err := expose(&text, m); err != nil {
		t.Fatal(err)
	}
	sampled := regexp.MustCompile(`^(celld_[a-z_]+)(\{[a-z]+="[a-z_]+"\})? ([0-9.e+]+)$`)
	seen, typed := map[string]bool{}, ""
	for line := range strings.Lines(text.String()) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			typed, _, _ = strings.Cut(name, " ")
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		got := sampled.FindStringSubmatch(line)
		if got == nil || got[1] != typed || seen[got[1]+got[2]] {
			t.Errorf("%q, of %s", line, typed)
			continue
		}
		seen[got[1]+got[2]] = true
	}
	for _, want := range []string{`celld_ledger_refused_total{kind="forged"} 3`, "celld_ledger_disk_fails 1", "celld_calls_served_total 1.099511627776e+12"} {
		if !strings.Contains(text.String(), want+"\n") {
			t.Errorf("there is no %q in\n%s", want, text.String())
		}
	}
}

// Who sends more than a peer may is counted, cut off, and nothing of it is stored.
func TestFloodIsCounted(t *testing.T) {
	o := watchedHome(t)
	stored := o.ledgerBytes(t)
	h := o.meets(t)
	sent := 0
	for ; sent < 5000 && h.Network().Connectedness(o.a.n.host.ID()) == network.Connected; sent++ {
		_, _, _ = gossip.Pull(t.Context(), h, o.a.n.host.ID(), 0)
	}
	if n := o.series(t, `celld_ledger_refused_total{kind="flooding"}`); n < 1 || sent == 5000 || !o.a.n.gater.isBlocked(h.ID()) {
		t.Errorf("%v of %d questions are a flood, and it is cut off: %v", n, sent, o.a.n.gater.isBlocked(h.ID()))
	}
	if o.ledgerBytes(t) != stored {
		t.Error("something of it is stored")
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
