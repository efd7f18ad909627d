package celltest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// drive has a caller make calls, so many at a time, until stop is closed.
type drive struct {
	made, failed atomic.Int64
	work         sync.WaitGroup
}

func (d *drive) run(c *Cell, width int, stop <-chan struct{}, target, fn string, ms func() int) {
	for range width {
		d.work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				if _, _, err := c.Use(ctx, target, fn, "k", strconv.Itoa(ms())); err != nil {
					d.failed.Add(1)
					time.Sleep(20 * time.Millisecond) // a nucleus that is not there refuses at once
				} else {
					d.made.Add(1)
				}
				cancel()
			}
		})
	}
}

func always(ms int) func() int { return func() int { return ms } }

// gaveTo is with, of what the cell gave.
func (c *Cell) gaveTo(other string) (r ctl.WalletRow) {
	c.t.Helper()
	for _, row := range c.wallet().Registers {
		if row.Peer == other && row.Gave {
			return row
		}
	}
	return r
}

// tookFrom is with, of what the cell took.
func (c *Cell) tookFrom(other string) (r ctl.WalletRow) {
	c.t.Helper()
	for _, row := range c.wallet().Registers {
		if row.Peer == other && !row.Gave {
			return row
		}
	}
	return r
}

// A host whose program has no place left serves its owner at once, then somebody for whose work it is in debt, and
// gives what is left to those who have done nothing for it. What is counted are calls, whose number the program's
// places bound, not how long they take.
func TestPriority(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	busy, worker := n.tally(""), n.tally("")
	busy.Edit("concurrency = 200", "concurrency = 2")
	busy.Start()
	worker.Edit(`name = "tally"`, `name = "worker"`)
	worker.Start()
	cid, work := busy.Publish().CID, worker.Publish().CID
	riders := []*Cell{n.Headless("one"), n.Headless("two")}
	for _, c := range riders {
		c.Start()
	}
	busy.AwaitProviders(work, 1)
	for range 4 {
		if _, _, err := busy.Use(t.Context(), work, "burn", "k", "2000"); err != nil {
			t.Fatal(err)
		}
	}
	even(t, worker, busy, 4)
	for _, c := range append(riders, worker) {
		c.AwaitProviders(cid, 1)
		if _, _, err := c.Use(t.Context(), cid, "pid"); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, "the worker has earned its place", func() bool { return busy.gaveTo(worker.Status().PeerID).Class == "earned" })

	stop := make(chan struct{})
	var earned, strangers drive
	for _, c := range riders {
		strangers.run(c, 6, stop, cid, "slow", always(400))
	}
	earned.run(worker, 8, stop, cid, "slow", always(400))
	Eventually(t, "the host is busy", func() bool { return earned.made.Load() > 8 && strangers.made.Load()+strangers.failed.Load() > 0 })
	was, rode := earned.made.Load(), strangers.made.Load()
	owners := 0
	Eventually(t, "many calls are served", func() bool {
		if _, _, err := busy.Use(t.Context(), busy.Dir, "slow", "k", "1"); err != nil {
			t.Errorf("a call of the owner: %v", err)
		}
		owners++
		return earned.made.Load()-was > 100
	})
	gave, took := earned.made.Load()-was, strangers.made.Load()-rode
	close(stop)
	earned.work.Wait()
	strangers.work.Wait()
	t.Logf("the owner made %d calls and none failed; who has earned it had %d (%d failed), two strangers together %d (%d failed): each %.0f times less",
		owners, gave, earned.failed.Load(), took, strangers.failed.Load(), float64(gave)*2/float64(max(took, 1)))
	if gave < 3*took { // 19 to 1 while the first always waits with a call; a busy machine keeps it from that
		t.Errorf("who has earned it was served %d times, strangers %d times", gave, took)
	}
}

// longTime is how long a test that takes minutes is to take.
func longTime(t *testing.T, usual time.Duration) time.Duration {
	t.Helper()
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("it takes minutes: CELL_LONG=1, and CELL_LEDGER_TIME=60s for another time than " + usual.String())
	}
	text := os.Getenv("CELL_LEDGER_TIME")
	if text == "" {
		return usual
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Ten minutes of real load between two hosts, with short and long calls beside each other: both have the same totals,
// and the processor time in them is what the program's process has used.
func TestTenMinutes(t *testing.T) {
	length := longTime(t, 10*time.Minute)
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	provider := n.tally("")
	provider.Start()
	cid := provider.Publish().CID
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(cid, 1)
	var burnt, slept drive
	stop := make(chan struct{})
	burnt.run(caller, 3, stop, cid, "burn", func() int { return 2 + mrand.IntN(60) })
	slept.run(caller, 5, stop, cid, "slow", func() int { return mrand.IntN(200) })
	time.Sleep(length)
	close(stop)
	burnt.work.Wait()
	slept.work.Wait()
	used := cpuOf(t, provider.Status().ProgramPID)
	made := uint64(burnt.made.Load() + slept.made.Load())
	total := even(t, provider, caller, made)
	if failed := burnt.failed.Load() + slept.failed.Load(); failed > 0 || total.Calls != made {
		t.Errorf("%d calls were made, %d failed, %d were signed for", made, failed, total.Calls)
	}
	share := float64(total.CPUNS) / float64(used)
	t.Logf("%v: %d calls of work and %d that wait; both sides have signed for %d calls, %d µWh, %v of processor time; the process says %v: %.4f of it",
		length, burnt.made.Load(), slept.made.Load(), total.Calls, total.UWH, time.Duration(total.CPUNS), used, share)
	if share < 0.98 || share > 1.02 {
		t.Errorf("%v of processor time was signed for, the process has used %v", time.Duration(total.CPUNS), used)
	}
}

// newIntruder makes a host of a program that is not ours, connected to a cell.
func newIntruder(t *testing.T, c *Cell) (h host.Host, key ed25519.PrivateKey, to peer.ID) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h, err = libp2p.New(libp2p.Identity(priv), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	info, err := peer.AddrInfoFromString(c.Status().Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
	return h, key, info.ID
}

// Who sends ten times what a peer may is cut off after what it may send at once, and costs little until then. What
// it was is counted, and nothing of it is kept.
func TestLedgerFlood(t *testing.T) {
	t.Parallel()
	n := New(t)
	victim := n.Headless("victim")
	victim.Start()
	s := victim.Status()
	const crowd, tenfold = 4, 500
	prices, err := ledger.LoadPrices(1)
	if err != nil {
		t.Fatal(err)
	}
	before, sent := cpuOf(t, s.NucleusPID), 0
	for range crowd {
		h, key, to := newIntruder(t, victim)
		consumer, err := gossip.KeyOf(to)
		if err != nil {
			t.Fatal(err)
		}
		r, err := gossip.Next(ledger.Receipt{ // for nothing: it is refused, which is no breach
			Net: ledger.NetOf(s.Network), Consumer: consumer, Provider: ledger.KeyOf(key), Est: ledger.EstTable, N: 1, Meter: ledger.Meter{CPU: 10e6},
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
		for h.Network().Connectedness(to) == network.Connected && sent < crowd*20*tenfold {
			_, _ = gossip.Bill(t.Context(), h, to, bill, nil)
			sent++
		}
	}
	cpu := cpuOf(t, s.NucleusPID) - before
	each := cpu / time.Duration(sent)
	counts := victim.Status().LedgerEntries
	t.Logf("%d peers were cut off after %d bills in all: %v of processor time each, so %d a second would take %.1f %% of a processor; %v",
		crowd, sent, each, tenfold, 100*(tenfold*each).Seconds(), counts)
	if counts[gossip.Flooding] < crowd || sent >= crowd*20*tenfold {
		t.Errorf("%d bills were taken; %v", sent, counts)
	}
	if w := victim.wallet(); len(w.Registers) > 0 || w.TakenUWH > 0 {
		t.Errorf("%+v", w)
	}
}

// A dear provider, whose program takes three times as long for the same, is paid until three others have been seen.
// Then its bill is not signed, calls go elsewhere, and the wallet says why.
func TestDearProvider(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	first := n.tally("")
	first.Start()
	cid := first.Publish().CID
	all := []*Cell{first}
	for range 3 {
		c := n.Copy(first)
		c.Start()
		all = append(all, c)
	}
	dear := all[3]
	dear.write("data/dear", "3", 0o644)
	caller := n.Headless("caller")
	caller.Start()
	use := func(calls int) {
		for range calls {
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			if _, _, err := caller.Use(ctx, cid, "work", "k", "200"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One after the other is the only one that is there.
	for i, c := range all {
		for _, other := range all {
			if other != c && other.proc != nil {
				other.Stop()
			}
		}
		if c.proc == nil {
			c.Start()
		}
		caller.AwaitProviders(cid, 1)
		id := c.Status().PeerID
		use(20)
		if i < 3 {
			Eventually(t, fmt.Sprintf("provider %d is paid", i), func() bool { r := c.with(caller.Status().PeerID); return r.Calls >= 20 && r.Unsigned == 0 })
			continue
		}
		Eventually(t, "the dear one is not paid", func() bool {
			return strings.Contains(caller.with(id).Refused, "too dear") || strings.Contains(c.with(caller.Status().PeerID).Refused, "too dear")
		})
	}
	if text := caller.Must("wallet", "status", caller.Dir); !strings.Contains(text, "too dear") {
		t.Errorf("the caller's user is not told:\n%s", text)
	}
	first.Start()
	caller.AwaitProviders(cid, 2)
	Eventually(t, "calls go to the other one", func() bool {
		_, meta, err := caller.Use(t.Context(), cid, "pid")
		return err == nil && meta.Provider == first.Status().PeerID
	})
	for range 20 {
		if _, meta, err := caller.Use(t.Context(), cid, "pid"); err != nil || meta.Provider != first.Status().PeerID {
			t.Errorf("%s answered, %v", meta.Provider, err)
		}
	}
}

// ledgerTrouble is what cellctl status --json says is wrong with the ledger.
func (c *Cell) ledgerTrouble() string {
	var s struct {
		Ledger string `json:"ledger_error"`
	}
	if err := json.Unmarshal([]byte(c.Must("status", c.Dir, "--json")), &s); err != nil {
		c.t.Fatal(err)
	}
	return s.Ledger
}

// A list of public goods counts for all cells of who has chosen it, and no other file does.
func TestFavour(t *testing.T) {
	t.Parallel()
	n := New(t)
	dir := t.TempDir()
	cell := n.Headless("cell")
	cell.Start()
	list := filepath.Join(dir, "goods")
	id := cell.Status().PeerID
	n.Must(dir, "ledger", "good", list, id+"=3")
	if out := n.Must(dir, "ledger", "favour", list); !strings.Contains(out, id) || !strings.Contains(out, "3 times") {
		t.Errorf("it says:\n%s", out)
	}
	cell.Stop()
	cell.Start() // else it is looked at within a minute
	if w := cell.wallet(); !strings.Contains(w.PublicGood, "1 identities") {
		t.Errorf("the wallet says %q", w.PublicGood)
	}
	data, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(list, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := n.Ctl(dir, "ledger", "favour", list); r.Code == 0 {
		t.Errorf("a forged list is chosen: %s", r.Stdout)
	}
	if r := n.Ctl(dir, "ledger", "good", list, id+"=9"); r.Code == 0 {
		t.Errorf("a factor of 9 is taken: %s", r.Stdout)
	}
	n.Must(dir, "ledger", "favour", "none")
}
