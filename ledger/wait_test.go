package ledger

import (
	"testing"
	"time"
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
			at, on := make(chan struct{}), make(chan struct{})
			d.syncing = func() { at <- struct{}{}; <-on }
			written := make(chan error, 1)
			go func() { written <- write(l) }()
			<-at
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
		})
	}
}
