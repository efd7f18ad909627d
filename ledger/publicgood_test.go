package ledger

import (
	"bytes"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func TestPublicGoods(t *testing.T) {
	list := PublicGoods{NotAfter: nowMS, Goods: []PublicGood{{ID: pub(7), Factor: 3}, {ID: pub(3), Factor: 4}}}
	data := must1[[]byte](t)(SealPublicGoods(list, testKey(1)))
	got, err := OpenPublicGoods(data)
	if err != nil || got.By != pub(1) || got.NotAfter != nowMS || len(got.Goods) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, err := OpenPublicGoods(bad); err == nil {
			t.Fatalf("byte %d was changed and nobody notices", i)
		}
	}
	_, err = OpenPublicGoods(append(bytes.Clone(data), 0))
	wantKind(t, "a byte behind", err, cellproto.BadInput)
	_, err = OpenPublicGoods(make([]byte, MaxPublicGoodList+1))
	wantKind(t, "too long", err, cellproto.TooLarge)
	later := bytes.Clone(data)
	later[2] = 2
	_, err = OpenPublicGoods(later)
	wantKind(t, "of a later version", err, cellproto.Unsupported)
	for name, goods := range map[string][]PublicGood{
		"nobody": nil, "too often": {{ID: pub(7), Factor: 5}}, "once": {{ID: pub(7), Factor: 1}}, "twice": {{ID: pub(7), Factor: 2}, {ID: pub(7), Factor: 3}},
		"too many": make([]PublicGood, MaxPublicGoods+1),
	} {
		_, err := SealPublicGoods(PublicGoods{Goods: goods}, testKey(1))
		wantKind(t, name, err, cellproto.BadInput)
	}
	full := PublicGoods{}
	for i := range MaxPublicGoods {
		full.Goods = append(full.Goods, PublicGood{ID: peer(i), Factor: 4})
	}
	long := must1[[]byte](t)(SealPublicGoods(full, testKey(1)))
	if _, err := OpenPublicGoods(long); err != nil || len(long) > MaxPublicGoodList {
		t.Errorf("%d bytes, %v", len(long), err)
	}
	t.Logf("a full list has %d bytes", len(long))

	// It weighs what was earned, and makes nobody earn anything.
	l := openLedger(t, testConfig(9, 0), newDisk(t, 1))
	for _, p := range []byte{3, 5} {
		l.Ingest(testTime, wire(t, dual(t, testReceipt(9, p, 1000), 9, p)))
	}
	weight := func(k byte) uint64 {
		_, w := l.Standing(testTime, pub(k), 0).Rank()
		return w
	}
	if weight(3) != 1000 || weight(5) != 1000 {
		t.Fatalf("%d and %d before there is a list", weight(3), weight(5))
	}
	l.Curate(got)
	if weight(3) != 4000 || weight(5) != 1000 {
		t.Errorf("%d and %d", weight(3), weight(5))
	}
	if class, w := l.Standing(testTime, pub(7), 0).Rank(); class != ClassStranger || w != 1 {
		t.Errorf("who has earned nothing is %v with %d", class, w)
	}
	l.Curate(nil)
	if weight(3) != 1000 {
		t.Error("the list still counts")
	}
}

func FuzzPublicGoods(f *testing.F) {
	data, err := SealPublicGoods(PublicGoods{Goods: []PublicGood{{ID: pub(7), Factor: 3}}}, testKey(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := OpenPublicGoods(data)
		if err == nil && (len(p.Goods) == 0 || len(p.Goods) > MaxPublicGoods) {
			t.Errorf("%d goods", len(p.Goods))
		}
	})
}
