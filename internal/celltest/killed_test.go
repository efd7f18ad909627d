package celltest

import (
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// killsEach is after how many kills of one pair another one is taken: a round waits for a receipt, up to ten seconds,
// so that many pairs wait beside each other.
const killsEach = 50

// pair is a provider and its caller, one of which is killed now and then.
type pair struct {
	t                *testing.T
	name             string
	provider, caller *Cell
	p, c             string // their peers
	cid, work        string // what the provider gives, and what the caller does
	calls            drive
	kills            int
	most             [2]ctl.WalletRow // what was seen of the total, by either side
}

func (n *Net) pair(t *testing.T, i int, stop <-chan struct{}) *pair {
	t.Helper()
	k := &pair{t: t, name: fmt.Sprint("pair ", i), provider: n.tally(""), caller: n.tally("")}
	k.provider.Edit(`name = "tally"`, fmt.Sprintf("name = \"tally-%d\"", i))
	k.provider.Start()
	k.cid = k.provider.Publish().CID
	k.caller.Edit(`name = "tally"`, fmt.Sprintf("name = \"caller-%d\"", i))
	k.caller.Start()
	k.work = k.caller.Publish().CID
	k.provider.AwaitProviders(k.work, 1)
	k.caller.AwaitProviders(k.cid, 1)
	k.p, k.c = k.provider.Status().PeerID, k.caller.Status().PeerID
	k.earn()
	k.calls.run(k.caller, 3, stop, k.cid, "slow", func() int { return mrand.IntN(200) }) // so that ten pairs leave a processor time to start what was killed
	return k
}

// earn has the provider owe something. Whom little is owed signs every second: so kills fall between receipts.
func (k *pair) earn() {
	k.t.Helper()
	Eventually(k.t, k.name+": the provider is in debt", func() bool {
		_, _, err := k.provider.Use(k.t.Context(), k.work, "burn", "k", "3000")
		return err == nil
	})
}

// signed says whether calls were signed for since the last check.
func (k *pair) signed() bool { return k.caller.tookFrom(k.p).Calls > k.most[1].Calls }

// check fails if either side has less than it had.
func (k *pair) check(when string) {
	k.t.Helper()
	for i, got := range []ctl.WalletRow{k.provider.gaveTo(k.c), k.caller.tookFrom(k.p)} {
		if got.UWH < k.most[i].UWH || got.Calls < k.most[i].Calls || got.CPUNS < k.most[i].CPUNS {
			k.t.Errorf("%s, kill %d, %s: side %d had %+v, now %+v", k.name, k.kills, when, i, k.most[i], got)
		}
		k.most[i] = got
	}
}

// more waits for so many calls more.
func (k *pair) more(calls int) {
	k.t.Helper()
	made := k.calls.made.Load() + int64(calls)
	Eventually(k.t, k.name+": calls are made", func() bool { return k.calls.made.Load() > made })
}

// kill kills one side, some calls after a receipt.
func (k *pair) kill() {
	k.t.Helper()
	k.more(mrand.IntN(10))
	k.check("before it")
	victim := []*Cell{k.provider, k.caller}[k.kills%2]
	victim.Kill()
	victim.Start()
	k.check("after it")
	if k.kills++; k.kills%20 == 0 {
		k.earn()
	}
}

// agree waits until both sides have signed for the same, and checks what they export.
func (k *pair) agree() (total ctl.WalletRow) {
	k.t.Helper()
	Eventually(k.t, k.name+": both have the same", func() bool {
		total = k.provider.gaveTo(k.c)
		other := k.caller.tookFrom(k.p)
		return total.Unsigned == 0 && total.UWH == other.UWH && total.Calls == other.Calls && total.CPUNS == other.CPUNS && total.Signed == other.Signed
	})
	k.check("at the end")
	for _, side := range []*Cell{k.provider, k.caller} {
		file := filepath.Join(k.t.TempDir(), "export")
		side.Must("wallet", "export", file, side.Dir)
		if r := side.Ctl("ledger", "verify", file, "--json"); r.Code != 0 {
			k.t.Errorf("%s, an export after %d kills: %s", k.name, k.kills, r.Stdout)
		}
		if w := side.wallet(); w.Dropped[ledger.Forked.String()] > 0 || w.Dropped[ledger.Banned.String()] > 0 || w.Dropped[ledger.Decreasing.String()] > 0 {
			k.t.Errorf("%s has contradicted itself: %v", k.name, w.Dropped)
		}
	}
	return total
}

// killsWanted is how many kills there are: 8, with CELL_LONG 500, or CELL_LEDGER_KILLS.
func killsWanted(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CELL_LEDGER_KILLS")
	switch {
	case text == "" && os.Getenv("CELL_LONG") != "":
		return 500
	case text == "":
		return 8
	}
	kills, err := strconv.Atoi(text)
	if err != nil || kills <= 0 {
		t.Fatalf("CELL_LEDGER_KILLS=%s is no number of kills", text)
	}
	return kills
}

// Either side is killed again and again while calls are served: nothing that was acknowledged is lost, no total
// goes back on either side, and what both have exported in the end holds. That is done with several pairs by turns:
// the one whose calls were signed for since its last turn.
func TestKilledWhileServing(t *testing.T) {
	t.Parallel()
	kills := killsWanted(t)
	n := New(t)
	n.Bootstrap()
	stop := make(chan struct{})
	var pairs []*pair
	end := sync.OnceFunc(func() {
		close(stop)
		for _, k := range pairs {
			k.calls.work.Wait()
		}
	})
	defer end()
	for i := range (kills + killsEach - 1) / killsEach {
		pairs = append(pairs, n.pair(t, i, stop))
	}
	for i := range kills {
		var next *pair
		Eventually(t, "calls of a pair are signed for", func() bool {
			for _, k := range pairs {
				if (next == nil || k.kills < next.kills) && k.kills < killsEach && k.signed() {
					next = k
				}
			}
			return next != nil
		})
		next.kill()
		if i%killsEach == killsEach-1 {
			t.Logf("%d kills", i+1)
		}
	}
	for _, k := range pairs {
		k.more(0)
	}
	end()
	var total ctl.WalletRow
	var made, failed int64
	for _, k := range pairs {
		one := k.agree()
		total.Calls, total.UWH = total.Calls+one.Calls, total.UWH+one.UWH
		made, failed = made+k.calls.made.Load(), failed+k.calls.failed.Load()
	}
	t.Logf("%d kills while %d calls were answered and %d failed; %d calls and %d µWh are signed by both", kills, made, failed, total.Calls, total.UWH)
}
