package celltest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/procfs"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// wallet is what a cell knows of what was given and taken.
func (c *Cell) wallet() ctl.Wallet {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	w, err := (&ctl.Client{Dir: c.Dir}).Wallet(ctx)
	if err != nil {
		c.t.Fatalf("wallet of %s: %v\n%s", c.Dir, err, c.Log())
	}
	return w
}

// with gives what a cell has given to, or taken from, another.
func (c *Cell) with(other string) (r ctl.WalletRow) {
	c.t.Helper()
	for _, row := range c.wallet().Registers {
		if row.Peer == other {
			return row
		}
	}
	return r
}

// cpuOf gives what a process says that it has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	p, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(s.CPUTime() * float64(time.Second))
}

// even waits until both sides have signed the same, for so many calls at least, and gives that.
func even(t *testing.T, provider, caller *Cell, calls uint64) (gave ctl.WalletRow) {
	t.Helper()
	p, c := provider.Status().PeerID, caller.Status().PeerID
	var took ctl.WalletRow
	Eventually(t, "both sides' totals agree", func() bool {
		gave, took = provider.with(c), caller.with(p)
		return gave.Calls >= calls && gave.Unsigned == 0 && gave.UWH == took.UWH
	})
	gave.Peer, gave.Gave, gave.Class = p, false, ""
	if gave != took {
		t.Errorf("the provider has %+v\nthe caller has %+v", gave, took)
	}
	return gave
}

// Two hosts, one of which works for the other: what both have signed is the same, and is what the
// program's process has used, in 400 calls or with CELL_LONG 1500.
func TestAccounts(t *testing.T) {
	t.Parallel()
	calls := 400
	if os.Getenv("CELL_LONG") != "" {
		calls = 1500
	}
	n := New(t)
	n.Bootstrap()
	provider := n.tally("")
	provider.Start()
	cid := provider.Publish().CID
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(cid, 1)
	p, c := provider.Status().PeerID, caller.Status().PeerID

	var made, failed atomic.Int64
	load := func(calls int) {
		for range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if _, _, err := caller.Use(ctx, cid, "burn", "k", "20"); err != nil {
				failed.Add(1)
			} else {
				made.Add(1)
			}
			cancel()
			time.Sleep(20 * time.Millisecond) // the machine is for others too
		}
	}
	load(calls)
	used := cpuOf(t, provider.Status().ProgramPID)
	total := even(t, provider, caller, uint64(made.Load()))
	if failed.Load() > 0 || total.Calls != uint64(made.Load()) {
		t.Errorf("%d calls were made, %d failed, %d were signed for", made.Load(), failed.Load(), total.Calls)
	}
	m, err := (&ctl.Client{Dir: caller.Dir}).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if signed := m.Ledger.Signed; signed == 0 || signed > total.Calls/4 { // whom little is owed signs every second
		t.Errorf("%d signatures for %d calls", signed, total.Calls)
	}
	share := float64(total.CPUNS) / float64(used)
	t.Logf("%d calls, %d signatures, %v signed for, %v used by the process: %.4f; %d µWh", made.Load(), m.Ledger.Signed, time.Duration(total.CPUNS), used, share, total.UWH)
	if share < 0.98 || share > 1.02 {
		t.Errorf("%v of processor time was signed for, the process has used %v", time.Duration(total.CPUNS), used)
	}
	if r := provider.with(c); r.Class != "earned" && r.Class != "stranger" || r.Refused != "" {
		t.Errorf("%+v", r)
	}

	// What one of them has lost the other one has.
	provider.Stop()
	if err := os.RemoveAll(filepath.Join(provider.Dir, "ledger")); err != nil {
		t.Fatal(err)
	}
	provider.Start()
	caller.AwaitProviders(cid, 1)
	load(25)
	Eventually(t, "the provider has heard what it had lost", func() bool { return provider.with(c).UWH > total.UWH })
	even(t, provider, caller, total.Calls+1)

	var donors []ctl.DonorRow
	if err := json.Unmarshal([]byte(caller.Must("donors", caller.Dir, "--json")), &donors); err != nil {
		t.Fatal(err)
	}
	if len(donors) != 1 || donors[0].Peer != p || donors[0].Given != caller.with(p).UWH || donors[0].Owed == 0 {
		t.Errorf("the caller's donors are %+v", donors)
	}
	if err := json.Unmarshal([]byte(caller.Must("donors", caller.Dir, "--root", p, "--json")), &donors); err != nil || len(donors) != 0 {
		t.Errorf("seen from the provider, donors are %+v (%v)", donors, err)
	}

	for _, c := range []struct {
		says string
		cut  int   // bytes that are missing at the end
		at   []int // which are changed, from the end if it is below 0
	}{
		{"not whole", 9, nil},                 // as a crash leaves it
		{"is put aside", 0, []int{-1}},        // all that was written is there, so it was written otherwise
		{"is put aside", 0, []int{spoilt}},    // what is behind it was synced, and is kept
		{"is put aside", 0, []int{0, spoilt}}, // one whose begin is wrong is no end that a crash has left
	} {
		provider.Stop()
		spoil(t, filepath.Join(provider.Dir, "ledger"), c.cut, c.at...)
		provider.Start()
		if r := provider.Ctl("doctor", provider.Dir); !strings.Contains(r.Stdout, c.says) {
			t.Errorf("doctor does not say that it %s:\n%s", c.says, r.Stdout)
		}
		if r := provider.Ctl("status", provider.Dir); !strings.Contains(r.Stdout, c.says) {
			t.Errorf("status does not say that it %s:\n%s", c.says, r.Stdout)
		}
		caller.AwaitProviders(cid, 1)
		again := caller.with(p)
		load(25)
		even(t, provider, caller, again.Calls+1)
	}

	file := filepath.Join(t.TempDir(), "export")
	caller.Must("wallet", "export", file, caller.Dir)
	var checked struct {
		OK     bool
		Totals []struct {
			UWH      uint64
			SignedBy string `json:"signed_by"`
		}
	}
	if err := json.Unmarshal([]byte(n.Must(t.TempDir(), "ledger", "verify", file, "--json")), &checked); err != nil {
		t.Fatal(err)
	}
	if !checked.OK || len(checked.Totals) != 1 || checked.Totals[0].SignedBy != "both" || checked.Totals[0].UWH != caller.with(p).UWH {
		t.Errorf("the export says %+v", checked)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[60] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := n.Ctl(t.TempDir(), "ledger", "verify", file); r.Code == 0 {
		t.Errorf("a changed export is in order: %s", r.Stdout)
	}
}

// spoilt is a byte of the first record of a segment.
const spoilt = 100

// spoil cuts bytes off a ledger's segment that has several records, and changes some.
func spoil(t *testing.T, dir string, cut int, at ...int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 400 {
			for _, i := range at {
				data[(i+len(data))%len(data)] ^= 1
			}
			if err := os.WriteFile(name, data[:len(data)-cut], 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no segment of %q has several records", names)
}

// A caller that never signs is told from others.
func TestCallerThatNeverSigns(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	provider := n.tally("[auth]\nchallenge = \"none\"\n")
	provider.Start()
	cid := provider.Publish().CID
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	info, err := peer.AddrInfoFromString(provider.Status().Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
	s, err := h.NewStream(t.Context(), info.ID, cellproto.ProtocolCall)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := cellproto.NewConn(streamOf{s}, cellproto.Config{Opener: true, Hello: cellproto.Hello{Agent: "free rider", Cell: cid, Codecs: []uint{uint(cellproto.JSON)}}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = conn.Run() }()
	defer func() { conn.Close(); <-ended }()
	if _, err := conn.Call(t.Context(), &cellproto.Request{
		Header: cellproto.Header{Func: "burn", Codec: cellproto.JSON}, Payload: []byte(`{"key":"k","ms":200}`),
	}); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "the provider knows", func() bool {
		r := provider.with(h.ID().String())
		return r.Refused != "" && r.Class == "stranger" && r.UWH == 0 && r.Unsigned > 0
	})
	if !strings.Contains(provider.Must("wallet", "status", provider.Dir), "not signed") {
		t.Error("its user is not told")
	}
}

type streamOf struct{ network.Stream }

// A nucleus whose ledger cannot be opened serves on, and says so.
func TestLedgerWithoutDisk(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	provider := n.tally("")
	provider.write("ledger", "not a directory", 0o600)
	provider.Start()
	cid := provider.Publish().CID
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(cid, 1)
	if _, _, err := caller.Use(t.Context(), cid, "burn", "k", "1"); err != nil {
		t.Errorf("a call: %v", err)
	}
	if s := provider.Status(); s.Ledger == "" {
		t.Error("status does not say it")
	}
	if w := provider.wallet(); w.Error == "" || len(w.Registers) != 0 {
		t.Errorf("%+v", w)
	}
	r := provider.Ctl("doctor", provider.Dir)
	if !strings.Contains(r.Stdout, "ledger") || r.Code == 0 {
		t.Errorf("doctor: exit code %d\n%s", r.Code, r.Stdout)
	}
}

// Nobody signs a bill of somebody whom it has not called, and whoever forges one breaks the protocol.
func TestStrangersBill(t *testing.T) {
	t.Parallel()
	n := New(t)
	victim := n.Headless("victim")
	victim.Start()
	s := victim.Status()
	info, err := peer.AddrInfoFromString(s.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := gossip.KeyOf(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(hostKey), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
	prices, err := ledger.LoadPrices(1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gossip.Next(ledger.Receipt{
		Net: ledger.NetOf(s.Network), Consumer: consumer, Provider: ledger.KeyOf(key), Est: ledger.EstTable, N: 1,
		Meter: ledger.Meter{CPU: 10e6, Wall: 10e6, In: 100, Out: 100},
	}, nil, prices)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := ledger.SealReceipt(r, key, ledger.RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	bill, err := signed.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var refused *gossip.Refusal
	if _, err := gossip.Bill(t.Context(), h, info.ID, bill, nil); !errors.As(err, &refused) || refused.Kind != cellproto.Denied {
		t.Errorf("a bill of %d µWh for nothing: %v", r.Credit, err)
	}
	if w := victim.wallet(); w.TakenUWH != 0 {
		t.Errorf("%+v", w)
	}
	// The receipt that is to come before it is forged: again and again, and the peer is cut off.
	bill[len(bill)-10] ^= 1
	Eventually(t, "who forges is cut off", func() bool {
		_, _ = gossip.Bill(t.Context(), h, info.ID, bill, bill)
		return h.Network().Connectedness(info.ID) == network.NotConnected
	})
}
