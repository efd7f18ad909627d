package ledger

import (
	"bytes"
	"testing"
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
