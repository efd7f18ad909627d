package mirror

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// A mirror goes when nobody has used it for seven days, not before, and not while its nucleus runs.
func TestCollect(t *testing.T) {
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s := newTestStore(t, lying(program), c.Now)
	w := want(t, artefact(t, program), nil, nil)
	m := mustAdd(t, s, w)
	collects := func(n int, dry bool) {
		t.Helper()
		if gone, _, err := s.Collect(t.Context(), dry); err != nil || len(gone) != n {
			t.Errorf("%v were collected, want %d: %v", gone, n, err)
		}
	}
	c.now = c.now.Add(KeepUnused - time.Second)
	collects(0, false)
	if err := Touch(m.Dir, c.now); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(KeepUnused - time.Second)
	collects(0, false)
	c.now = c.now.Add(time.Second)
	collects(1, true)
	letGo, err := hold(t.Context(), m.Dir) // as a nucleus that is starting
	if err != nil {
		t.Fatal(err)
	}
	collects(0, false)
	letGo()
	if _, ok := s.Dir(w.CID); !ok {
		t.Error("it is gone already")
	}
	collects(1, false)
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("%q were left", rest)
	}
	collects(0, false)
	mustAdd(t, s, w)
}

// Of programs that are not whole a few are kept, for a while.
func TestCollectFetches(t *testing.T) {
	c := &clock{time.Now()}
	s := newTestStore(t, lying(program), c.Now)
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	root.Close()
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(s.cfg.Root, fetchDir, string(rune('a'+i))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustAdd(t, s, want(t, artefact(t, program), nil, nil))
	if rest, err := os.ReadDir(filepath.Join(s.cfg.Root, fetchDir)); err != nil || len(rest) > maxFetching {
		t.Errorf("%d are kept: %v", len(rest), err)
	}
	if _, _, err := s.Collect(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if rest, err := os.ReadDir(filepath.Join(s.cfg.Root, fetchDir)); err != nil || len(rest) > 0 {
		t.Errorf("%d are kept: %v", len(rest), err)
	}
}

// gc leaves nothing of strangers' programs that are not whole, names and locks included, but what is being fetched at the
// moment; before that it names what it would remove.
func TestCollectEmptiesTheCache(t *testing.T) {
	s := newTestStore(t, lying(program), nil)
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	root.Close()
	const part = ".owner-hungry-abc.0123456789abcdef.part" // as dht/content names it
	for _, name := range []string{part, "owner-hungry-whole", ".owner-busy-abc.0123456789abcdef.part"} {
		if err := os.WriteFile(filepath.Join(s.cfg.Root, fetchDir, name), []byte("program"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := s.lock(t.Context(), "owner-hungry-abc") // of the fetch that was interrupted
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if unlock, err = s.lock(t.Context(), "owner-busy-abc"); err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(s.cfg.Root, fetchDir, part), filepath.Join(s.cfg.Root, fetchDir, "owner-hungry-whole")}
	for _, dry := range []bool{true, false} {
		if _, rest, err := s.Collect(t.Context(), dry); err != nil || !slices.Equal(rest, want) {
			t.Errorf("dry %v: %q: %v", dry, rest, err)
		}
	}
	if rest := left(t, s); len(rest) != 1 || !strings.Contains(rest[0], "busy") {
		t.Errorf("%q were left", rest)
	}
	unlock()
	if _, rest, err := s.Collect(t.Context(), false); err != nil || len(rest) != 1 {
		t.Errorf("%q: %v", rest, err)
	}
	if locks, err := os.ReadDir(filepath.Join(s.cfg.Root, locksDir)); err != nil || len(locks) > 0 {
		t.Errorf("locks are left of what is gone: %v, %v", locks, err)
	}
}

// A lock that gc has removed is nobody's, also not whose who had opened it before.
func TestRemovedLock(t *testing.T) {
	s := newTestStore(t, lying(program), nil)
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	old := flock.New(filepath.Join(s.cfg.Root, locksDir, "a"))
	if ok, err := old.TryLock(); !ok || err != nil || !s.standsFor(old) {
		t.Fatal(ok, err)
	}
	defer old.Unlock()
	if err := root.Remove(path.Join(locksDir, "a")); err != nil {
		t.Fatal(err)
	}
	if s.standsFor(old) {
		t.Error("what was removed is taken for the lock")
	}
	unlock, err := s.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// Programs that are not whole are kept up to so many bytes, but for what is still written to.
func TestFetchingTakesLittleRoom(t *testing.T) {
	c := &clock{now: time.Now()}
	s := newTestStore(t, lying(program), c.Now)
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	root.Close()
	part := func(name string, age time.Duration) {
		path := filepath.Join(s.cfg.Root, fetchDir, name)
		err := os.WriteFile(path, nil, 0o600)
		if err == nil {
			err = os.Truncate(path, maxFetchingBytes/2)
		}
		if err == nil {
			err = os.Chtimes(path, c.now.Add(-age), c.now.Add(-age))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		part(string(rune('a'+i)), 2*stillFetching+time.Duration(i)*time.Minute)
	}
	part("fresh", time.Minute)
	mustAdd(t, s, want(t, artefact(t, program), nil, nil))
	var names []string
	rest, err := os.ReadDir(filepath.Join(s.cfg.Root, fetchDir))
	for _, e := range rest {
		names = append(names, e.Name())
	}
	if err != nil || strings.Join(names, " ") != "a fresh" {
		t.Errorf("%v are kept: %v", names, err)
	}
}

func TestRemove(t *testing.T) {
	s := newTestStore(t, lying(program), nil)
	one := want(t, artefact(t, program), nil, nil)
	two := want(t, artefact(t, program), nil, func(m *signed.Manifest) { m.Version = "2.0.0" })
	mustAdd(t, s, one)
	mustAdd(t, s, two)
	if _, err := s.Remove(t.Context(), "calculator"); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("which of two: %v", err)
	}
	if m, err := s.Remove(t.Context(), one.CID.String()); err != nil || m.CID != one.CID.String() {
		t.Fatalf("%+v: %v", m, err)
	}
	if m, err := s.Remove(t.Context(), "calculator"); err != nil || m.CID != two.CID.String() {
		t.Fatalf("%+v: %v", m, err)
	}
	if _, err := s.Remove(t.Context(), "calculator"); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("what is gone: %v", err)
	}
	for _, word := range []string{"..", "../../etc", "/etc", ""} {
		if _, err := s.Remove(t.Context(), word); cellproto.KindOf(err) != cellproto.NotFound {
			t.Errorf("%q: %v", word, err)
		}
	}
}

// Calls ask for the mirror of their cell, each of them: that has to be cheap.
func BenchmarkDir(b *testing.B) {
	s := newTestStore(b, lying(program), nil)
	w := want(b, artefact(b, program), nil, nil)
	if _, _, err := s.Add(b.Context(), w, silent); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, ok := s.Dir(w.CID); !ok {
			b.Fatal("it is not found")
		}
	}
}

// What was killed half-way is swept, but not what somebody works on.
func TestCollectSweeps(t *testing.T) {
	s := newTestStore(t, lying(program), nil)
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	root.Close()
	for _, name := range []string{".gone/a/data/x", ".new/b/bin/x", ".new/c.src/x", ".new/c.objects/x", ".new/busy.src/x"} {
		path := filepath.Join(s.cfg.Root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := s.lock(t.Context(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	for _, sweep := range []func() error{
		func() error { return s.Sweep(t.Context()) },
		func() error { _, _, err := s.Collect(t.Context(), false); return err },
	} {
		if err := sweep(); err != nil {
			t.Fatal(err)
		}
		if rest := left(t, s); len(rest) != 1 || rest[0] != ".new/busy.src/x" {
			t.Errorf("%q were left", rest)
		}
	}
	unlock()
	if _, _, err := s.Collect(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("%q were left", rest)
	}
}

// A copy of a repository that nobody uses goes like any other mirror.
func TestCollectRepo(t *testing.T) {
	r := newRepository(t).cell()
	src := r.commit()
	s := repoStore(t, makesIt)
	c := &clock{time.Now()}
	s.deps.Now = c.Now
	m, _, err := s.AddRepo(t.Context(), celltoml.Repo{URL: src.Repo, Ref: "main"}, src.Commit, silent)
	if err != nil {
		t.Fatal(err)
	}
	if gone, _, err := s.Collect(t.Context(), false); err != nil || len(gone) != 0 {
		t.Errorf("%v: %v", gone, err)
	}
	c.now = c.now.Add(KeepUnused)
	if gone, _, err := s.Collect(t.Context(), false); err != nil || len(gone) != 1 || gone[0].Dir != m.Dir {
		t.Errorf("%v: %v", gone, err)
	}
	if _, ok := s.HasRepo(src.Repo, src.Commit); ok || len(left(t, s)) > 0 {
		t.Errorf("it is there still: %q", left(t, s))
	}
}
