package gossip

import (
	"slices"

	"github.com/celldnet/celld/ledger"
)

// Use is what a consumer has asked of one function of a cell.
type Use struct {
	Fn    string // with its cell
	Calls uint64
	Wall  uint64 // ns for which they were on their way
}

// Bounds of a Market.
const (
	maxGoods  = 1024 // functions
	maxOffers = 8    // providers of each: of four, the last three others are found
	// haggle is what nobody argues about, in µWh: a second of one core. A program's start is in the first bill.
	haggle = 1000
	fine   = 1000 // prices are in thousandths of a µWh
)

// Market remembers what calls of functions have cost at those who were paid for them. A bill is for all that was
// asked of a provider; it is divided among functions by time, as meters divide. The zero value is ready. It has
// no lock.
type Market struct {
	goods map[string][]offer // by Use.Fn; the newest last, one of each provider
}

type offer struct {
	by    ledger.Key
	price uint64 // of one call
}

// Paid notes what was signed for.
func (m *Market) Paid(provider ledger.Key, used []Use, credit uint64) {
	var wall uint64
	for _, u := range used {
		wall += u.Wall
	}
	for _, u := range used {
		if u.Calls == 0 || wall == 0 {
			continue
		}
		if m.goods == nil || len(m.goods) >= maxGoods {
			m.goods = map[string][]offer{}
		}
		price := uint64(float64(credit) * fine * float64(u.Wall) / float64(wall) / float64(u.Calls))
		list := slices.DeleteFunc(m.goods[u.Fn], func(o offer) bool { return o.by == provider })
		if len(list) >= maxOffers {
			list = slices.Delete(list, 0, 1)
		}
		m.goods[u.Fn] = append(list, offer{provider, price})
	}
}

// Dear says whether a provider takes more than half as much again as three others took last (ledger.TooDear), and
// what the one in the middle of them would. There is nothing to compare with as long as one of the functions
// was not paid for at three others.
func (m *Market) Dear(provider ledger.Key, used []Use, credit uint64) (usual uint64, dear bool) {
	const others = 3
	var sums [others]uint64
	asked := false
	for _, u := range used {
		if u.Calls == 0 {
			continue
		}
		var prices []uint64
		for _, o := range slices.Backward(m.goods[u.Fn]) {
			if o.by != provider && len(prices) < others {
				prices = append(prices, o.price)
			}
		}
		if len(prices) < others {
			return 0, false
		}
		slices.Sort(prices)
		for i, p := range prices {
			sums[i] += p * u.Calls
		}
		asked = true
	}
	if !asked {
		return 0, false
	}
	for i := range sums {
		sums[i] /= fine
	}
	return sums[1], ledger.TooDear(credit-min(haggle, credit), sums[:])
}
