package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/celldnet/celld/ledger"
)

func TestEnergy(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	prices, err := ledger.LoadPrices(ledger.PriceVersion)
	if err != nil {
		t.Fatal(err)
	}
	const second = uint64(1e9)
	if e := newEnergy(root, root, 4, prices); e.source() != ledger.EstTable || e.of(36*second) != 34_992 {
		t.Errorf("by the table, 36 s are %d µWh, source %d", e.of(36*second), e.source())
	}
	zone := "class/powercap/intel-rapl:0/"
	write(zone+"constraint_0_max_power_uw", "80000000\n")
	if e := newEnergy(root, root, 4, prices); e.source() != ledger.EstTDP || e.of(36*second) != 200_000 {
		t.Errorf("at 80 W for 4 cores, 36 s of one are %d µWh, source %d", e.of(36*second), e.source())
	}
	write(zone+"energy_uj", "9000000000\n")
	write(zone+"max_energy_range_uj", "10000000000\n")
	write("class/powercap/intel-rapl:0:0/energy_uj", "5\n") // a part of the package
	write("stat", "cpu  100 0 100 5000 10 0 0 0 0 0\ncpu0 1 1\n")
	e := newEnergy(root, root, 4, prices)
	write(zone+"energy_uj", "2600000000\n") // it has turned over: 3.6 kJ were drawn, which is 1 Wh
	write("stat", "cpu  1100 0 1100 9000 10 0 0 0 0 0\ncpu0 1 1\n")
	if got := e.of(5 * second); e.source() != ledger.EstRAPL || got != 250_000 {
		t.Errorf("5 s of 20 that the processors have worked are %d µWh of 1 Wh, source %d", got, e.source())
	}
	if got := e.of(5 * second); got != 0 {
		t.Errorf("nothing was drawn since, and it says %d", got)
	}
}
