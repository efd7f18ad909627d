package node

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// openHome opens the account of a home cell that is alone, as its nucleus does.
func openHome(t *testing.T, home string, files ledger.Files) *account {
	t.Helper()
	host, err := loadKey(home, hostKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loadKey(home, accountKeyFile); err != nil {
		t.Fatal(err)
	}
	n := &nucleus{cfg: &celltoml.Config{Dir: home}, mirrors: &mirrors{home: home}}
	n.cfg.Cell.Name = "home"
	a := &accounts{n: n, log: zap.NewNop(), net: ledger.NetOf("test")}
	if a.key, err = rawKey(hostKeyFile, host); err != nil {
		t.Fatal(err)
	}
	a.self = ledger.KeyOf(a.key)
	if a.own, err = newAccount(a); err != nil {
		t.Fatal(err)
	}
	if files == nil {
		if files, err = ledger.OpenDir(filepath.Join(home, ledgerDir)); err != nil {
			t.Fatal(err)
		}
	}
	if a.led, _, err = ledger.Open(ledger.Config{Net: a.net, Self: a.self, Account: a.own.id}, files, time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.led.Close() })
	a.led.Alone()
	a.travel = gossip.NewTravel(gossip.Config{Net: a.net, Key: a.key, Account: a.own.id}, gossip.Deps{Ledger: a.led})
	close(a.own.asked)
	return a.own
}

// delegated has the account take in another host, which it signs.
func (o *account) delegated(t *testing.T, seed byte) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	now := time.Now()
	d := &ledger.Delegate{Host: ledger.KeyOf(key), Cell: "work", NotAfter: uint64(now.Add(hostTerm).UnixMilli())}
	err := d.SignConsent(o.a.net, o.id, key)
	if err == nil {
		err = o.begin(t.Context(), now)
	}
	if err == nil {
		o.writing.Lock()
		defer o.writing.Unlock()
		err = o.delegate(d, now)
	}
	if err != nil {
		t.Fatalf("a host is not taken in: %v", err)
	}
}

// whole checks that the files are as after a rotation that came to its end.
func (o *account) whole(t *testing.T) {
	t.Helper()
	s := o.state(o.id)
	key, err := o.keys.read(accountKeyFile)
	if err != nil || ledger.KeyOf(key) != s.Key || ledger.KeyOf(o.keys.inForce()) != s.Key {
		t.Errorf("account.key is not the key in force: %v", err)
	}
	if next, err := o.keys.read(nextKeyFile); err != nil || ledger.HashKey(ledger.KeyOf(next)) != s.Next {
		t.Errorf("next.key is not the key that was announced: %v", err)
	}
}

// A rotation that is cut off behind any of its steps leaves an account that signs, and can be rotated.
func TestRotationIsCutOff(t *testing.T) {
	for cut := range 5 {
		home := t.TempDir()
		o := openHome(t, home, nil)
		id := o.id
		o.delegated(t, 7)
		before := o.state(id)
		var next, then ed25519.PrivateKey
		steps := []func() error{
			func() (err error) { next, then, err = o.keys.prepare(before); return err },
			func() error {
				_, err := o.a.led.AppendKey(time.Now(), &ledger.Rotate{Key: ledger.KeyOf(next), Next: ledger.HashKey(ledger.KeyOf(then))}, next)
				return err
			},
			func() error { return o.keys.install(o.state(id)) },
			func() error { return o.keys.advance(o.state(id)) },
		}
		for _, step := range steps[:cut] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.a.led.Close(); err != nil {
			t.Fatal(err)
		}

		o = openHome(t, home, nil)
		if o.id != id {
			t.Fatalf("cut %d: it is another account", cut)
		}
		if err := o.ready(t.Context(), "test", nil); err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		s := o.state(id)
		if rotated := s.Key != before.Key; rotated != (cut >= 2) {
			t.Errorf("cut %d: rotated %v", cut, rotated)
		}
		o.delegated(t, 8)
		o.whole(t)
		for range 2 {
			r, err := o.rotate(t.Context(), time.Now(), false)
			if err != nil || r.Account != textOf(id) || r.Before == r.Key || r.Key != textOf(o.state(id).Key) {
				t.Fatalf("cut %d: %+v %v", cut, r, err)
			}
			o.whole(t)
		}
		o.delegated(t, 9)
		if _, err := os.Lstat(o.keys.path(thenKeyFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cut %d: then.key is there: %v", cut, err)
		}
		for _, name := range []string{accountKeyFile, nextKeyFile} {
			if key, err := o.keys.read(name); err != nil || ledger.KeyOf(key) == before.Key {
				t.Errorf("cut %d: the replaced key is in %s: %v", cut, name, err)
			}
		}
		if hosts := len(o.state(id).Hosts); hosts != 4 {
			t.Errorf("cut %d: %d hosts", cut, hosts)
		}
	}
}

// failing is a disk that takes nothing while full is set.
type failing struct {
	ledger.Files
	full *atomic.Bool
}

func (f failing) Create(name string) (ledger.File, error) {
	file, err := f.Files.Create(name)
	return failingFile{file, f.full}, err
}

func (f failing) Open(name string) (ledger.File, error) {
	file, err := f.Files.Open(name)
	return failingFile{file, f.full}, err
}

type failingFile struct {
	ledger.File
	full *atomic.Bool
}

var errFull = errors.New("no space left")

func (f failingFile) Append(p []byte) error {
	if f.full.Load() {
		return errFull
	}
	return f.File.Append(p)
}

// A rotation that the disk does not take is made with the next try, or with what is signed next.
func TestRotationOnAFullDisk(t *testing.T) {
	for _, again := range []string{"rotate", "delegate"} {
		home := t.TempDir()
		files, err := ledger.OpenDir(filepath.Join(home, ledgerDir))
		if err != nil {
			t.Fatal(err)
		}
		var full atomic.Bool
		o := openHome(t, home, failing{files, &full})
		o.delegated(t, 7)
		before := o.state(o.id)
		full.Store(true)
		if _, err := o.rotate(t.Context(), time.Now(), false); cellproto.KindOf(err) != cellproto.Failed {
			t.Fatalf("on a full disk: %v", err)
		}
		if o.state(o.id).Key != before.Key || ledger.KeyOf(o.keys.inForce()) != before.Key {
			t.Error("it is rotated before it is on the disk")
		}
		full.Store(false)
		if again == "rotate" {
			if _, err := o.rotate(t.Context(), time.Now(), false); err != nil {
				t.Fatal(err)
			}
		}
		o.delegated(t, 8)
		o.whole(t)
		if s := o.state(o.id); s.Len != before.Len+2 || s.Key == before.Key {
			t.Errorf("%s: %d entries, there were %d", again, s.Len, before.Len)
		}
	}
}

// Without the key that was announced nothing is rotated, and an account whose log is lost begins no other one.
func TestRotationIsRefused(t *testing.T) {
	home := t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	next, away := o.keys.path(nextKeyFile), filepath.Join(t.TempDir(), "next.key")
	if err := os.Rename(next, away); err != nil {
		t.Fatal(err)
	}
	if _, err := o.rotate(t.Context(), time.Now(), false); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("without next.key: %v", err)
	}
	if _, err := loadKey(home, nextKeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := o.rotate(t.Context(), time.Now(), false); cellproto.KindOf(err) != cellproto.Corrupt {
		t.Errorf("with another next.key: %v", err)
	}
	if err := os.Rename(away, next); err != nil {
		t.Fatal(err)
	}
	if _, err := o.rotate(t.Context(), time.Now(), false); err != nil {
		t.Fatal(err)
	}
	if err := o.a.led.Close(); err != nil {
		t.Fatal(err)
	}
	ledgerOf, lost := filepath.Join(home, ledgerDir), filepath.Join(t.TempDir(), "lost")
	if err := os.Rename(ledgerOf, lost); err != nil {
		t.Fatal(err)
	}
	id := o.id
	if o = openHome(t, home, nil); o.id != id {
		t.Error("without its ledger it is another account")
	}
	if err := o.begin(t.Context(), time.Now()); cellproto.KindOf(err) != cellproto.Unavailable || o.state(id).Len > 0 {
		t.Errorf("without its ledger: %v", err)
	}
}

// What the nucleus of another cell signs it signs with the key that is in force now.
func TestPersonKeyIsReadAgain(t *testing.T) {
	home := t.TempDir()
	first, err := loadKey(home, accountKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	now := personKey(home, first)
	if !now().Equals(first) {
		t.Error("it is another one")
	}
	if err := os.Remove(filepath.Join(home, "keys", accountKeyFile)); err != nil {
		t.Fatal(err)
	}
	if !now().Equals(first) {
		t.Error("without a file it is another one")
	}
	second, err := loadKey(home, accountKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !now().Equals(second) {
		t.Error("it is still the old one")
	}
}

// Donations are signed anew with the key that comes into force: who hears of the rotation takes nothing from the one before. One that
// was lost comes back from another cell of this person's, or by the person's word.
func TestDonationsAreSignedWithTheNewKey(t *testing.T) {
	o := openHome(t, t.TempDir(), nil)
	o.networked(t)
	lostTo, err := gossip.KeyOf(o.meets(t).ID())
	if err != nil {
		t.Fatal(err)
	}
	to := o.a.self
	o.delegated(t, 7)
	if _, err := o.a.led.SignCheque(time.Now(), o.id, to, 500, "", o.keys.inForce()); err != nil {
		t.Fatal(err)
	}
	before := o.keys.inForce()
	if _, err := o.rotate(t.Context(), time.Now(), false); err != nil {
		t.Fatal(err)
	}
	verified := func(to ledger.Key) (ok bool) {
		o.a.led.View(func(b *ledger.Book) {
			c := b.Cheque(o.id, to)
			if c == nil {
				return
			}
			data, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			s, body, err := ledger.DecodeCheque(data)
			ok = err == nil && s.Credit == 500 && ledger.VerifyCheque(s, body, ledger.KeyOf(o.keys.inForce())) == nil
		})
		return ok
	}
	if !verified(to) {
		t.Error("the donation is not signed with the new key")
	}
	lost, err := ledger.SealCheque(ledger.Cheque{Net: o.a.net, Donor: o.id, To: lostTo, N: 1, Credit: 500, T: uint64(time.Now().UnixMilli())}, before)
	if err != nil {
		t.Fatal(err)
	}
	data, err := lost.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.a.travel.Ingest(o.a.n.host.ID(), data); err != nil || verified(lostTo) {
		t.Errorf("one that a replaced key has signed is taken from anybody, or somebody is to blame: %v", err)
	}
	if err := o.prove(t.Context(), textOf(lostTo), nil); err != nil || !verified(lostTo) {
		t.Errorf("by the owner's word it is not taken, and signed anew: %v", err)
	}
}
