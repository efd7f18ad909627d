package gossip

import (
	"fmt"
	"testing"

	"github.com/celldnet/celld/ledger"
)

// A bill is too dear when it is more than half as much again as three others would have taken, whatever functions
// were called how often.
func TestMarket(t *testing.T) {
	key := func(b byte) ledger.Key { return ledger.KeyOf(testKey(b)) }
	used := func(a, b uint64) []Use { return []Use{{"a", a, a * 10e6}, {"b", b, b * 40e6}} } // b takes four times as long
	price := func(a, b uint64) uint64 { return 100*a + 400*b }
	var m Market
	if _, dear := m.Dear(key(9), used(1000, 0), 1e9); dear {
		t.Error("nobody else was ever paid")
	}
	for i := byte(1); i <= 3; i++ {
		if _, dear := m.Dear(key(9), used(1000, 50), 2*price(1000, 50)); dear {
			t.Errorf("only %d others were paid", i-1)
		}
		m.Paid(key(i), used(500, uint64(i)*20), price(500, uint64(i)*20)*uint64(99+i)/100)
	}
	for name, c := range map[string]struct {
		provider byte
		used     []Use
		credit   uint64
		want     bool
	}{
		"as the others":                            {9, used(1000, 50), price(1000, 50), false},
		"half as much again":                       {9, used(1000, 50), price(1000, 50) * 3 / 2, false},
		"twice as much":                            {9, used(1000, 50), price(1000, 50) * 2, true},
		"twice as much, of one function":           {9, used(1000, 0), price(1000, 0) * 2, true},
		"little, with the program's start":         {9, used(3, 0), 900, false},
		"nothing was asked":                        {9, nil, 5000, false},
		"of a function that is new":                {9, []Use{{"c", 1000, 1e9}}, 1e9, false},
		"one of the three, who has but two others": {1, used(1000, 50), price(1000, 50) * 2, false},
	} {
		if usual, dear := m.Dear(key(c.provider), c.used, c.credit); dear != c.want {
			t.Errorf("%s: %d µWh where %d are usual: %v", name, c.credit, usual, dear)
		}
	}
	if usual, _ := m.Dear(key(9), used(1000, 50), 0); usual < price(1000, 50)*99/100 || usual > price(1000, 50)*101/100+2 {
		t.Errorf("usual is %d, want about %d", usual, price(1000, 50))
	}
	for i := range 3 * maxGoods {
		m.Paid(key(1), []Use{{fmt.Sprint(i), 1, 1}}, 1)
	}
	for i := range byte(3 * maxOffers) {
		m.Paid(key(i), used(1, 1), 1)
	}
	if len(m.goods) > maxGoods || len(m.goods["a"]) > maxOffers {
		t.Errorf("%d functions, %d offers", len(m.goods), len(m.goods["a"]))
	}
}
