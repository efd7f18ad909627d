package ledger

import (
	"bytes"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// What a host has signed itself and knows no more is told from all else that comes in, whichever of the two it is.
func TestLostEntriesAreKnown(t *testing.T) {
	r := Receipt{Net: testNet, Consumer: pub(1), Provider: pub(2), N: 5, Credit: 500, Est: EstTable, MeterV: 1}
	signed := must1[*Signed](t)(SealReceipt(r, testKey(1), RoleConsumer))
	claim := must1[*Signed](t)(SealReceipt(r, testKey(2), RoleProvider))
	signed.ProviderSig = claim.ProviderSig
	entry := wire(t, signed)
	for name, c := range map[string]struct {
		self byte
		has  *Signed
		lost bool
	}{
		"its consumer":                      {1, nil, true},
		"its provider":                      {2, nil, true},
		"its provider, which has billed it": {2, claim, false},
		"a third":                           {3, nil, false},
	} {
		b := NewBook(testConfig(c.self, 9))
		if c.has != nil {
			if r := b.Ingest(nowMS, wire(t, c.has)); r.Verdict != Stored {
				t.Fatal(r.Verdict)
			}
		}
		if r := b.Ingest(nowMS, entry); r.Verdict != Stored || r.Lost != c.lost {
			t.Errorf("%s: %s, lost %v", name, r.Verdict, r.Lost)
		}
	}
}

// A byte that has changed in the only segment costs the record that it is in. Those behind it were synced: a key log that ended there would
// be signed on in the place of entries that others have.
func TestDamageInTheOnlySegment(t *testing.T) {
	d, a, world := newDisk(t, 1), newAuthor(t, 1), newTestBook(9)
	l := openLedger(t, testConfig(2, 1), d)
	l.Alone()
	write := func(p Payload) *KeyEntry {
		t.Helper()
		return must1[*KeyEntry](t)(l.AppendKey(testTime, p, testKey(1)))
	}
	log := []*KeyEntry{write(&Genesis{Next: HashKey(pub(101))}), write(a.delegation(2))}
	receipt := wire(t, dual(t, testReceipt(7, 2, 100), 7, 2))
	if r := l.Ingest(testTime, receipt); r.Verdict != Stored {
		t.Fatal(r.Verdict)
	}
	log = append(log, write(a.delegation(3)))
	for _, e := range log {
		world.expect(t, Stored, wire(t, e))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range d.live {
		at := bytes.Index(f.data, receipt)
		f.data[at+20] ^= 1
	}
	l, r, err := Open(testConfig(2, 1), d, testTime)
	if err != nil || len(r.Damaged) != 1 {
		t.Fatalf("%v, %+v", err, r)
	}
	l.Alone()
	world.expect(t, Stored, wire(t, must1[*KeyEntry](t)(l.AppendKey(testTime, a.delegation(4), testKey(1)))))
	if world.Banned(pub(1)) {
		t.Error("the owner is banned")
	}
	if err := l.Tick(testTime); err != nil || len(d.live) != 2 {
		t.Errorf("the damaged file is not put aside: %v, %d files", err, len(d.live))
	}
	if l = openLedger(t, testConfig(2, 1), d.reboot()); l.ownState().Len != 4 {
		t.Errorf("after a restart the log has %d entries", l.ownState().Len)
	}
}

// Entries of the own log that others had, and that came while the disk took nothing, are on it before another one is.
func TestOwnEntriesComeBackOnAFullDisk(t *testing.T) {
	other := openLedger(t, testConfig(2, 1), newDisk(t, 1))
	other.Alone()
	a := newAuthor(t, 1)
	log := [][]byte{wire(t, must1[*KeyEntry](t)(other.AppendKey(testTime, &Genesis{Next: HashKey(pub(101))}, testKey(1))))}
	for h := range byte(3) {
		log = append(log, wire(t, must1[*KeyEntry](t)(other.AppendKey(testTime, a.delegation(2+h), testKey(1)))))
	}
	d := newDisk(t, 2)
	l := openLedger(t, testConfig(2, 1), d)
	l.Alone()
	l.Ingest(testTime, log[0])
	d.badAt, d.badTo = d.ops+1, d.ops+1000
	for _, e := range log[1:] {
		if r := l.Ingest(testTime, e); r.Verdict != Stored {
			t.Fatal(r.Verdict, r.Err)
		}
	}
	d.badTo = 0
	must1[*KeyEntry](t)(l.AppendKey(testTime, &Revoke{Host: pub(3)}, testKey(1)))
	if l = openLedger(t, testConfig(2, 1), d.reboot()); l.ownState().Len != 5 {
		t.Errorf("after a restart the log has %d entries", l.ownState().Len)
	}
}

// The only segment cannot be read, and the host goes on. Its key log, its registers and its donations come back from others, it signs nothing
// that contradicts what it had signed, and when the segment can be read again both are one.
func TestOnlySegmentIsUnreadable(t *testing.T) {
	d, a, world := newDisk(t, 1), newAuthor(t, 1), newTestBook(9)
	cfg := testConfig(1, 1)
	l := openLedger(t, cfg, d)
	l.Alone()
	var log [][]byte
	for _, p := range []Payload{&Genesis{Next: HashKey(pub(101))}, a.delegation(1), a.delegation(2)} {
		log = append(log, wire(t, must1[*KeyEntry](t)(l.AppendKey(testTime, p, testKey(1)))))
	}
	sign := func(r Receipt, role Role) []byte {
		t.Helper()
		return wire(t, must1[*Signed](t)(l.SignTotal(testTime, r, role, testKey(1))))
	}
	used, gave := testReceipt(1, 7, 300), dual(t, testReceipt(7, 1, 500), 7, 1)
	paid := sign(used, RoleConsumer)
	must1[*SignedCheque](t)(l.SignCheque(testTime, pub(1), pub(5), 40, "", testKey(1)))
	cheque := wire(t, l.book.Cheque(pub(1), pub(5)))
	for _, e := range append(log[:len(log):len(log)], paid, wire(t, gave), cheque) {
		world.expect(t, Stored, e)
		l.Ingest(testTime, e)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	d = d.reboot()
	d.unreadable = segmentName(0)
	later := testTime.Add(time.Hour)
	l, r, err := Open(cfg, d, later)
	if err != nil || len(r.Unread) != 1 {
		t.Fatalf("%v, %+v", err, r)
	}
	if err := l.Err(); err != nil {
		t.Error(err)
	}
	l.Confirm(pub(20), 3)
	for n := range byte(Confirmations) {
		l.Confirm(pub(21+n), 0)
	}
	if _, err := l.AppendKey(later, &Genesis{Next: HashKey(pub(102))}, testKey(1)); err == nil {
		t.Fatal("the key log is begun again")
	}
	for _, e := range append(log, paid, wire(t, gave)) {
		if r := l.Ingest(later, e); r.Verdict != Stored {
			t.Fatal(r.Verdict, r.Err)
		}
	}
	world.expect(t, Stored, wire(t, must1[*KeyEntry](t)(l.AppendKey(later, a.delegation(3), testKey(1)))))
	if _, err := l.SignTotal(later, testReceipt(1, 7, 200), RoleConsumer, testKey(1)); err == nil {
		t.Error("a total falls")
	}
	world.expect(t, Stored, sign(testReceipt(1, 7, 400), RoleConsumer))
	must1[*SignedCheque](t)(l.SignCheque(later, pub(1), pub(5), 3, "", testKey(1)))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l = openLedger(t, cfg, d.reboot())
	if n := l.ownState().Len; n != 4 || world.Banned(pub(1)) {
		t.Errorf("%d entries, banned %v", n, world.Banned(pub(1)))
	}
	if g := l.register(used.RegKey()).Credit(); g != 400 {
		t.Errorf("%d were taken", g)
	}
	if g := l.register(gave.RegKey()).Credit(); g != 500 {
		t.Errorf("%d were given", g)
	}
	if v := l.Voids(); len(v) != 1 || v[0].UWH != 3 {
		t.Errorf("of 40 and 3 that were donated no cheque says %+v", v)
	}
}

// A member of a pool that has lost, or may have, what it signed for the pool signs no other entry, at this start and at all that follow. That
// the file is removed which says so is the owner's word.
func TestDamageSignsForNoPool(t *testing.T) {
	for _, whole := range []bool{true, false} {
		d := newDisk(t, 1)
		l := openLedger(t, testConfig(20, 20), d)
		l.Alone()
		a := pool(t)
		one := a.draft(&RunnerBudget{Runner: pub(20), Budget: 10}, 21)
		two := a.draft(&RunnerBudget{Runner: pub(20), Budget: 20}, 21)
		sign := func(e *KeyEntry) error {
			l.change()
			defer l.changed()
			return l.coSign(testTime, e, testKey(20), 0)
		}
		if err := sign(one); err != nil {
			t.Fatal(err)
		}
		for i := range 3 { // behind it
			l.Ingest(testTime, wire(t, dual(t, testReceipt(7, 20, uint64(100*(i+1))), 7, 20)))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		body := must1[[]byte](t)(one.Body())
		for _, f := range d.live {
			if f.data[bytes.Index(f.data, body)+20] ^= 1; whole { // or all of it
				clear(f.data)
			}
		}
		for start := range 3 {
			l = openLedger(t, testConfig(20, 20), d)
			wantKind(t, "another entry for that place", sign(two), cellproto.Unavailable)
			if err := l.Tick(testTime); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if r := must1[*Report](t)(reportOf(d)); start > 0 && (len(r.Damaged) > 0 || len(r.Aside) != 1) {
				t.Errorf("start %d: %+v", start, r)
			}
		}
		delete(d.live, segmentName(0)+badExt)
		l = openLedger(t, testConfig(20, 20), d)
		if err := sign(two); err != nil {
			t.Error(err)
		}
	}
}

func reportOf(d *disk) (*Report, error) {
	_, r, err := Open(testConfig(20, 20), d, testTime)
	return r, err
}
