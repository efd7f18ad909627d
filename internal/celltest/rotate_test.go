package celltest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// An account's key is replaced, and its home cell is killed while that is done, again and again: it is the same
// account all along, it signs, and others believe it. A key can be replaced eleven times, so CELL_LONG has ten accounts.
func TestRotatorIsKilled(t *testing.T) {
	t.Parallel()
	if os.Getenv("CELL_LONG") == "" {
		rotatorIsKilled(t, 5, 0)
		return
	}
	for i := range 10 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			rotatorIsKilled(t, 9, 9*i)
		})
	}
}

// rotatorIsKilled kills so many times, each time 3 ms later than the one before; first is how often others have.
func rotatorIsKilled(t *testing.T, kills, first int) {
	n := New(t)
	for range ledger.Confirmations { // so many say how long the key log is
		n.Bootstrap()
	}
	anna, bert := n.Machine(), n.Machine()
	account, to := anna.of().Account, bert.of().Account
	bert.Must(bert.root, "stop", bert.home.Dir) // it hears of it all at once
	donate := func() { anna.Must(anna.root, "wallet", "donate", to, "1uWh") }
	donate()
	var r ctl.Rotated
	decode(t, anna.Must(anna.root, "wallet", "rotate", "--json"), &r)
	if w := anna.of(); r.Account != account || r.Before != account || r.Key == account || w.Account != account || w.Key != r.Key || w.TakenUWH != 1 {
		t.Errorf("%+v, the wallet says %+v", r, w)
	}
	donate()

	for k := range kills {
		before := anna.of()
		pid, err := strconv.Atoi(strings.TrimSpace(string(readFile(t, filepath.Join(anna.home.Dir, "run", "pid")))))
		if err != nil {
			t.Fatal(err)
		}
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(time.Duration((first+k)%20) * 3 * time.Millisecond) // wherever that is
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}()
		said := anna.Ctl(anna.root, "wallet", "rotate").Code == 0
		<-killed
		Eventually(t, "the home cell is back", func() bool { return anna.Ctl(anna.root, "wallet", "status").Code == 0 })
		if w := anna.of(); w.Account != account || said && w.Key == before.Key {
			t.Fatalf("kill %d: rotated was said: %v; before %s, then %+v", k, said, before.Key, w)
		}
		donate()
	}
	anna.Must(anna.root, "wallet", "rotate")
	hears(t, "the donations arrive", func() bool {
		w := bert.of()
		return len(w.Donations) == 1 && w.Donations[0].From == account && w.Donations[0].Times == 2+uint64(kills)
	})
	for _, v := range []string{"forked", "forged", "decreasing", "malformed"} {
		if got := bert.of().Dropped[v]; got != 0 {
			t.Errorf("%d entries were %s", got, v)
		}
	}
	file := filepath.Join(t.TempDir(), "export")
	anna.Must(anna.root, "wallet", "export", file)
	n.Must(t.TempDir(), "ledger", "verify", file)
	work := anna.Headless("work") // another cell of this machine has the same account
	work.Start()
	Eventually(t, "the other cell is the account's", func() bool { w := work.wallet(); return w.Account == account && len(w.Hosts) == 2 })
	for _, left := range []string{"then.key", "account.key.new"} {
		if _, err := os.Lstat(filepath.Join(anna.home.Dir, "keys", left)); err == nil {
			t.Errorf("keys/%s is left behind", left)
		}
	}
}
