package node

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/ledger"
)

// The list that the owner has chosen counts as long as it is there, is good and has not ended.
func TestChosenPublicGoods(t *testing.T) {
	key := func(b byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
	}
	home, now := t.TempDir(), time.Now()
	files, err := ledger.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	net, self, good := ledger.NetOf("test"), key(1), ledger.KeyOf(key(2))
	led, _, err := ledger.Open(ledger.Config{Net: net, Self: ledger.KeyOf(self)}, files, now)
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	r := ledger.Receipt{Net: net, Consumer: ledger.KeyOf(self), Provider: good, N: 1, Credit: 1000, Est: 4, MeterV: 1}
	if _, err := led.SignTotal(now, r, ledger.RoleConsumer, self); err != nil {
		t.Fatal(err)
	}
	a := &accounts{n: &nucleus{mirrors: &mirrors{home: home}}, led: led, log: zap.NewNop()}
	a.goods.Store(&chosen{})
	weight := func(at time.Time) uint64 {
		a.choose(at)
		_, w := led.Standing(time.Now(), good, 0).Rank()
		return w
	}
	path := filepath.Join(home, publicGoodFile)
	write := func(data []byte, changed time.Time) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	if w := weight(now); w != 1000 {
		t.Errorf("%d without a list", w)
	}
	data, err := ledger.SealPublicGoods(ledger.PublicGoods{NotAfter: uint64(now.Add(time.Hour).UnixMilli()), Goods: []ledger.PublicGood{{ID: good, Factor: 4}}}, key(3))
	if err != nil {
		t.Fatal(err)
	}
	write(data, now)
	if w := weight(now); w != 4000 || !strings.Contains(a.goods.Load().says, "1 identities") {
		t.Errorf("%d with it, %q", w, a.goods.Load().says)
	}
	if w := weight(now.Add(2 * time.Hour)); w != 1000 {
		t.Errorf("%d after its end", w)
	}
	data[20] ^= 1
	write(data, now.Add(time.Minute))
	if w := weight(now); w != 1000 || !strings.Contains(a.goods.Load().says, "does not count") {
		t.Errorf("%d with one that is forged, %q", w, a.goods.Load().says)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if w := weight(now); w != 1000 || a.goods.Load().says != "" {
		t.Errorf("%d when it is gone", w)
	}
}
