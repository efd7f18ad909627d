package celltest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// of is what a machine's home cell says.
func (n *Net) of() (w ctl.Wallet) {
	n.t.Helper()
	decode(n.t, n.Must(n.root, "wallet", "status", "--json"), &w)
	return w
}

func decode(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// hears waits for what has to travel from neighbour to neighbour, a minute each.
func hears(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * Patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	Eventually(t, what, ok)
}

// One person's host works for another person: the account gets the credit, others know whose the host is, and
// what the account donates arrives. A host that is revoked is believed no more.
func TestHostsOfAnAccount(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	anna, bert := n.Machine(), n.Machine()
	if w := anna.of(); len(w.Hosts) != 0 || w.Delegation == "" {
		t.Errorf("before there is a second host: %+v", w)
	}
	provider := anna.tally("")
	provider.Start()
	Eventually(t, "both hosts are the account's", func() bool { return len(anna.of().Hosts) == 2 })
	cid := provider.Publish().CID
	account := bert.of().Account
	bert.home.AwaitProviders(cid, 1)
	for range 5 {
		if _, _, err := bert.home.Use(t.Context(), cid, "burn", "k", "50"); err != nil {
			t.Fatal(err)
		}
	}
	p := provider.Status().PeerID
	gave := even(t, provider, bert.home, 5)
	if w := anna.of(); w.GivenUWH != gave.UWH || w.TakenUWH != 0 || w.Priority != "earned" || w.Hosts[0].Peer != p || w.Hosts[0].GivenUWH != gave.UWH {
		t.Errorf("its host gave %d µWh, the account says %+v", gave.UWH, w)
	}
	if w := bert.of(); w.TakenUWH != gave.UWH {
		t.Errorf("taken %d, not %d", w.TakenUWH, gave.UWH)
	}
	owes := anna.of().Account
	hears(t, "the caller knows whose the host is", func() bool {
		var donors []ctl.DonorRow
		decode(t, bert.Must(bert.root, "donors", "--json"), &donors)
		return len(donors) == 1 && donors[0].Peer == owes && donors[0].Owed == gave.UWH
	})

	var d ctl.Donated
	decode(t, anna.Must(anna.root, "wallet", "donate", account, "3uWh", "--purpose", "for the archive", "--json"), &d)
	if d.UWH != 3 || d.Times != 1 || !d.Covered {
		t.Errorf("%+v", d)
	}
	hears(t, "the donation arrives", func() bool {
		w := bert.of()
		return len(w.Donations) == 1 && w.Donations[0].Purpose == "for the archive" && w.Donations[0].UWH == 3 && w.GivenUWH == 3
	})
	if w := anna.of(); w.TakenUWH != 3 || len(w.Donations) != 1 {
		t.Errorf("%+v", w)
	}
	file := filepath.Join(t.TempDir(), "export")
	bert.Must(bert.root, "wallet", "export", file)
	type export struct {
		OK         bool
		Donations  []struct{ UWH uint64 }
		Identities []struct{ Hosts, Revoked []string }
	}
	has := func(x export, hosts, revoked int) bool { // among others: who was given something has a key log, too
		for _, id := range x.Identities {
			if len(id.Hosts) == hosts && len(id.Revoked) == revoked {
				return true
			}
		}
		return false
	}
	var checked export
	decode(t, n.Must(t.TempDir(), "ledger", "verify", file, "--json"), &checked)
	if !checked.OK || len(checked.Donations) != 1 || !has(checked, 2, 0) {
		t.Errorf("the export says %+v", checked)
	}

	anna.Must(anna.root, "wallet", "revoke", "tally")
	if r := anna.Ctl(anna.root, "wallet", "revoke", "tally"); r.Code != 3 {
		t.Errorf("revoked twice: exit code %d, %s", r.Code, r.Stderr)
	}
	hears(t, "the caller knows that the host was revoked", func() bool {
		bert.Must(bert.root, "wallet", "export", file)
		var checked export
		decode(t, n.Must(t.TempDir(), "ledger", "verify", file, "--json"), &checked)
		return has(checked, 1, 1)
	})
	if _, _, err := bert.home.Use(t.Context(), cid, "burn", "k", "50"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "nobody signs for a host that was revoked", func() bool {
		r := provider.with(bert.home.Status().PeerID)
		return strings.Contains(r.Refused, "revoked") && r.UWH == gave.UWH
	})
	if w := anna.of(); w.GivenUWH != gave.UWH {
		t.Errorf("what the host gave before is the account's: %d, not %d", w.GivenUWH, gave.UWH)
	}
}

// What a machine does for others is a pool's, if its owner wants it so.
func TestHostingForAPool(t *testing.T) {
	t.Parallel()
	n := New(t)
	original, published := n.provide("calculator")
	donor := n.Machine()
	donor.Must(donor.root, "pool", "create", "archive")
	donor.give("--credit-to", "archive")
	Eventually(t, "it gives", func() bool { return donor.giving("give", "status").Running })
	caller := n.wanting("caller")
	by, stop := caller.load(published.CID)
	t.Cleanup(func() { stop() })
	Eventually(t, "a donor has a copy", func() bool { return caller.placement(published.CID).State == ctl.PlacementThere })
	t.Cleanup(func() {
		if t.Failed() {
			copied := donor.At(donor.giving("give", "status").Hosted[0].Dir)
			t.Logf("the copy %s has answered the last call: %v; it says %+v, the caller %+v", caller.placement(published.CID).Mirror,
				by.last(1, caller.placement(published.CID).Mirror, time.Now()), copied.wallet(), caller.wallet())
		}
	})
	original.Stop() // it is as near as the copy, which might else be called by nobody
	var pools []ctl.PoolRow
	Eventually(t, "the pool is credited", func() bool {
		decode(t, donor.Must(donor.root, "pool", "status", "archive", "--json"), &pools)
		return len(pools) == 1 && pools[0].Given > 0
	})
	if w := donor.of(); w.GivenUWH != 0 {
		t.Errorf("its host is credited, too: %d µWh", w.GivenUWH)
	}
}

// A home cell that comes from a backup learns what it has signed since before it signs anything else.
func TestHomeFromBackup(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	anna := n.Machine()
	anna.of()
	ledger := filepath.Join(anna.home.Dir, "ledger")
	backup := filepath.Join(t.TempDir(), "ledger")
	var cells []*Cell
	start := func(name string, hosts int) {
		c := anna.Headless(name)
		c.Start()
		cells = append(cells, c)
		hears(t, name+" is the account's, and all know it", func() bool {
			for _, c := range cells {
				if len(c.wallet().Hosts) != hosts {
					return false
				}
			}
			return true
		})
	}
	start("one", 2)
	anna.Must(anna.root, "stop", anna.home.Dir)
	if err := os.CopyFS(backup, os.DirFS(ledger)); err != nil {
		t.Fatal(err)
	}
	start("two", 3) // which starts the home cell
	anna.Must(anna.root, "stop", anna.home.Dir)
	if err := os.RemoveAll(ledger); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(ledger, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	start("three", 4)
	file := filepath.Join(t.TempDir(), "export")
	for _, c := range append(cells, anna.home) {
		anna.Must(anna.root, "wallet", "export", file, c.Dir)
		var checked struct {
			OK         bool
			Identities []struct {
				Entries uint64
				Banned  bool
			}
		}
		decode(t, n.Must(t.TempDir(), "ledger", "verify", file, "--json"), &checked)
		if !checked.OK || len(checked.Identities) != 1 || checked.Identities[0].Entries != 5 || checked.Identities[0].Banned {
			t.Errorf("%s says %+v", c.Dir, checked)
		}
	}
}

// The home cell is killed while it donates, again and again: what it has said is there, the total goes on, and
// nobody sees it contradict itself.
func TestDonorIsKilled(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	anna, bert := n.Machine(), n.Machine()
	account := bert.of().Account
	kills := 4
	if os.Getenv("CELL_LONG") != "" {
		kills = 40
	}
	said := uint64(0)
	for k := range kills {
		anna.Must(anna.root, "wallet", "donate", account, "1uWh")
		said++
		pid, err := strconv.Atoi(strings.TrimSpace(string(readFile(t, filepath.Join(anna.home.Dir, "run", "pid")))))
		if err != nil {
			t.Fatal(err)
		}
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(time.Duration(k%4) * 7 * time.Millisecond) // wherever that is
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}()
		for range 5 {
			if anna.Ctl(anna.root, "wallet", "donate", account, "1uWh").Code == 0 {
				said++
			}
		}
		<-killed
		Eventually(t, "the home cell is back", func() bool { return anna.Ctl(anna.root, "wallet", "status").Code == 0 })
		w := anna.of()
		if len(w.Donations) != 1 || w.Donations[0].Times < said || w.Donations[0].UWH != w.Donations[0].Times {
			t.Fatalf("kill %d: %d donations were said to be made: %+v", k, said, w.Donations)
		}
		said = w.Donations[0].Times // those too that were made and not said
	}
	hears(t, "all of it arrives", func() bool { w := bert.of(); return len(w.Donations) == 1 && w.Donations[0].Times == said })
	for _, v := range []string{"forked", "forged", "decreasing", "malformed"} {
		if got := bert.of().Dropped[v]; got != 0 {
			t.Errorf("%d entries were %s", got, v)
		}
	}
	file := filepath.Join(t.TempDir(), "export")
	anna.Must(anna.root, "wallet", "export", file)
	n.Must(t.TempDir(), "ledger", "verify", file)
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
