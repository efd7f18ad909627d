package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/ledger"
)

// Whose account is banned, since a copy of the home cell has signed beside it, is told so.
func TestBannedIsTold(t *testing.T) {
	home, copied := t.TempDir(), t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	if err := o.a.led.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(copied, os.DirFS(home)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{hostKeyFile, accountKeyFile, nextKeyFile} {
		if err := os.Chmod(filepath.Join(copied, "keys", name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, twin := openHome(t, home, nil), openHome(t, copied, nil)
	o.a.n.accounts = o.a
	o.delegated(t, 8)
	if got := o.standing(time.Now()); strings.Contains(got, "banned") {
		t.Fatalf("before: %s", got)
	}
	twin.delegated(t, 9)
	entries, _ := twin.a.led.Entries(o.id, 0, 1<<20)
	var last ledger.Verdict
	for _, e := range entries {
		last = o.a.led.Ingest(time.Now(), e).Verdict
	}
	if last != ledger.Forked {
		t.Fatalf("the twin's last entry is %v", last)
	}
	if got := o.standing(time.Now()); !strings.Contains(got, "banned") {
		t.Errorf("wallet status says %q", got)
	}
	if c := o.a.n.checkLedger(); c.OK || c.Fix == "" || !strings.Contains(c.Detail, "two histories") {
		t.Errorf("doctor says %+v", c)
	}
}
