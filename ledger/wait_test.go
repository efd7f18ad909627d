package ledger

import (
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Whatever is being written, who looks something up does not wait for the disk: a call does that, to know its turn.
func TestNobodyWaitsForTheDisk(t *testing.T) {
	full := make([]Tab, SyncEntries) // so many are synced at once
	for i := range full {
		full[i].Provider = Key{byte(i >> 8), byte(i), 1}
	}
	a := newAuthor(t, 1)
	other := openLedger(t, testConfig(3, 1), newDisk(t, 2))
	other.Alone()
	heard := wire(t, must1[*KeyEntry](t)(other.AppendKey(testTime, &Genesis{Next: HashKey(pub(101))}, testKey(1))))
	own := map[string]bool{"an entry of the key log": true, "a donation": true, "a pool": true} // that nobody sees before it is on the disk
	know := func(l *Ledger) (entries int) {
		l.View(func(b *Book) {
			for _, id := range b.Identities() {
				entries += len(b.Log(id, 0)) + len(b.Gifts(id))
			}
		})
		return entries
	}
	for name, write := range map[string]func(*Ledger) error{
		"an entry of the key log": func(l *Ledger) error { _, err := l.AppendKey(testTime, a.delegation(2), testKey(1)); return err },
		"one that comes back":     func(l *Ledger) error { l.Ingest(testTime, heard); return nil },
		"a donation":              func(l *Ledger) error { _, err := l.SignCheque(testTime, pub(1), pub(7), 5, "", testKey(1)); return err },
		"a pool":                  func(l *Ledger) error { _, err := l.FoundPool(testTime, []Key{pub(1), pub(2)}, 2); return err },
		"tabs":                    func(l *Ledger) error { return l.KeepTabs(testTime, full) },
		"the end":                 (*Ledger).Close,
		"what has waited": func(l *Ledger) error {
			if err := l.KeepTabs(testTime, full[:1]); err != nil {
				return err
			}
			return l.Tick(testTime.Add(SyncEvery))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, 1)
			l := openLedger(t, testConfig(2, 1), d)
			l.Alone()
			if name != "one that comes back" {
				l.Ingest(testTime, heard)
			}
			before := know(l)
			at, on := make(chan struct{}), make(chan struct{})
			d.syncing = func() { at <- struct{}{}; <-on }
			written := make(chan error, 1)
			go func() { written <- write(l) }()
			<-at
			if own[name] && know(l) != before {
				t.Error("others can see what is not on the disk yet")
			}
			looked := make(chan struct{})
			go func() {
				defer close(looked)
				_, _ = l.Standing(testTime, pub(7), 10).Rank()
				l.Residual(pub(7))
				l.View(func(b *Book) { b.Owner(pub(7)) })
				l.Matters(pub(7))
				l.Entries(pub(1), 0, 1000)
				l.Voids()
				if err := l.Err(); err != nil {
					t.Error(err)
				}
				l.Harm()
			}()
			select {
			case <-looked:
			case <-time.After(10 * time.Second): // then it never comes: the disk waits for this test
				t.Error("who looks something up waits for the disk")
			}
			d.syncing = nil // what comes after this one does not stop
			close(on)
			if err := <-written; err != nil {
				t.Error(err)
			}
			if own[name] && know(l) == before {
				t.Error("nobody can see what is on the disk")
			}
		})
	}
}

// Who looks something up while a ledger writes down that a donation of its own has come back finds the donation in book and graph, or in neither.
func TestBookAndGraphAgreeWhileItIsWritten(t *testing.T) {
	x := newDonor(t)
	x.give(500, true)
	backup := x.disk.reboot()
	lost := x.give(200, true)
	x.open(backup)
	x.give(100, false)
	x.disk.writing = func() {
		l := x.l
		l.mu.Lock()
		defer l.mu.Unlock()
		c := l.book.Cheque(pub(1), pub(5))
		if known := l.graph.known[c.Slot()]; known != c.Credit {
			t.Errorf("while it is written the book has %d µWh, the graph %d", c.Credit, known)
		}
	}
	x.l.Ingest(x.now, wire(t, lost))
	x.disk.writing = nil
	if v := x.l.Voids(); len(v) != 1 || v[0].UWH != 100 {
		t.Errorf("what is void: %+v", v)
	}
}

// While an entry that was held back is written a neighbour says that it has more of the log: no other one is signed.
func TestNeighbourSpeaksWhileAnEntryIsWritten(t *testing.T) {
	d, a := newDisk(t, 1), newAuthor(t, 1)
	l := openLedger(t, testConfig(2, 1), d)
	l.Alone()
	d.badAt, d.badTo = d.ops+1, d.ops+1
	if _, err := l.AppendKey(testTime, &Genesis{Next: HashKey(pub(101))}, testKey(1)); err == nil {
		t.Fatal("the disk does not fail")
	}
	d.syncing = func() { l.Confirm(pub(20), 9) }
	_, err := l.AppendKey(testTime, a.delegation(2), testKey(1))
	wantKind(t, "another entry", err, cellproto.Unavailable)
	if n := l.ownState().Len; n != 1 {
		t.Errorf("%d entries", n)
	}
}
