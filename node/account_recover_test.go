package node

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

const late = time.Hour // of a bubble

// reopened opens a home cell in a bubble: its disk is real.
func reopened(t *testing.T, home string) *account {
	t.Helper()
	files, err := ledger.OpenDir(filepath.Join(home, ledgerDir))
	if err != nil {
		t.Fatal(err)
	}
	return openHome(t, home, files)
}

// A home cell that is restarted when a part of its lost key log has come back does not take that for all of it.
func TestDoubtOutlivesTheNucleus(t *testing.T) {
	home, log := lostLog(t, false)
	synctest.Test(t, func(t *testing.T) {
		o := reopened(t, home)
		ctx, kill := context.WithCancel(t.Context())
		done := o.asksUntil(ctx, t, nil, knower{0, log[:1]})
		time.Sleep(5 * time.Second)
		if n := o.state(o.id).Len; n != 1 {
			t.Fatalf("%d entries have come back", n)
		}
		kill()
		<-done
		if err := o.a.led.Close(); err != nil {
			t.Fatal(err)
		}
		o = reopened(t, home)
		done = o.asks(t, knower{0, log[:1]}, knower{late + time.Minute, log}, knower{late + time.Minute, log})
		time.Sleep(late)
		if o.signs(t, log) || o.state(o.id).Len != 1 {
			t.Error("after a restart it signs on from a part")
		}
		<-done
		if !o.signs(t, log) {
			t.Error("it does not go on when two have shown it all")
		}
		if err := o.a.led.Close(); err != nil {
			t.Fatal(err)
		}
		o = reopened(t, home)
		<-o.asks(t)
		if !o.signs(t, log) {
			t.Error("it is in doubt for ever")
		}
	})
}

// A ledger that has lost the end of the key log alone, by a damaged segment or since it is older than the keys, is in doubt, too.
func TestEndOfTheLogIsLost(t *testing.T) {
	home, old := t.TempDir(), t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	dir := filepath.Join(home, ledgerDir)
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	o.delegated(t, 8)
	log, _ := o.a.led.Entries(o.id, 0, 1<<20)
	if err := errors.Join(o.a.led.Close(), os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(old))); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		o := reopened(t, home)
		done := o.asks(t, knower{late + time.Minute, log}, knower{2 * late, log})
		time.Sleep(late)
		if n := len(log); o.signs(t, log) || o.state(o.id).Len != uint64(n-1) {
			t.Error("it signs in the place of what it has lost")
		}
		<-done
		if !o.signs(t, log) {
			t.Error("it does not go on")
		}
	})
}

// shownLog has a home cell begin a key log, show it, and lose its ledger; with other it has another host, too.
func shownLog(t *testing.T, other bool, to ...peer.ID) (home string, log [][]byte) {
	t.Helper()
	home = t.TempDir()
	o := openHome(t, home, nil)
	if err := o.begin(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if other {
		o.delegated(t, 7)
	}
	for _, p := range to {
		o.showed(p)
	}
	log, _ = o.a.led.Entries(o.id, 0, 1<<20)
	if err := errors.Join(o.a.led.Close(), os.RemoveAll(filepath.Join(home, ledgerDir))); err != nil {
		t.Fatal(err)
	}
	return home, log
}

// Who has shown its key log to one neighbour alone goes on with that one; to two, with both; and with its other hosts.
func TestAllWhoKnowTheLog(t *testing.T) {
	cell, err := peerOf(ledger.KeyOf(seeded(7)))
	if err != nil {
		t.Fatal(err)
	}
	one, two := knowerID(t, 0), knowerID(t, 1)
	for name, c := range map[string]struct {
		shown []peer.ID
		other bool // there is another host
		here  bool // which runs on this machine
		come  int  // neighbours that come by
		want  bool
	}{
		"the only one":                  {[]peer.ID{one}, false, false, 1, true},
		"one of two":                    {[]peer.ID{one, two}, false, false, 1, false},
		"a stranger":                    {[]peer.ID{two}, false, false, 1, false},
		"nobody ever saw it":            {nil, false, false, 0, false},
		"one, and another host is away": {[]peer.ID{one}, true, false, 1, false},
		"one, and another host":         {[]peer.ID{one}, true, true, 1, true},
		"another host alone":            {nil, true, true, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			home, log := shownLog(t, c.other, c.shown...)
			synctest.Test(t, func(t *testing.T) {
				o := reopened(t, home)
				cells := map[peer.ID][][]byte{}
				if c.here {
					cells[cell] = log
				}
				ctx, kill := context.WithCancel(t.Context())
				done := o.asksUntil(ctx, t, cells, []knower{{0, log}}[:c.come]...)
				time.Sleep(late)
				if got := o.signs(t, log); got != c.want {
					t.Errorf("after an hour it signs: %v", got)
				}
				kill()
				<-done
			})
		})
	}
}

// One of the few who know the log has less of it than there was: that is not all, whoever agrees.
func TestLessThanThereWasIsNotAll(t *testing.T) {
	home, log := shownLog(t, false, knowerID(t, 0))
	part := log[:1]
	synctest.Test(t, func(t *testing.T) {
		o := reopened(t, home)
		ctx, kill := context.WithCancel(t.Context())
		done := o.asksUntil(ctx, t, nil, knower{0, part}, knower{0, part}, knower{0, part}, knower{0, part})
		time.Sleep(late)
		if o.signs(t, log) {
			t.Error("it signs after a part that four agree on")
		}
		kill()
		<-done
	})
}

// Whoever looks before anybody was asked is told what is missing, and not that the log is whole or was never begun.
func TestOwnerIsToldAtOnce(t *testing.T) {
	home, log := shownLog(t, false, knowerID(t, 0))
	o := reopened(t, home)
	o.asked = make(chan struct{})
	o.suspect() // as the nucleus does before it hears anybody
	for has := range 2 {
		if has > 0 {
			if err := o.told(log[0]); err != nil {
				t.Fatal(err)
			}
		}
		if r := o.recovery(); !r.Doubt || r.Entries != uint64(has) || r.AtLeast != 2 || r.Others || len(r.Wait) != 1 {
			t.Errorf("with %d entries the owner is told %+v", has, r)
		}
		if err := o.acceptLog("test", true); cellproto.KindOf(err) != cellproto.Unavailable {
			t.Errorf("with %d entries: %v", has, err)
		}
	}
}

// The owner can take what is here for all of it, once others were asked; what is known to be missing needs more than that.
func TestOwnerGoesOn(t *testing.T) {
	const op = "test"
	for name, c := range map[string]struct {
		has   int // entries that a neighbour has
		force bool
		want  cellproto.Kind
		left  uint64 // entries after it has signed
	}{
		"all is here":                  {2, false, 0, 2},
		"a part is":                    {1, false, cellproto.Denied, 1},
		"a part is, and it is forced":  {1, true, 0, 2},
		"nothing is":                   {0, false, cellproto.Denied, 0},
		"nothing is, and it is forced": {0, true, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			home, log := shownLog(t, false, knowerID(t, 0), knowerID(t, 1))
			synctest.Test(t, func(t *testing.T) {
				o := reopened(t, home)
				ctx, kill := context.WithCancel(t.Context())
				done := o.asksUntil(ctx, t, nil, knower{0, log[:c.has]})
				time.Sleep(5 * time.Second)
				if err := o.acceptLog(op, true); cellproto.KindOf(err) != cellproto.Unavailable {
					t.Errorf("before others were asked: %v", err)
				}
				time.Sleep(2 * lostPatience)
				if r := o.recovery(); !r.Doubt || r.Entries != uint64(c.has) || r.AtLeast != 2 || r.Others || len(r.Wait) == 0 {
					t.Errorf("the owner is told %+v", r)
				}
				if err := o.acceptLog(op, c.force); cellproto.KindOf(err) != c.want {
					t.Errorf("the owner's word: %v", err)
				}
				if c.want == 0 {
					<-done
				}
				if o.signs(t, nil) != (c.want == 0) || o.state(o.id).Len != c.left {
					t.Errorf("then it has %d entries", o.state(o.id).Len)
				}
				kill()
				<-done
				if err := o.a.led.Close(); err != nil {
					t.Fatal(err)
				}
				o = reopened(t, home)
				if m := o.keys.marked(); m.doubt != (c.want != 0) {
					t.Errorf("for the next nucleus: %+v", m)
				}
				if err := o.acceptLog(op, true); c.want == 0 && cellproto.KindOf(err) != cellproto.BadInput {
					t.Errorf("nothing is missing: %v", err)
				}
			})
		})
	}
}

// The mark is what was written, that of an old program says that anybody can have the log, and of one that is no mark nothing is lost.
func TestLogMark(t *testing.T) {
	home := t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	for i := range maxShown {
		o.showed(knowerID(t, i))
	}
	read := func() logMark {
		r, _, err := openKeyring(home)
		if err != nil {
			t.Fatal(err)
		}
		return r.marked()
	}
	if m := read(); m.entries != 3 || m.doubt || m.many || len(m.shown) != maxShown || !m.filed {
		t.Errorf("%+v", m)
	}
	o.showed(knowerID(t, maxShown))
	if m := read(); !m.many || m.shown != nil {
		t.Errorf("more were shown it: %+v", m)
	}
	if err := writeID(o.keys.path(begunFile), o.id); err != nil {
		t.Fatal(err)
	}
	if m := read(); m.entries != 1 || !m.many || m.doubt {
		t.Errorf("of an old program: %+v", m)
	}
	if err := os.WriteFile(o.keys.path(begunFile), []byte(textOf(o.id)+"\nwhat is this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _, err := openKeyring(home)
	if err != nil || !r.begun() {
		t.Errorf("of one that cannot be read: %v", err)
	}
	if err := r.suspect(&ledger.KeyState{}); cellproto.KindOf(err) != cellproto.Corrupt || !r.marked().doubt {
		t.Errorf("it is replaced: %v", err)
	}
}

// A segment that has lost an entry in the middle of the key log has the home cell ask for it, and sign nothing in its place.
func TestEntryOfTheLogIsDamaged(t *testing.T) {
	home := t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	o.delegated(t, 8)
	log, _ := o.a.led.Entries(o.id, 0, 1<<20)
	if err := o.a.led.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(home, ledgerDir, "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, log[2])+50] ^= 1
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		o := reopened(t, home)
		done := o.asks(t, knower{late + time.Minute, log}, knower{late + time.Minute, log})
		time.Sleep(late)
		if o.signs(t, log) {
			t.Error("it signs in the place of the damaged entry")
		}
		<-done
		if !o.signs(t, log) || o.state(o.id).Len != uint64(len(log)) {
			t.Error("it does not go on when the entry has come back")
		}
	})
}

// copyCell copies a cell, as a backup does: files that others cannot read.
func copyCell(to, from string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(from, path)
		if err = errors.Join(err, rerr); err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

// A neighbour whose line breaks when it is asked is asked again: it may be the only one that knows what a backup does not.
func TestWhoFailsIsAskedAgain(t *testing.T) {
	home, old := t.TempDir(), t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	if err := copyCell(old, home); err != nil {
		t.Fatal(err)
	}
	o.delegated(t, 8)
	log, _ := o.a.led.Entries(o.id, 0, 1<<20)
	for _, fails := range []time.Duration{0, 15 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			copied := t.TempDir()
			if err := copyCell(copied, old); err != nil {
				t.Fatal(err)
			}
			o := reopened(t, copied)
			begun, tries := time.Now(), 0
			o.asked = make(chan struct{})
			o.ask(t.Context(), askable{
				near: func() []peer.ID { return []peer.ID{knowerID(t, 0)} },
				fetch: func(context.Context, peer.ID) (uint64, error) {
					if tries++; tries == 1 || time.Since(begun) < fails {
						return 0, cellproto.Errorf("ask", cellproto.Unavailable, "stream reset")
					}
					for _, e := range log {
						if err := o.told(e); err != nil {
							t.Error(err)
						}
					}
					return uint64(len(log)), nil
				},
			})
			close(o.asked)
			if o.signs(t, log); o.state(o.id).Len < uint64(len(log)) {
				t.Errorf("after %v it goes on from %d of %d entries", time.Since(begun), o.state(o.id).Len, len(log))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // who never answers does not keep it for ever
		o := reopened(t, old)
		o.ask(t.Context(), askable{near: func() []peer.ID { return []peer.ID{knowerID(t, 0)} }, fetch: func(context.Context, peer.ID) (uint64, error) {
			return 0, cellproto.Errorf("ask", cellproto.Unavailable, "stream reset")
		}})
	})
}
