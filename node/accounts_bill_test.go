package node

import (
	"crypto/ed25519"
	"testing"

	"github.com/celldnet/celld/ledger"
)

// What a caller has signed for in an earlier life of the nucleus is gone on from, once; what it has signed for in this
// one is not counted twice.
func TestDebtorHears(t *testing.T) {
	acked := func(credit uint64) *ledger.Signed { return &ledger.Signed{Receipt: ledger.Receipt{Credit: credit}} }
	d := &debtor{}
	for _, c := range []struct{ sent, acked, base uint64 }{
		{0, 50, 50},    // heard from a neighbour
		{0, 40, 50},    // an older one
		{60, 60, 50},   // a bill of this nucleus, whose answer was lost
		{0, 55, 55},    // the caller knows of one between
		{90, 200, 200}, // the caller has signed for more than was billed
	} {
		if c.sent > 0 {
			d.sent = append(d.sent, c.sent)
		}
		if d.heard(acked(c.acked)); d.base.Credit != c.base {
			t.Errorf("%d were signed for, it goes on from %d, not %d", c.acked, d.base.Credit, c.base)
		}
	}
	d.heard(nil)
}

// A bill that does not come with the newest receipt is answered with that.
func TestShows(t *testing.T) {
	_, consumer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	receipt := func(credit uint64) *ledger.Signed {
		s, err := ledger.SealReceipt(ledger.Receipt{
			Net: ledger.NetOf("test"), Consumer: ledger.KeyOf(consumer), Provider: ledger.Key{1}, Est: ledger.EstTable, MeterV: 1, N: credit, Credit: credit,
		}, consumer, ledger.RoleConsumer)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	newest := receipt(10)
	same, err := newest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	older, err := receipt(9).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !shows(same, newest) || shows(older, newest) || shows(nil, newest) || shows([]byte("x"), newest) {
		t.Error("the newest receipt is not told from others")
	}
}
