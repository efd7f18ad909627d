package celltest

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// While the disk is full calls are served and counted, status and doctor say so, and it heals once there is room: what
// was counted meanwhile is on the disk then.
func TestLedgerOnFullDisk(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	provider := n.tally("")
	dir := filepath.Join(provider.Dir, "ledger")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	provider.Start()
	cid := provider.Publish().CID
	caller := n.tally("")
	caller.Edit(`name = "tally"`, `name = "worker"`)
	caller.Start()
	work := caller.Publish().CID
	provider.AwaitProviders(work, 1)
	if _, _, err := provider.Use(t.Context(), work, "burn", "k", "3000"); err != nil { // whom little is owed signs often
		t.Fatal(err)
	}
	caller.AwaitProviders(cid, 1)
	c := caller.Status().PeerID
	use := func(calls int) {
		for range calls {
			if _, _, err := caller.Use(t.Context(), cid, "burn", "k", "20"); err != nil {
				t.Fatal(err)
			}
		}
	}
	settled := func(calls uint64) (r ctl.WalletRow) {
		Eventually(t, "all is signed for", func() bool { r = provider.gaveTo(c); return r.Calls >= calls && r.Unsigned == 0 })
		return r
	}
	use(3)
	before := settled(3)
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err == nil {
		_, _ = io.Copy(fill, zeros{}) // until it is full
		err = fill.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	calls := uint64(3)
	Eventually(t, "status says that nothing is written", func() bool {
		use(3)
		calls += 3
		return provider.ledgerTrouble() != ""
	})
	if r := provider.Ctl("doctor", provider.Dir); r.Code == 0 || !strings.Contains(r.Stdout, "ledger") {
		t.Errorf("doctor: exit code %d\n%s", r.Code, r.Stdout)
	}
	during := settled(calls)
	if during.UWH <= before.UWH {
		t.Errorf("before %+v, on the full disk %+v", before, during)
	}
	if err := os.Remove(fill.Name()); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "it is written again", func() bool { return provider.ledgerTrouble() == "" })
	caller.Stop() // nobody is there to tell it
	provider.Kill()
	provider.Start()
	if got := provider.gaveTo(c); got.UWH < during.UWH || got.Calls < during.Calls {
		t.Errorf("on the disk are %+v, signed were %+v", got, during)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
