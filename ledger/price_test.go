package ledger

import (
	"math/big"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"pgregory.net/rapid"
)

func TestPrices(t *testing.T) {
	p := must1[*PriceTable](t)(LoadPrices(PriceVersion))
	for name := range map[string]uint64{"cpu_ns": 0, "wall_ns": 0, "gpu_ns": 0, "ram_kib_s": 0, "in_byte": 0, "out_byte": 0, "energy_uwh": 0} {
		if p.Sources[name] == "" {
			t.Errorf("%s has no source", name)
		}
	}
	if p.Version != PriceVersion || len(p.Sources) != 7 {
		t.Errorf("%+v", p)
	}
	for _, c := range []struct {
		name string
		m    Meter
		want uint64
	}{
		{"nothing", Meter{}, 0},
		{"a second of a processor", Meter{CPU: 1e9}, 972},
		{"an hour of it", Meter{CPU: 3600e9}, 3_499_200}, // 3.5 Wh
		{"a gigabyte for an hour", Meter{RAM: 1_000_000_000 / 1024 * 3600}, 391_991},
		{"a gigabyte to it", Meter{In: 1e9}, 1_000_000},
		{"waiting", Meter{Wall: 1e12}, 0},
		{"what it says to have burnt", Meter{Energy: 1e12}, 0},
		{"less than a µWh", Meter{CPU: 1_028_806}, 0},
		{"just one", Meter{CPU: 1_028_807}, 1},
	} {
		if got, err := p.Credit(&c.m); err != nil || got != c.want {
			t.Errorf("%s: %d, want %d, %v", c.name, got, c.want, err)
		}
	}
	_, err := p.Credit(&Meter{In: maxMeter, Out: maxMeter})
	wantKind(t, "more than a receipt can hold", err, cellproto.TooLarge)
	_, err = LoadPrices(99)
	wantKind(t, "a later table", err, cellproto.Unsupported)
	_, err = parsePrices([]byte(`{"version": 1, "fee": 3}`))
	wantKind(t, "an unknown field", err, cellproto.BadInput)
}

func TestCreditIsExact(t *testing.T) {
	p := must1[*PriceTable](t)(LoadPrices(PriceVersion))
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 1<<50)
		m := Meter{CPU: n.Draw(t, "cpu"), GPU: n.Draw(t, "gpu"), RAM: n.Draw(t, "ram"), In: n.Draw(t, "in"), Out: n.Draw(t, "out")}
		sum := new(big.Int)
		for _, f := range [][2]uint64{{m.CPU, p.Prices.CPU}, {m.GPU, p.Prices.GPU}, {m.RAM, p.Prices.RAM}, {m.In, p.Prices.In}, {m.Out, p.Prices.Out}} {
			sum.Add(sum, new(big.Int).Mul(new(big.Int).SetUint64(f[0]), new(big.Int).SetUint64(f[1])))
		}
		want := sum.Div(sum, big.NewInt(fWhPerUWh))
		if got, err := p.Credit(&m); err != nil || want.Cmp(new(big.Int).SetUint64(got)) != 0 {
			t.Fatalf("%d, want %v, %v", got, want, err)
		}
		more := m
		more.CPU += n.Draw(t, "more")
		if a, err := p.Credit(&more); err == nil {
			if b, _ := p.Credit(&m); a < b {
				t.Fatal("more use, less credit")
			}
		}
	})
}

func TestTooDear(t *testing.T) {
	for _, c := range []struct {
		price  uint64
		others []uint64
		want   bool
	}{
		{1000, nil, false}, {1000, []uint64{1, 1}, false},
		{150, []uint64{100, 90, 5000}, false}, {151, []uint64{100, 90, 5000}, true},
		{400, []uint64{1, 1, 1, 300, 300, 300}, false}, // the last three count
	} {
		if got := TooDear(c.price, c.others); got != c.want {
			t.Errorf("%d after %v: %v", c.price, c.others, got)
		}
	}
}
