package ledger

import (
	"bytes"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// member opens the ledger of a person who is a member of pools; its account and its host have the same number.
func member(t *testing.T, k byte) *Ledger {
	l := openLedger(t, testConfig(k, k), newDisk(t, uint64(k)))
	l.Alone()
	return l
}

func (l *Ledger) tell(t *testing.T, id Key, others ...*Ledger) {
	t.Helper()
	entries, _ := l.Entries(id, 0, 1<<20)
	for _, o := range others {
		for _, e := range entries {
			if r := o.Ingest(testTime, e); r.Verdict != Stored && r.Verdict != Stale {
				t.Fatalf("%v: %v", r.Verdict, r.Err)
			}
		}
	}
}

// copied is an entry as it arrives in a file.
func copied(t *testing.T, e *KeyEntry) *KeyEntry {
	t.Helper()
	c, err := DecodeKeyEntry(wire(t, e))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Three found a pool, two of them agree on a budget, and the runner spends no more than that.
func TestPoolOfThree(t *testing.T) {
	a, b, c, stranger := member(t, 1), member(t, 2), member(t, 3), member(t, 4)
	members := []Key{pub(3), pub(1), pub(2)}
	_, err := a.FoundPool(testTime, members, 1)
	wantKind(t, "one of three", err, cellproto.BadInput)
	_, err = stranger.FoundPool(testTime, members, 2)
	wantKind(t, "without oneself", err, cellproto.BadInput)
	id, err := a.FoundPool(testTime, members, 2)
	if err != nil {
		t.Fatal(err)
	}
	budget := func(uwh uint64) *RunnerBudget {
		return &RunnerBudget{Runner: pub(2), Budget: uwh, NotAfter: nowMS + 1000}
	}
	_, _, err = b.Draft(testTime, id, budget(1000), testKey(2))
	wantKind(t, "a pool that is not known", err, cellproto.NotFound)
	a.tell(t, id, b, c, stranger)
	_, err = b.SignCheque(testTime, id, pub(9), 1, "", testKey(2))
	wantKind(t, "without a budget", err, cellproto.Denied)
	_, _, err = stranger.Draft(testTime, id, budget(1000), testKey(4))
	wantKind(t, "a stranger proposes", err, cellproto.Denied)

	draft, done, err := a.Draft(testTime, id, budget(1000), testKey(1))
	if err != nil || done || len(a.Drafts(id)) != 1 {
		t.Fatal(done, err)
	}
	again, _, err := a.Draft(testTime.Add(1e9), id, budget(1000), testKey(1))
	if err != nil || !bytes.Equal(again.body, draft.body) {
		t.Errorf("what is proposed twice is two proposals: %v", err)
	}
	_, _, err = a.Draft(testTime, id, budget(2000), testKey(1))
	wantKind(t, "two proposals for one place", err, cellproto.Denied)
	forged := copied(t, draft)
	forged.Sigs[0].Sig[5] ^= 1
	_, err = b.SignDraft(testTime, forged, testKey(2))
	wantKind(t, "a proposal that its member has not signed", err, cellproto.Corrupt)
	if done, err = b.SignDraft(testTime, copied(t, draft), testKey(2)); err != nil || !done {
		t.Fatal(done, err)
	}
	if done, err = b.SignDraft(testTime, copied(t, draft), testKey(2)); err != nil || !done {
		t.Errorf("signed twice: %v %v", done, err)
	}
	b.tell(t, id, a, c)
	if len(a.Drafts(id)) != 0 {
		t.Error("what is in force is still a proposal")
	}
	_, _, err = c.Draft(testTime, id, &RunnerBudget{Runner: pub(3)}, testKey(1))
	wantKind(t, "with another member's key", err, 0)

	spend := func(l *Ledger, key byte, uwh uint64) error {
		_, err := l.SignCheque(testTime, id, pub(9), uwh, "for all", testKey(key))
		return err
	}
	if err := spend(b, 2, 600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "another member spends", spend(a, 1, 1), cellproto.Denied)
	wantKind(t, "past the budget", spend(b, 2, 401), cellproto.Denied)
	if err := spend(b, 2, 400); err != nil {
		t.Fatal(err)
	}
	b.tell(t, id, a, c)
	c.View(func(book *Book) {
		if _, taken := book.Balance(id); taken != 1000 || book.Cheque(id, pub(9)).N != 2 || !book.Concerns(id) {
			t.Errorf("spent %d", taken)
		}
	})
	stranger.View(func(book *Book) {
		if book.Concerns(id) {
			t.Error("it is a stranger's pool, too")
		}
	})
}

// Who hears of a pool's cheque after its budget has ended takes it as those did who heard of it before; what is written
// after the end nobody takes, whenever he hears of it.
func TestChequeAfterTheBudgetsEnd(t *testing.T) {
	a, early, late := member(t, 1), member(t, 2), member(t, 3)
	id, err := a.FoundPool(testTime, []Key{pub(1), pub(2), pub(3)}, 2)
	if err != nil {
		t.Fatal(err)
	}
	a.tell(t, id, early, late)
	const term = time.Hour
	draft, _, err := a.Draft(testTime, id, &RunnerBudget{Runner: pub(1), Budget: 1000, NotAfter: ms(testTime.Add(term))}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if done, err := early.SignDraft(testTime, copied(t, draft), testKey(2)); err != nil || !done {
		t.Fatal(done, err)
	}
	early.tell(t, id, a, late)
	before, after := testTime.Add(term), testTime.Add(term+time.Millisecond)
	a.unread = true // of what was given a part may not be known
	_, err = a.SignCheque(before, id, pub(9), 600, "", testKey(1))
	wantKind(t, "a cheque while a part cannot be read", err, cellproto.Unavailable)
	a.unread = false
	cheque, err := a.SignCheque(before, id, pub(9), 600, "", testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.SignCheque(after, id, pub(9), 1, "", testKey(1))
	wantKind(t, "the runner spends after the end", err, cellproto.Denied)
	more := must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: id, To: pub(9), N: 2, Credit: 700, T: ms(after)}, testKey(1)))
	for l, heard := range map[*Ledger]time.Time{early: before, late: testTime.Add(24 * term)} {
		if r := l.Ingest(heard, wire(t, cheque)); r.Verdict != Stored {
			t.Errorf("heard of %v after it was written: %v, %v", heard.Sub(before), r.Verdict, r.Err)
		}
		if r := l.Ingest(heard, wire(t, more)); r.Verdict != Missing {
			t.Errorf("written after the end, heard of %v after: %v, %v", heard.Sub(after), r.Verdict, r.Err)
		}
		if l.Residual(pub(9)) != early.Residual(pub(9)) {
			t.Error("they do not agree")
		}
	}
}

// A cheque is on the disk before it is there, and the next one goes on from it.
func TestChequeIsDurable(t *testing.T) {
	d := newDisk(t, 1)
	l := openLedger(t, testConfig(1, 1), d)
	give := func(uwh uint64) error {
		_, err := l.SignCheque(testTime, pub(1), pub(5), uwh, "", testKey(1))
		return err
	}
	wantKind(t, "before neighbours were asked", give(5), cellproto.Unavailable)
	l.Alone()
	wantKind(t, "nothing", give(0), cellproto.BadInput)
	for range 3 {
		if err := give(5); err != nil {
			t.Fatal(err)
		}
	}
	d.badAt, d.badTo = d.ops+1, d.ops+1000
	wantKind(t, "no disk", give(5), cellproto.MayHaveRun)
	l = openLedger(t, testConfig(1, 1), d.reboot())
	l.Alone()
	if err := give(7); err != nil {
		t.Fatal(err)
	}
	l.View(func(b *Book) {
		if c := b.Cheque(pub(1), pub(5)); c.Credit != 22 || c.N != 4 {
			t.Errorf("%+v", c)
		}
		if given, taken := b.Balance(pub(1)); given != 0 || taken != 22 {
			t.Errorf("given %d, taken %d", given, taken)
		}
	})
	if l.Residual(pub(5)) != 22 {
		t.Errorf("the donor owes %d", l.Residual(pub(5)))
	}
}

// What the power takes at any moment is no cheque that somebody has seen, and no total falls.
func TestNoReleasedChequeIsLost(t *testing.T) {
	live := func(d *disk, witness *Book, round int) {
		l, _, err := Open(testConfig(2, 1), d, testTime)
		if err != nil {
			return
		}
		l.Alone()
		for range 4 {
			c, err := l.SignCheque(testTime, pub(1), pub(5), 10, "", testKey(1))
			if err != nil {
				if d.dead {
					return
				}
				continue
			}
			if r := witness.Ingest(nowMS, wire(t, c)); r.Verdict != Stored {
				t.Fatalf("round %d: a cheque of %d is %v: %v", round, c.Credit, r.Verdict, r.Err)
			}
		}
	}
	whole := newDisk(t, 1)
	live(whole, newTestBook(9), 0)
	for at := 1; at <= whole.ops+1; at++ {
		for _, cut := range []bool{true, false} {
			d, witness := newDisk(t, uint64(at)), newTestBook(9)
			for round := range 3 {
				d.cutAt, d.badAt, d.badTo = 0, 0, 0
				if cut {
					d.cutAt = d.ops + at
				} else {
					d.badAt, d.badTo = d.ops+at, d.ops+at+round
				}
				live(d, witness, round)
				d = d.reboot()
			}
		}
	}
}

// Cheques between people far away are not kept, those of the own account and its pools are.
func TestChequesFarAway(t *testing.T) {
	l := member(t, 1)
	give := func(donor, to byte) Verdict {
		c := must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(donor), To: pub(to), N: 1, Credit: 5}, testKey(donor)))
		return l.Ingest(testTime, wire(t, c)).Verdict
	}
	if v := give(7, 8); v != Beyond {
		t.Errorf("between strangers: %v", v)
	}
	if v := give(7, 1); v != Stored {
		t.Errorf("to this account: %v", v)
	}
	if v := give(7, 8); v != Stored {
		t.Errorf("by whom this account is owed by: %v", v)
	}
}

// A file of a pool is followed as far as enough have signed.
func TestFollow(t *testing.T) {
	a := pool(t)
	draft := a.draft(&RunnerBudget{Runner: pub(20), Budget: 10, NotAfter: nowMS}, 21)
	var file []byte
	for _, e := range append(a.log[:len(a.log):len(a.log)], draft) {
		file = append(file, wire(t, e)...)
	}
	list, err := KeyEntries(bytes.NewReader(file))
	if err != nil || len(list) != 3 {
		t.Fatal(len(list), err)
	}
	s, err := Follow(testNet, list)
	if err != nil || s.Len != 2 || len(s.Members) != 5 {
		t.Fatalf("%+v %v", s, err)
	}
	_, err = Follow(NetOf("other"), list)
	wantKind(t, "another network", err, cellproto.BadInput)
	_, err = Follow(testNet, list[1:])
	wantKind(t, "without its begin", err, cellproto.BadInput)
	_, err = Follow(testNet, nil)
	wantKind(t, "nothing", err, cellproto.BadInput)
	_, err = KeyEntries(bytes.NewReader(file[:len(file)-1]))
	wantKind(t, "cut off", err, cellproto.BadInput)
}

// A runner spends until the very end of its budget: a clock that goes back, or two cheques within one ms, do not end it before.
// What it signs then does not look like something that its ledger has lost.
func TestChequesAtTheBudgetsEnd(t *testing.T) {
	d := newDisk(t, 1)
	a := openLedger(t, testConfig(1, 1), d)
	a.Alone()
	b := member(t, 2)
	id := must1[Key](t)(a.FoundPool(testTime, []Key{pub(1), pub(2)}, 2))
	a.tell(t, id, b)
	end := testTime.Add(time.Hour)
	draft, _, err := a.Draft(testTime, id, &RunnerBudget{Runner: pub(1), Budget: 1000, NotAfter: ms(end)}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if done, err := b.SignDraft(testTime, copied(t, draft), testKey(2)); err != nil || !done {
		t.Fatal(done, err)
	}
	b.tell(t, id, a)
	spend := func(l *Ledger, now time.Time) *SignedCheque {
		t.Helper()
		return must1[*SignedCheque](t)(l.SignCheque(now, id, pub(9), 10, "", testKey(1)))
	}
	spend(a, testTime)
	a = openLedger(t, testConfig(1, 1), d.reboot())
	a.Alone()
	signed := []*SignedCheque{spend(a, end), spend(a, end), spend(a, end.Add(-time.Minute))}
	_, err = a.SignCheque(end.Add(time.Millisecond), id, pub(9), 1, "", testKey(1))
	wantKind(t, "after the end", err, cellproto.Denied)
	for _, c := range signed {
		a.Ingest(end, wire(t, c))
		if v := a.Voids(); len(v) != 0 {
			t.Errorf("what was written at %d looks lost: %+v", c.T, v)
		}
	}
}
