package node

import (
	"strings"
	"testing"

	"github.com/celldnet/celld/ledger"
)

// All that is the matter with the ledger's files is said at once, by the names that they have, and that nothing is signed for a pool meanwhile.
func TestDamageIsTold(t *testing.T) {
	o := openHome(t, t.TempDir(), nil)
	a := o.a
	a.n.accounts = a
	check := func(what string, r ledger.Report, well bool, says ...string) {
		t.Helper()
		a.report = &r
		c := a.n.checkLedger()
		if c.OK != well || (c.Fix == "") != well || a.damage() != c.Detail {
			t.Errorf("%s: doctor says %+v, status %q", what, c, a.damage())
		}
		for _, s := range says {
			if !strings.Contains(c.Detail+"\n"+c.Fix, s) {
				t.Errorf("%s: nothing of %q in %+v", what, s, c)
			}
		}
	}
	const pools = "nothing is signed for a pool"
	check("several", ledger.Report{Unread: []string{"1.seg"}, Damaged: []string{"2.seg"}, Aside: []string{"0.seg.bad"}, ReadOnly: []string{"3.seg"}, Truncated: 7}, false,
		"cannot be read (1.seg)", "put aside (2.seg.bad)", "is kept (0.seg.bad)", "only be read (3.seg)", "7 bytes", pools, "restart")
	damaged := ledger.Report{Damaged: []string{"2.seg"}, Aside: []string{"0.seg.bad"}}
	check("damage, and no pool", damaged, true, "put aside (2.seg.bad)", "is kept (0.seg.bad)", pools)
	if err := o.pools.set(textOf(o.id), "archive"); err != nil {
		t.Fatal(err)
	}
	check("damage, and a pool", damaged, false, pools, "rm ", "/ledger/2.seg.bad", "/ledger/0.seg.bad", "restart")
	check("a crash", ledger.Report{Truncated: 7}, true, "7 bytes")
	if strings.Contains(a.damage(), pools) {
		t.Errorf("after a crash: %s", a.damage())
	}
	if got := damageOf(&ledger.Report{Damaged: []string{"2.seg"}}, 3); !strings.Contains(got, "2 more of its files") || !strings.Contains(got, "from the next start on "+pools) {
		t.Errorf("of three that were damaged, one when it started: %s", got)
	}
	check("a file of somebody else", ledger.Report{ReadOnly: []string{"3.seg"}}, true, "only be read (3.seg)")
}
