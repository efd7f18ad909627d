package celltest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// person has a home cell of its own, and so an account.
type person struct {
	n    *Net
	at   *place
	home *Cell
}

func (n *Net) person(name string) *person {
	n.t.Helper()
	p := &person{n: n, at: &place{dir: filepath.Join(n.root, name), listen: "/ip4/127.0.0.1/tcp/0", start: (*exec.Cmd).Start}}
	if err := os.MkdirAll(p.at.dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	p.home = n.At(filepath.Join(p.at.dir, "home")) // cellctl starts its nucleus
	p.home.on = p.at
	return p
}

func (p *person) must(args ...string) string {
	p.n.t.Helper()
	return p.n.must(p.at, p.at.dir, args...)
}

func (p *person) ctl(args ...string) Result { p.n.t.Helper(); return p.n.ctl(p.at, p.at.dir, args...) }

// wallet is what the home cell says.
func (p *person) wallet() (w ctl.Wallet) {
	p.n.t.Helper()
	decode(p.n.t, p.must("wallet", "status", "--json"), &w)
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
	anna, bert := n.person("anna"), n.person("bert")
	if w := anna.wallet(); len(w.Hosts) != 0 || w.Delegation == "" {
		t.Errorf("before there is a second host: %+v", w)
	}
	provider := n.tally("")
	provider.on = anna.at
	provider.Start()
	Eventually(t, "both hosts are the account's", func() bool { return len(anna.wallet().Hosts) == 2 })
	cid := provider.Publish().CID
	account := bert.wallet().Account
	bert.home.AwaitProviders(cid, 1)
	for range 5 {
		if _, _, err := bert.home.Use(t.Context(), cid, "burn", "k", "50"); err != nil {
			t.Fatal(err)
		}
	}
	p := provider.Status().PeerID
	gave := even(t, provider, bert.home, 5)
	if w := anna.wallet(); w.GivenUWH != gave.UWH || w.TakenUWH != 0 || w.Priority != "earned" || w.Hosts[0].Peer != p || w.Hosts[0].GivenUWH != gave.UWH {
		t.Errorf("its host gave %d µWh, the account says %+v", gave.UWH, w)
	}
	if w := bert.wallet(); w.TakenUWH != gave.UWH {
		t.Errorf("taken %d, not %d", w.TakenUWH, gave.UWH)
	}
	owes := anna.wallet().Account
	hears(t, "the caller knows whose the host is", func() bool {
		var donors []ctl.DonorRow
		decode(t, bert.must("donors", "--json"), &donors)
		return len(donors) == 1 && donors[0].Peer == owes && donors[0].Owed == gave.UWH
	})

	var d ctl.Donated
	decode(t, anna.must("wallet", "donate", account, "3uWh", "--purpose", "for the archive", "--json"), &d)
	if d.UWH != 3 || d.Times != 1 || !d.Covered {
		t.Errorf("%+v", d)
	}
	hears(t, "the donation arrives", func() bool {
		w := bert.wallet()
		return len(w.Donations) == 1 && w.Donations[0].Purpose == "for the archive" && w.Donations[0].UWH == 3 && w.GivenUWH == 3
	})
	if w := anna.wallet(); w.TakenUWH != 3 || len(w.Donations) != 1 {
		t.Errorf("%+v", w)
	}
	file := filepath.Join(t.TempDir(), "export")
	bert.must("wallet", "export", file)
	var checked struct {
		OK         bool
		Donations  []struct{ UWH uint64 }
		Identities []struct{ Hosts, Revoked []string }
	}
	decode(t, n.Must(t.TempDir(), "ledger", "verify", file, "--json"), &checked)
	if !checked.OK || len(checked.Donations) != 1 || len(checked.Identities) != 1 || len(checked.Identities[0].Hosts) != 2 {
		t.Errorf("the export says %+v", checked)
	}

	anna.must("wallet", "revoke", "tally")
	if r := anna.ctl("wallet", "revoke", "tally"); r.Code != 3 {
		t.Errorf("revoked twice: exit code %d, %s", r.Code, r.Stderr)
	}
	hears(t, "the caller knows that the host was revoked", func() bool {
		bert.must("wallet", "export", file)
		decode(t, n.Must(t.TempDir(), "ledger", "verify", file, "--json"), &checked)
		return len(checked.Identities[0].Revoked) == 1
	})
	if _, _, err := bert.home.Use(t.Context(), cid, "burn", "k", "50"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "nobody signs for a host that was revoked", func() bool {
		r := provider.with(bert.home.Status().PeerID)
		return strings.Contains(r.Refused, "revoked") && r.UWH == gave.UWH
	})
	if w := anna.wallet(); w.GivenUWH != gave.UWH {
		t.Errorf("what the host gave before is the account's: %d, not %d", w.GivenUWH, gave.UWH)
	}
}

// The home cell is killed while it donates, again and again: what it has said is there, the total goes on, and
// nobody sees it contradict itself.
func TestDonorIsKilled(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	anna, bert := n.person("anna"), n.person("bert")
	account := bert.wallet().Account
	kills := 4
	if os.Getenv("CELL_LONG") != "" {
		kills = 40
	}
	said := uint64(0)
	for k := range kills {
		anna.must("wallet", "donate", account, "1uWh")
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
			if anna.ctl("wallet", "donate", account, "1uWh").Code == 0 {
				said++
			}
		}
		<-killed
		Eventually(t, "the home cell is back", func() bool { return anna.ctl("wallet", "status").Code == 0 })
		w := anna.wallet()
		if len(w.Donations) != 1 || w.Donations[0].Times < said || w.Donations[0].UWH != w.Donations[0].Times {
			t.Fatalf("kill %d: %d donations were said to be made: %+v", k, said, w.Donations)
		}
		said = w.Donations[0].Times // those too that were made and not said
	}
	hears(t, "all of it arrives", func() bool { w := bert.wallet(); return len(w.Donations) == 1 && w.Donations[0].Times == said })
	for _, v := range []string{"forked", "forged", "decreasing", "malformed"} {
		if got := bert.wallet().Dropped[v]; got != 0 {
			t.Errorf("%d entries were %s", got, v)
		}
	}
	file := filepath.Join(t.TempDir(), "export")
	anna.must("wallet", "export", file)
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
