package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// Three neighbours who have never heard of an account do not confirm that its log ends where a backup does.
func TestWhoKnowsAKeyLog(t *testing.T) {
	for _, c := range []struct {
		length, have uint64
		begun, want  bool
	}{
		{0, 0, false, true}, // there is no log yet, and nobody has one
		{0, 0, true, false}, // it was begun, and is lost here
		{4, 4, true, true},
		{5, 4, true, true},
		{0, 4, true, false},
		{3, 4, true, false},
	} {
		if got := says(c.length, c.have, c.begun); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// A home cell that has lost its ledger, and meets nobody who knows its key log, signs no second first entry, however
// long it waits: who knows the first would ban the account. Once the log has come it signs on.
func TestLostLogIsNotBegunAgain(t *testing.T) {
	home := t.TempDir()
	o := openHome(t, home, nil)
	if err := o.begin(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	log, _ := o.a.led.Entries(o.id, 0, 1<<20)
	if err := o.a.led.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(home, ledgerDir)); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		files, err := ledger.OpenDir(filepath.Join(home, ledgerDir))
		if err != nil {
			t.Fatal(err)
		}
		o := openHome(t, home, files)
		o.asked = make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			o.ask(t.Context(), func() []peer.ID { return nil })
			close(o.asked)
		}()
		time.Sleep(24 * time.Hour) // of the bubble
		if err := o.begin(t.Context(), time.Now()); cellproto.KindOf(err) != cellproto.Unavailable || o.state(o.id).Len > 0 {
			t.Errorf("after a day alone: %v, and its log has %d entries", err, o.state(o.id).Len)
		}
		for _, e := range log {
			if err := o.told(e); err != nil {
				t.Fatal(err)
			}
		}
		<-done
		if err := o.begin(t.Context(), time.Now()); err != nil || o.state(o.id).Len != uint64(len(log)) {
			t.Errorf("it does not go on from the log: %v, %d entries", err, o.state(o.id).Len)
		}
	})
}

// A home cell from a backup makes a donation good that was void, once it hears what it had signed before.
func TestVoidDonationIsMadeAnew(t *testing.T) {
	home, backup := t.TempDir(), t.TempDir()
	o := openHome(t, home, nil)
	to := o.a.self // whom there is no need to look for
	now := time.Now()
	give := func(o *account, uwh uint64) []byte {
		t.Helper()
		now = now.Add(time.Second)
		c, err := o.a.led.SignCheque(now, o.id, to, uwh, "", o.keys.inForce())
		if err != nil {
			t.Fatal(err)
		}
		data, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	give(o, 500)
	dir := filepath.Join(home, ledgerDir)
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	lost := give(o, 200)
	if err := errors.Join(o.a.led.Close(), os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	o = openHome(t, home, nil)
	o.networked(t)
	give(o, 100)
	if err := o.told(lost); err != nil {
		t.Fatal(err)
	}
	if v := o.a.led.Voids(); len(v) != 1 || v[0].UWH != 100 {
		t.Errorf("void: %+v", v)
	}
	o.mend(t.Context(), now)
	o.a.led.View(func(b *ledger.Book) {
		if c := b.Cheque(o.id, to); c.Credit != 800 || c.N != 3 {
			t.Errorf("%d µWh in %d donations", c.Credit, c.N)
		}
	})
	if v := o.a.led.Voids(); len(v) != 0 {
		t.Errorf("void still: %+v", v)
	}
}
