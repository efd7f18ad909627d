package ledger

import (
	"slices"
	"testing"
	"time"
)

// donor is a home cell's ledger that comes from backups, and the receiver of what it gives.
type donor struct {
	t    *testing.T
	disk *disk
	l    *Ledger
	rec  *Ledger
	now  time.Time
}

func newDonor(t *testing.T) *donor {
	x := &donor{t: t, disk: newDisk(t, 1), rec: member(t, 5), now: testTime}
	x.open(x.disk)
	return x
}

func (x *donor) open(d *disk) {
	x.t.Helper()
	x.disk, x.now = d, x.now.Add(time.Hour)
	x.l = openLedger(x.t, testConfig(1, 1), d)
	x.l.Alone()
}

// give donates, and tells the receiver if it is there.
func (x *donor) give(uwh uint64, told bool) *SignedCheque {
	x.t.Helper()
	x.now = x.now.Add(time.Second)
	c, err := x.l.SignCheque(x.now, pub(1), pub(5), uwh, "", testKey(1))
	if err != nil {
		x.t.Fatal(err)
	}
	if told {
		x.rec.Ingest(x.now, wire(x.t, c))
	}
	return c
}

// hear has the ledger hear a cheque, and sign anew what is void.
func (x *donor) hear(c *SignedCheque) {
	x.t.Helper()
	x.now = x.now.Add(time.Second)
	x.l.Ingest(x.now, wire(x.t, c))
	for _, v := range x.l.Voids() {
		again, err := x.l.Renew(x.now, v, testKey(1))
		if err != nil {
			x.t.Fatal(err)
		}
		x.rec.Ingest(x.now, wire(x.t, again))
	}
}

func (x *donor) expect(what string, credit, n uint64) {
	x.t.Helper()
	for side, l := range map[string]*Ledger{"donor": x.l, "receiver": x.rec} {
		l.View(func(b *Book) {
			if c := b.Cheque(pub(1), pub(5)); c == nil || c.Credit != credit || c.N != n {
				x.t.Errorf("%s: the %s has %+v, not %d µWh", what, side, c, credit)
			}
		})
	}
}

// A donation that a home cell makes after its backup was restored is made, whether the receiver had got more in the time
// that was lost, or less, and whether the donor is restarted before it hears of that.
func TestDonationsAfterABackup(t *testing.T) {
	for name, c := range map[string]struct {
		lost, after uint64
		restart     bool
	}{
		"more was lost": {200, 100, false}, "less was lost": {50, 100, false}, "as much": {100, 100, false},
		"more, and a restart": {200, 100, true}, "less, and a restart": {50, 100, true},
	} {
		t.Run(name, func(t *testing.T) {
			x := newDonor(t)
			x.give(300, true)
			x.give(200, true)
			backup := x.disk.reboot()
			lost := x.give(c.lost, true)
			x.expect("before", 500+c.lost, 3)
			x.open(backup)
			x.give(c.after, true)
			if c.restart {
				x.open(x.disk.reboot())
			}
			x.hear(lost)
			x.expect("once it has come back", 500+c.lost+c.after, 4)
			x.hear(lost)
			x.expect("and came again", 500+c.lost+c.after, 4)
			x.give(7, true)
			x.open(x.disk.reboot())
			x.hear(lost)
			x.expect("and later", 507+c.lost+c.after, 5)
		})
	}
}

// What was lost comes back before the next donation, or before the void one was signed anew: nothing is given twice.
func TestLostChequeComesFirst(t *testing.T) {
	x := newDonor(t)
	x.give(500, true)
	backup := x.disk.reboot()
	x.give(100, false)
	lost := x.give(100, true)
	x.open(backup)
	x.hear(lost)
	x.give(10, true)
	x.expect("it was known", 710, 4)
	x.open(x.disk.reboot())
	x.give(10, true)
	x.l.Ingest(x.now, wire(t, lost))
	x.expect("an old cheque", 720, 5)

	backup = x.disk.reboot()
	lost = x.give(1000, true)
	x.open(backup)
	x.give(30, false)
	x.l.Ingest(x.now, wire(t, lost))
	if v := x.l.Voids(); len(v) != 1 || v[0].UWH != 30 {
		t.Errorf("what is void: %+v", v)
	}
	x.give(4, true)
	x.expect("the next donation brings all", 1754, 8)
	if v := x.l.Voids(); len(v) != 0 {
		t.Errorf("void still: %+v", v)
	}
	_, err := x.l.Renew(x.now, Void{Donor: pub(1), To: pub(5)}, testKey(1))
	if err == nil {
		t.Error("what is not void was signed anew")
	}
}

// Only what the donor has signed counts as lost, and a clock that goes back makes none of its own cheques look so.
func TestWhoseChequeIsLost(t *testing.T) {
	x := newDonor(t)
	x.give(500, true)
	x.open(x.disk.reboot())
	x.now = x.now.Add(24 * time.Hour)
	x.give(10, true)
	forged := must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(5), N: 9, Credit: 505, T: ms(x.now.Add(-time.Hour))}, testKey(7)))
	x.hear(forged)
	x.expect("a stranger's", 510, 2)
	x.now = x.now.Add(-12 * time.Hour) // into the gap
	own := x.give(20, true)
	x.hear(own)
	x.hear(own)
	x.expect("its own, by a clock that went back", 530, 3)
}

// Who has the key that was replaced has the ledger take nothing for what it has lost, and neither has a number that no cheque can hold.
func TestReplacedKeyFindsNothing(t *testing.T) {
	x := newDonor(t)
	x.give(500, true)
	x.open(x.disk.reboot())
	lost := x.now
	x.now = x.now.Add(24 * time.Hour)
	must1[*KeyEntry](t)(x.l.AppendKey(x.now, &Genesis{Next: HashKey(pub(8))}, testKey(1)))
	must1[*KeyEntry](t)(x.l.AppendKey(x.now, &Rotate{Key: pub(8), Next: HashKey(pub(9))}, testKey(8)))
	must1[*SignedCheque](t)(x.l.SignCheque(x.now, pub(1), pub(5), 10, "", testKey(8)))
	cheque := func(n uint64, key byte) *SignedCheque {
		return must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(5), N: n, Credit: 505, T: ms(lost)}, testKey(key)))
	}
	for name, c := range map[string]*SignedCheque{"of the replaced key": cheque(2, 1), "with too many donations": cheque(maxMeter, 8)} {
		x.l.Ingest(x.now, wire(t, c))
		if v := x.l.Voids(); len(v) != 0 {
			t.Errorf("a cheque %s has it give %+v", name, v)
		}
	}
	x.l.Ingest(x.now, wire(t, cheque(2, 8)))
	if v := x.l.Voids(); len(v) != 1 || v[0].UWH != 5 {
		t.Errorf("a cheque of the key in force: %+v", v)
	}
}

// rotated has the donor's key replaced, and the receiver hear of it.
func (x *donor) rotated() {
	x.t.Helper()
	must1[*KeyEntry](x.t)(x.l.AppendKey(x.now, &Genesis{Next: HashKey(pub(8))}, testKey(1)))
	must1[*KeyEntry](x.t)(x.l.AppendKey(x.now, &Rotate{Key: pub(8), Next: HashKey(pub(9))}, testKey(8)))
	x.l.tell(x.t, pub(1), x.rec)
}

// lose has the donor come without its ledger, and hear all that the receiver knows of it.
func (x *donor) lose() {
	x.t.Helper()
	x.open(newDisk(x.t, 77))
	entries, _ := x.rec.Entries(pub(1), 0, 1<<20)
	for _, e := range entries {
		x.l.Ingest(x.now, e)
	}
}

// What was donated with a key that was replaced since is found again with the receiver, when the donor has lost all it knew, and the next
// donation comes on top of it.
func TestDonationsOfAReplacedKeyComeBack(t *testing.T) {
	x := newDonor(t)
	x.give(500, true)
	x.rotated()
	old := x.l.Outdated(9)
	if len(old) != 1 || old[0] != pub(5) {
		t.Fatalf("to be signed anew: %v", old)
	}
	x.now = x.now.Add(time.Second)
	again := must1[*SignedCheque](t)(x.l.Reseal(x.now, pub(5), testKey(8)))
	if r := x.rec.Ingest(x.now, wire(t, again)); r.Verdict != Stored {
		t.Fatalf("the receiver: %s %v", r.Verdict, r.Err)
	}
	x.expect("signed anew", 500, 1)
	if old := x.l.Outdated(9); len(old) > 0 {
		t.Errorf("to be signed anew again: %v", old)
	}
	x.lose()
	x.expect("all was lost", 500, 1)
	x.now = x.now.Add(time.Second)
	c := must1[*SignedCheque](t)(x.l.SignCheque(x.now, pub(1), pub(5), 100, "", testKey(8)))
	x.rec.Ingest(x.now, wire(t, c))
	x.expect("the next donation", 600, 2)
}

// A donation that was not signed anew is taken from who has it by the owner's word alone, or from another nucleus of the owner's.
func TestUnprovenDonation(t *testing.T) {
	for name, take := range map[string]func(x *donor, lost *SignedCheque) Verdict{
		"by the owner's word": func(x *donor, lost *SignedCheque) Verdict {
			if err := x.l.Prove(x.now, pub(6)); err == nil {
				t.Error("one that nobody has shown is taken")
			}
			if err := x.l.Prove(x.now, pub(5)); err != nil {
				t.Error(err)
			}
			return Stored
		},
		"from another nucleus": func(x *donor, lost *SignedCheque) Verdict { return x.l.Recall(x.now, wire(t, lost)).Verdict },
	} {
		x := newDonor(t)
		lost := x.give(500, true)
		x.rotated()
		x.lose()
		x.l.View(func(b *Book) {
			if c := b.Cheque(pub(1), pub(5)); c != nil {
				t.Errorf("%s: it is taken before", name)
			}
		})
		if u := x.l.Unproven(); len(u) != 1 || u[0].To != pub(5) || u[0].Credit != 500 {
			t.Errorf("%s: the owner is told %+v", name, u)
		}
		if v := take(x, lost); v != Stored {
			t.Errorf("%s: %s", name, v)
		}
		if u := x.l.Unproven(); len(u) != 0 {
			t.Errorf("%s: then the owner is told %+v", name, u)
		}
		for _, to := range x.l.Outdated(9) {
			x.now = x.now.Add(time.Second)
			x.rec.Ingest(x.now, wire(t, must1[*SignedCheque](t)(x.l.Reseal(x.now, to, testKey(8)))))
		}
		x.expect(name, 500, 1)
		x.open(x.disk.reboot())
		x.expect(name+", after a restart", 500, 1)
		thief := must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(6), N: 1, Credit: 700, T: lost.T}, testKey(7)))
		if v := x.l.Recall(x.now, wire(t, thief)).Verdict; v != Forged {
			t.Errorf("%s: a key that never was the account's: %s", name, v)
		}
	}
}

// Donations that could not be read when later ones were signed count with them once they can be read, whichever are of more, and also where
// the key was replaced since.
func TestDonationsInAnUnreadableSegment(t *testing.T) {
	for name, c := range map[string]struct {
		before, after uint64
		rotated       bool
	}{
		"more was given before": {100, 40, false}, "more was given after": {40, 100, false}, "as much": {40, 40, false},
		"more after, and another key": {40, 100, true},
	} {
		t.Run(name, func(t *testing.T) {
			x := newDonor(t)
			x.give(c.before-1, true)
			x.give(1, true)
			if err := x.l.Close(); err != nil {
				t.Fatal(err)
			}
			d := x.disk.reboot()
			d.unreadable = segmentName(0)
			x.open(d)
			x.give(c.after, true)
			if c.rotated {
				x.rotated()
			}
			if err := x.l.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a restart before it is signed anew changes nothing
				x.open(x.disk.reboot())
				want := []Void{{pub(1), pub(5), min(c.before, c.after)}}
				if v := x.l.Voids(); !slices.Equal(v, want) {
					t.Fatalf("what no cheque says: %+v, want %+v", v, want)
				}
				if err := x.l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			x.open(x.disk.reboot())
			key := testKey(1)
			if c.rotated {
				key = testKey(8)
			}
			again := must1[*SignedCheque](t)(x.l.Renew(x.now, x.l.Voids()[0], key))
			if r := x.rec.Ingest(x.now, wire(t, again)); r.Verdict != Stored {
				t.Fatalf("the receiver: %s %v", r.Verdict, r.Err)
			}
			x.expect("signed anew", c.before+c.after, 3)
			x.open(x.disk.reboot())
			if v := x.l.Voids(); len(v) > 0 {
				t.Errorf("then %+v", v)
			}
		})
	}
}

// A home cell that has lost all gives something before its other cell says what it gave with a key that was replaced: both count.
func TestRecallAddsToWhatWasGivenSince(t *testing.T) {
	for name, before := range map[string]uint64{"more was given before": 500, "less was": 5} {
		x := newDonor(t)
		lost := x.give(before, true)
		x.rotated()
		x.lose()
		x.now = x.now.Add(time.Second)
		must1[*SignedCheque](t)(x.l.SignCheque(x.now, pub(1), pub(5), 10, "", testKey(8)))
		x.l.Recall(x.now, wire(t, lost))
		x.now = x.now.Add(time.Second)
		c := must1[*SignedCheque](t)(x.l.SignCheque(x.now, pub(1), pub(5), 100, "", testKey(8)))
		x.rec.Ingest(x.now, wire(t, c))
		x.expect(name, before+110, 3)
	}
}
