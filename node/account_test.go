package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
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

// lostLog has a home cell begin a key log and lose its ledger, and gives the log. away has the next key be elsewhere.
func lostLog(t *testing.T, away bool) (home string, log [][]byte) {
	t.Helper()
	home = t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	log, _ = o.a.led.Entries(o.id, 0, 1<<20)
	if err := errors.Join(o.a.led.Close(), os.RemoveAll(filepath.Join(home, ledgerDir))); err != nil {
		t.Fatal(err)
	}
	if away {
		if err := os.Rename(o.keys.path(nextKeyFile), filepath.Join(t.TempDir(), nextKeyFile)); err != nil {
			t.Fatal(err)
		}
	}
	return home, log
}

// knower is a neighbour of a home cell, and what it knows of the key log.
type knower struct {
	from time.Duration // when it comes by
	log  [][]byte
}

// asks has the home cell ask these neighbours, until that ends: then done is closed.
func (o *account) asks(t *testing.T, knowers ...knower) (done chan struct{}) {
	t.Helper()
	return o.asksUntil(t.Context(), t, nil, knowers...)
}

// knowerID gives one of those of asks.
func knowerID(t *testing.T, i int) peer.ID {
	t.Helper()
	p, err := peerOf(ledger.KeyOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(100 + i)}, ed25519.SeedSize))))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asksUntil is asks until ctx ends, too; cells are the account's other cells on this machine.
func (o *account) asksUntil(ctx context.Context, t *testing.T, cells map[peer.ID][][]byte, knowers ...knower) (done chan struct{}) {
	t.Helper()
	begun, peers := time.Now(), []peer.ID{}
	known := map[peer.ID][][]byte{}
	for i, k := range knowers {
		p := knowerID(t, i)
		peers, known[p] = append(peers, p), k.log
	}
	near := func() (list []peer.ID) {
		for i, p := range peers {
			if time.Since(begun) >= knowers[i].from {
				list = append(list, p)
			}
		}
		return list
	}
	fetch := func(_ context.Context, p peer.ID) (uint64, error) {
		for _, e := range known[p] {
			if err := o.told(e); err != nil {
				t.Error(err)
			}
		}
		return uint64(len(known[p])), nil
	}
	who := askable{near: near, fetch: fetch, cells: func() map[peer.ID]string {
		dirs := map[peer.ID]string{}
		for p := range cells {
			dirs[p] = p.String()
		}
		return dirs
	}}
	who.hear = func(ctx context.Context, dir string) (uint64, error) {
		p, err := peer.Decode(dir)
		if err != nil {
			return 0, err
		}
		for _, e := range cells[p] {
			if err := o.told(e); err != nil {
				t.Error(err)
			}
		}
		return uint64(len(cells[p])), nil
	}
	o.asked, done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		o.ask(ctx, who)
		close(o.asked)
	}()
	return done
}

// signs says whether the account's key signs, and fails if it does so in the place of another entry of the log.
func (o *account) signs(t *testing.T, log [][]byte) bool {
	t.Helper()
	err := o.begin(t.Context(), time.Now())
	if err != nil && cellproto.KindOf(err) != cellproto.Unavailable {
		t.Error(err)
	}
	if n := o.state(o.id).Len; err == nil && n < uint64(len(log)) {
		t.Errorf("it signs after %d of %d entries", n, len(log))
	}
	return err == nil
}

// A home cell that has lost its ledger, and meets nobody who knows its key log, signs no second first entry, however
// long it waits, and wherever its next key is: who knows the first would ban the account. Once two have shown the log it signs on.
func TestLostLogIsNotBegunAgain(t *testing.T) {
	for _, away := range []bool{false, true} {
		home, log := lostLog(t, away)
		synctest.Test(t, func(t *testing.T) {
			files, err := ledger.OpenDir(filepath.Join(home, ledgerDir))
			if err != nil {
				t.Fatal(err)
			}
			o := openHome(t, home, files)
			const day = 24 * time.Hour
			done := o.asks(t, knower{}, knower{day + time.Minute, log}, knower{2 * day, log})
			time.Sleep(day) // of the bubble
			if err := o.begin(t.Context(), time.Now()); cellproto.KindOf(err) != cellproto.Unavailable || o.state(o.id).Len > 0 {
				t.Errorf("after a day alone: %v, and its log has %d entries", err, o.state(o.id).Len)
			}
			time.Sleep(day / 2)
			if err := o.begin(t.Context(), time.Now()); cellproto.KindOf(err) != cellproto.Unavailable || o.state(o.id).Len != uint64(len(log)) {
				t.Errorf("with one who knows it: %v, and its log has %d entries", err, o.state(o.id).Len)
			}
			<-done
			if err := o.begin(t.Context(), time.Now()); err != nil || o.state(o.id).Len != uint64(len(log)) {
				t.Errorf("it does not go on from the log: %v, %d entries", err, o.state(o.id).Len)
			}
		})
	}
}

// A neighbour that has a part of a lost key log does not have the home cell go on from there: others are asked for the rest.
func TestLostLogComesInParts(t *testing.T) {
	home, log := lostLog(t, false)
	synctest.Test(t, func(t *testing.T) {
		files, err := ledger.OpenDir(filepath.Join(home, ledgerDir))
		if err != nil {
			t.Fatal(err)
		}
		o := openHome(t, home, files)
		const late = askPatience + 5*time.Second
		done := o.asks(t, knower{late - 5*time.Second, log[:1]}, knower{late, log}, knower{late, log})
		<-done
		if n := o.state(o.id).Len; n != uint64(len(log)) {
			t.Errorf("it goes on after %d of %d entries", n, len(log))
		}
		if err := o.begin(t.Context(), time.Now()); err != nil || o.state(o.id).Len != uint64(len(log)) {
			t.Errorf("it does not go on from the log: %v, %d entries", err, o.state(o.id).Len)
		}
	})
}

// A key log whose first entry was cut off, before it or after, is begun once, and has its next key.
func TestBeginIsCutOff(t *testing.T) {
	for name, step := range map[string]func(o *account, next ed25519.PrivateKey) error{
		"before the first entry": func(*account, ed25519.PrivateKey) error { return nil },
		"after it": func(o *account, next ed25519.PrivateKey) error {
			return o.append(time.Now(), &ledger.Genesis{Next: ledger.HashKey(ledger.KeyOf(next))})
		},
	} {
		home := t.TempDir()
		o := openHome(t, home, nil)
		next, err := o.keys.make(thenKeyFile)
		if err := errors.Join(err, step(o, next), o.a.led.Close()); err != nil {
			t.Fatal(err)
		}
		wrote := o.state(o.id).Len > 0
		o = openHome(t, home, nil)
		if o.begun() != wrote {
			t.Errorf("%s: begun %v", name, o.begun())
		}
		if err := o.begin(t.Context(), time.Now()); err != nil || !o.keys.begun() {
			t.Fatalf("%s: %v", name, err)
		}
		if s := o.state(o.id); s.Next != ledger.HashKey(ledger.KeyOf(next)) {
			t.Errorf("%s: another key was announced", name)
		}
		o.whole(t)
	}
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
