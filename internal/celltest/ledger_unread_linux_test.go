package celltest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// unreadable has the one segment of a ledger not be opened any more, as on a disk that has gone bad, until the function is called
// that it gives: the file is read-only, which no mode makes it for root.
func unreadable(t *testing.T, ledger string) (mend func()) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(ledger, "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	file := segments[0]
	if err := syscall.Mount(file, file, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	mounted := true
	mend = func() {
		if !mounted {
			return
		}
		mounted = false
		if err := syscall.Unmount(file, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(mend)
	if err := syscall.Mount("", file, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("nothing can be mounted read-only here: %v", err)
	}
	if f, err := os.OpenFile(file, os.O_RDWR, 0); err == nil {
		f.Close()
		t.Fatal("it can be opened")
	}
	return mend
}

// The only file of a ledger cannot be read when the nucleus starts. Calls are served and billed, what was given comes back from who has called,
// status and doctor say what is wrong, and when the file can be read again it is as if nothing had been.
func TestLedgerCannotBeRead(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	provider := n.tally("")
	provider.Start()
	cid := provider.Publish().CID
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(cid, 1)
	use := func() {
		for range 3 {
			if _, _, err := caller.Use(t.Context(), cid, "burn", "k", "20"); err != nil {
				t.Fatal(err)
			}
		}
	}
	use()
	before := even(t, provider, caller, 3)
	provider.Stop()
	mend := unreadable(t, filepath.Join(provider.Dir, "ledger"))
	provider.Start()
	caller.AwaitProviders(cid, 1)
	use()
	during := even(t, provider, caller, 6)
	if during.UWH <= before.UWH {
		t.Errorf("before %+v, then %+v", before, during)
	}
	if s := provider.Status(); s.Ledger != "" || !strings.Contains(s.LedgerDamage, "cannot be read") {
		t.Errorf("status says %q and %q", s.Ledger, s.LedgerDamage)
	}
	if r := provider.Ctl("doctor", provider.Dir); r.Code == 0 || !strings.Contains(r.Stdout, "cannot be read") {
		t.Errorf("doctor: exit code %d\n%s", r.Code, r.Stdout)
	}
	provider.Stop()
	mend()
	provider.Start()
	caller.AwaitProviders(cid, 1)
	use()
	if after := even(t, provider, caller, 9); after.UWH <= during.UWH {
		t.Errorf("before %+v, then %+v", during, after)
	}
	if s := provider.Status(); s.Ledger != "" || s.LedgerDamage != "" {
		t.Errorf("status still says %q and %q", s.Ledger, s.LedgerDamage)
	}
}

// The same befalls the home cell, which writes the account's key log: it goes on only with what its cells know of it.
func TestKeyLogCannotBeRead(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	anna := n.Machine()
	anna.of()
	ledger := filepath.Join(anna.home.Dir, "ledger")
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
	check := func(entries uint64) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "export")
		for _, c := range append(cells[:len(cells):len(cells)], anna.home) {
			anna.Must(anna.root, "wallet", "export", file, c.Dir)
			var checked struct {
				OK         bool
				Identities []struct {
					Entries uint64
					Banned  bool
				}
			}
			decode(t, n.Must(t.TempDir(), "ledger", "verify", file, "--json"), &checked)
			if !checked.OK || len(checked.Identities) != 1 || checked.Identities[0].Entries != entries || checked.Identities[0].Banned {
				t.Errorf("%s says %+v", c.Dir, checked)
			}
		}
	}
	start("one", 2)
	anna.Must(anna.root, "stop", anna.home.Dir)
	mend := unreadable(t, ledger)
	start("two", 3) // which starts the home cell
	check(4)
	anna.Must(anna.root, "stop", anna.home.Dir)
	mend()
	start("three", 4)
	check(5)
}
