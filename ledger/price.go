package ledger

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"

	"github.com/celldnet/celld/cellproto"
)

// PriceVersion is the table that new registers use. A table is never changed: there is a new one, and
// registers go over to it in a new epoch.
const PriceVersion = 1

//go:embed prices/*.json
var priceFiles embed.FS

// PriceTable turns a meter into credit: reference energy per unit, the same for everybody, so that an
// efficient machine earns by what it does and not by what it burns. Its file says where each number
// is from.
type PriceTable struct {
	Version uint16            `json:"version"`
	Unit    string            `json:"unit"`
	Prices  Prices            `json:"prices"`
	Sources map[string]string `json:"sources"`
}

// Prices are in fWh (1e-15 Wh) per unit of the meter's field of the same name.
type Prices struct {
	CPU    uint64 `json:"cpu_ns"`
	Wall   uint64 `json:"wall_ns"`
	GPU    uint64 `json:"gpu_ns"`
	RAM    uint64 `json:"ram_kib_s"`
	In     uint64 `json:"in_byte"`
	Out    uint64 `json:"out_byte"`
	Energy uint64 `json:"energy_uwh"`
}

// fWhPerUWh is how many of the table's units are one of credit.
const fWhPerUWh = 1_000_000_000

// LoadPrices reads the price table of a version. Kinds: Unsupported for one that this program lacks.
func LoadPrices(version uint16) (*PriceTable, error) {
	const op = "load price table"
	data, err := priceFiles.ReadFile(fmt.Sprintf("prices/%d.json", version))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "version %d, this program knows up to %d", version, PriceVersion).
			WithHint("Upgrade celld.")
	}
	return parsePrices(data)
}

func parsePrices(data []byte) (*PriceTable, error) {
	const op = "load price table"
	var p PriceTable
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return &p, nil
}

// Credit gives what a meter is worth in µWh, rounded down. Since meters are totals, no fraction is lost
// from call to call. Kinds: TooLarge when it is past what a receipt can hold.
func (p *PriceTable) Credit(m *Meter) (uint64, error) {
	prices := [7]uint64{p.Prices.CPU, p.Prices.Wall, p.Prices.GPU, p.Prices.RAM, p.Prices.In, p.Prices.Out, p.Prices.Energy}
	var hi, lo, carry uint64
	for i, n := range m.fields() {
		h, l := bits.Mul64(n, prices[i])
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry) // meters have 63 bits and prices few: it does not turn over
	}
	if hi >= fWhPerUWh {
		return 0, cellproto.Errorf("price meter", cellproto.TooLarge, "a meter that is worth more than a receipt can hold")
	}
	credit, _ := bits.Div64(hi, lo, fWhPerUWh)
	if credit > maxCredit {
		return 0, cellproto.Errorf("price meter", cellproto.TooLarge, "%d µWh, the limit is %d", credit, uint64(maxCredit))
	}
	return credit, nil
}

// TooDear says whether a consumer refuses a price: when it is above one and a half times the median of
// those that the last three other providers of the same function took. With fewer than three there is
// nothing to compare it with.
func TooDear(price uint64, others []uint64) bool {
	const last = 3
	if len(others) < last {
		return false
	}
	three := slices.Clone(others[len(others)-last:])
	slices.Sort(three)
	median := three[1]
	return price > add(median, median/2)
}
