package celltest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// One person's second computer becomes the account's when both say so, with its cells; a stranger's does not, whatever
// it asks for. What a cell of it gives the account has given. A lost one is revoked.
func TestSecondComputer(t *testing.T) {
	t.Parallel()
	n := New(t)
	for range ledger.Confirmations { // so many say how long the key log is
		n.Bootstrap()
	}
	desk, laptop, stranger := n.Machine(), n.Machine(), n.Machine()
	account := desk.of().Account
	host := laptop.of().Host
	work := laptop.Headless("work")
	work.Start()
	Eventually(t, "the cell is of the laptop's own account", func() bool { return len(laptop.of().Hosts) == 2 })

	exit := func(m *Net, code int, says string, args ...string) {
		t.Helper()
		if r := m.Ctl(m.root, args...); r.Code != code || !strings.Contains(r.Stderr, says) {
			t.Errorf("%q: exit code %d, %s", args, r.Code, r.Stderr)
		}
	}
	exit(desk, 4, "wallet join "+account, "wallet", "delegate", host) // which was not asked
	exit(desk, 2, "that is the account", "wallet", "join", account)
	exit(laptop, 2, "no peer ID", "wallet", "join", "nobody")

	var j ctl.Joined
	decode(t, laptop.Must(laptop.root, "wallet", "join", account, "--json"), &j)
	if j.Account != account || j.Host != host || !j.Changed || !slices.Equal(j.Cells, []string{work.Dir}) {
		t.Errorf("%+v", j)
	}
	work.Stop()
	work.Start()
	stranger.Must(stranger.root, "wallet", "join", account) // it knows the account, and that is all
	if w := laptop.of(); w.Account != account || !w.Elsewhere || len(w.Hosts) != 0 || !strings.Contains(w.Delegation, "wallet delegate "+host) {
		t.Errorf("before it is admitted: %+v", w)
	}
	exit(laptop, 4, "is on another one", "wallet", "donate", desk.of().Host, "1uWh")
	exit(laptop, 4, "is on another one", "wallet", "rotate")
	exit(laptop, 4, "is on another one", "wallet", "delegate", stranger.of().Host)

	var hosts []ctl.WalletHost
	Eventually(t, "the laptop is admitted with its cell", func() bool {
		decode(t, desk.Must(desk.root, "wallet", "delegate", host, "--json"), &hosts)
		return len(hosts) == 2
	})
	Eventually(t, "both computers, and the cell, know it", func() bool {
		for _, w := range []ctl.Wallet{desk.of(), laptop.of(), work.wallet()} {
			if w.Account != account || len(w.Hosts) != 3 || !strings.HasPrefix(w.Delegation, "the account's until") {
				return false
			}
		}
		return true
	})
	before := desk.of()
	decode(t, desk.Must(desk.root, "wallet", "delegate", host, "--json"), &hosts) // again: nothing is signed
	if after := desk.of(); len(hosts) != 1 || len(after.Hosts) != 3 || !slices.Equal(before.Hosts, after.Hosts) {
		t.Errorf("delegated twice: %+v, %+v", hosts, after.Hosts)
	}
	for _, h := range desk.of().Hosts {
		if h.Peer == stranger.of().Host {
			t.Error("a stranger is the account's")
		}
	}

	// The account's key is replaced, and its log travels: the laptop stays.
	desk.Must(desk.root, "wallet", "rotate")
	desk.Must(desk.root, "wallet", "revoke", "work")
	desk.Must(desk.root, "wallet", "delegate", host)
	hears(t, "the laptop hears of the rotation and the revocation", func() bool {
		w := laptop.of()
		return w.Key == desk.of().Key && w.Key != account && slices.ContainsFunc(w.Hosts, func(h ctl.WalletHost) bool { return h.Cell == "work" && h.Revoked })
	})
	laptop.Must(laptop.root, "wallet", "join", "self")
	if w := laptop.of(); w.Account == account || w.Elsewhere {
		t.Errorf("of its own again: %+v", w)
	}
	Eventually(t, "the laptop's host is of its own account", func() bool {
		return slices.ContainsFunc(laptop.of().Hosts, func(h ctl.WalletHost) bool { return h.Peer == host })
	})
	if _, err := os.Lstat(filepath.Join(laptop.home.Dir, "keys", "joined.id")); err == nil {
		t.Error("keys/joined.id is still there")
	}
}
