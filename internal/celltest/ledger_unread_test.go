package celltest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// unreadable has the one segment of a ledger not be read any more, as on a disk that has gone bad, until the function is called that it gives: there is
// a directory in its place, which no user can read as a file.
func unreadable(t *testing.T, ledger string) (mend func()) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(ledger, "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	file, away := segments[0], ledger+".away"
	if err := os.Rename(file, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
		if err := os.Rename(away, file); err != nil {
			t.Error(err)
		}
	}
}

// damaged changes a byte of each record of a ledger's one segment but the second, behind which all that is bad cannot be what a crash left. There
// is nothing to mend.
func damaged(t *testing.T, ledger string) (mend func()) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(ledger, "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	const magic, head = 8, 6 // of a record: its checksum and its length
	data := readFile(t, segments[0])
	records := 0
	for at := magic; at < len(data); records++ {
		size := head + int(binary.BigEndian.Uint16(data[at+4:]))
		if records != 1 {
			data[at+head+3] ^= 1
		}
		at += size
	}
	if records < 3 {
		t.Fatalf("%d records", records)
	}
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {}
}

// The only file of a ledger cannot be read when the nucleus starts, or its bytes have changed. Calls are served and billed, what was given comes
// back from who has called, status and doctor say what is wrong, and when the file can be read again it is as if nothing had been.
func TestLedgerIsDamaged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		harm   func(*testing.T, string) func()
		says   string // status and doctor
		doctor int
		later  string // and after it is mended
	}{
		{"it cannot be read", unreadable, "cannot be read", 1, ""},
		{"its bytes have changed", damaged, "was damaged and is put aside (000000000000.seg.bad)", 0, "nothing is signed for a pool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := New(t)
			n.Bootstrap()
			provider := n.tally("")
			provider.Start()
			cid := provider.Publish().CID
			caller := n.Headless("caller")
			caller.Start()
			caller.AwaitProviders(cid, 1)
			calls := uint64(0)
			use := func() ctl.WalletRow {
				t.Helper()
				for range 3 {
					if _, _, err := caller.Use(t.Context(), cid, "burn", "k", "20"); err != nil {
						t.Fatal(err)
					}
					calls++
				}
				return even(t, provider, caller, calls)
			}
			check := func(says string, doctor int) {
				t.Helper()
				if s := provider.Status(); s.Ledger != "" || !strings.Contains(s.LedgerDamage, says) || (says == "") != (s.LedgerDamage == "") {
					t.Errorf("status says %q and %q", s.Ledger, s.LedgerDamage)
				}
				if r := provider.Ctl("doctor", provider.Dir); !strings.Contains(r.Stdout, says) || (r.Code == 0) != (doctor == 0) {
					t.Errorf("doctor: exit code %d\n%s", r.Code, r.Stdout)
				}
			}
			before := use()
			provider.Stop()
			mend := c.harm(t, filepath.Join(provider.Dir, "ledger"))
			provider.Start()
			caller.AwaitProviders(cid, 1)
			during := use()
			check(c.says, c.doctor)
			provider.Stop()
			mend()
			provider.Start()
			caller.AwaitProviders(cid, 1)
			after := use()
			check(c.later, 0)
			if before.UWH >= during.UWH || during.UWH >= after.UWH {
				t.Errorf("before %+v, then %+v, and %+v", before, during, after)
			}
		})
	}
}

// The same befalls the home cell, which writes the account's key log: it goes on only with what its cells know of it.
func TestKeyLogCannotBeRead(t *testing.T) {
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("it takes minutes, and ledger has one in a process: CELL_LONG=1")
	}
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
