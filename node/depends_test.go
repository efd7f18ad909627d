package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/mirror"
)

// fakeRepos is a repository whose reference a test moves, and whose builds a test holds.
type fakeRepos struct {
	mu    sync.Mutex
	pin   mirror.Pin
	err   error // of ResolveRepo
	bad   error // of AddRepo
	hold  chan struct{}
	begun chan struct{} // told of each build; or nil
	asked int
	made  map[string]string // commit to directory
	root  string
}

func (f *fakeRepos) ResolveRepo(context.Context, celltoml.Repo) (mirror.Pin, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.pin, f.err
}

func (f *fakeRepos) HasRepo(_, commit string) (*mirror.Mirror, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, ok := f.made[commit]
	return &mirror.Mirror{Dir: dir}, ok
}

func (f *fakeRepos) AddRepo(ctx context.Context, _ celltoml.Repo, commit string, say func(string)) (*mirror.Mirror, bool, error) {
	say("building " + commit)
	if f.begun != nil {
		f.begun <- struct{}{}
	}
	f.mu.Lock()
	hold, bad := f.hold, f.bad
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, false, cellproto.Errorf("build", cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
		}
	}
	if bad != nil {
		return nil, false, bad
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, had := f.made[commit]
	if !had {
		dir = filepath.Join(f.root, commit)
		f.made[commit] = dir
	}
	return &mirror.Mirror{Dir: dir}, !had, nil
}

func (f *fakeRepos) set(do func()) { f.mu.Lock(); defer f.mu.Unlock(); do() }

// newFakeDepends gives dependencies with a clock that the test moves; started fails the starts while it is set.
func newFakeDepends(t *testing.T, dir string, f *fakeRepos, now *time.Time, started *error) *depends {
	t.Helper()
	d := &depends{
		repos: f, path: filepath.Join(dir, pinsFile), now: func() time.Time { return *now }, log: zap.NewNop(),
		start: func(context.Context, *mirror.Mirror) error { return *started },
		remove: func(_ context.Context, m *mirror.Mirror) error {
			f.set(func() { delete(f.made, filepath.Base(m.Dir)) })
			return nil
		},
	}
	d.begin(map[string]string{"lib": "https://example.org/lib.git@main", "beside": "../x"})
	t.Cleanup(func() { d.cancel(); d.work.Wait() })
	return d
}

func settle(d *depends) {
	d.mu.Lock()
	job := d.deps["lib"].job
	d.mu.Unlock()
	if job != nil {
		<-job.done
	}
}

// A branch is looked at again when it is called after a while, and what it was is used until what it is now is
// ready; what cannot be built changes nothing.
func TestDependencyMoves(t *testing.T) {
	dir, now, started := t.TempDir(), time.Unix(1000, 0), error(nil)
	f := &fakeRepos{pin: mirror.Pin{Commit: "one", Moves: true}, made: map[string]string{}, root: dir}
	d := newFakeDepends(t, dir, f, &now, &started)
	use := func(want string, asked int) {
		t.Helper()
		got, ok, err := d.Dir(t.Context(), "lib")
		if err != nil || !ok || filepath.Base(got) != want {
			t.Errorf("%q, %v: %v; want %q", got, ok, err, want)
		}
		settle(d)
		if f.asked != asked {
			t.Errorf("it was asked %d times, want %d", f.asked, asked)
		}
	}
	if _, ok, err := d.Dir(t.Context(), "beside"); ok || err != nil {
		t.Errorf("no dependency by git: %v, %v", ok, err)
	}
	use("one", 1)
	f.pin.Commit = "two"
	now = now.Add(depLook - time.Second)
	use("one", 1)
	now = now.Add(time.Second)
	use("one", 2) // and begins to look
	use("two", 2)
	f.pin.Commit, started = "three", cellproto.Errorf("start", cellproto.Unavailable, "it does not run")
	now = now.Add(depLook)
	use("two", 3)
	use("two", 3)
	if _, ok := f.made["three"]; ok {
		t.Error("what does not run was kept")
	}
	if row, _ := d.row("lib"); row.Commit != "two" || !strings.Contains(row.Error, "it does not run") {
		t.Errorf("%+v", row)
	}
	started, f.err = nil, cellproto.Errorf("look", cellproto.Failed, "there is no network")
	now = now.Add(depLook)
	use("two", 4)
	use("two", 4)
	if err := d.update(t.Context(), nil, func(string) {}); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("%v", err)
	}
	// Another nucleus knows it, without asking first; a tag is asked for once.
	f.err, f.pin.Moves = nil, false
	next := newFakeDepends(t, dir, f, &now, &started)
	if got, _, err := next.Dir(t.Context(), "lib"); err != nil || filepath.Base(got) != "two" {
		t.Errorf("%q: %v", got, err)
	}
	settle(next)
	asked := f.asked
	for range 3 {
		now = now.Add(depLook)
		if got, _, err := next.Dir(t.Context(), "lib"); err != nil || filepath.Base(got) != "three" {
			t.Errorf("%q: %v", got, err)
		}
		settle(next)
	}
	if f.asked != asked {
		t.Errorf("a tag was asked for %d times more", f.asked-asked)
	}
	// Its copy was collected: it is made again, of the same commit.
	f.set(func() { clear(f.made) })
	now = now.Add(depSure)
	if got, _, err := next.Dir(t.Context(), "lib"); err != nil || filepath.Base(got) != "three" || f.asked != asked {
		t.Errorf("%q: %v", got, err)
	}
}

// Who calls while it is being built is told so before the deadline, and when to come back; all wait for one
// build. A failure is the answer for a while.
func TestDependencyIsBuilt(t *testing.T) {
	dir, now, started := t.TempDir(), time.Unix(1000, 0), error(nil)
	f := &fakeRepos{pin: mirror.Pin{Commit: "one"}, made: map[string]string{}, root: dir, hold: make(chan struct{})}
	d := newFakeDepends(t, dir, f, &now, &started)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, _, err := d.Dir(ctx, "lib")
	if cellproto.KindOf(err) != cellproto.Unavailable || cellproto.RetryAfterOf(err) != depAgain || !strings.Contains(err.Error(), "building one") {
		t.Errorf("%v, again after %v", err, cellproto.RetryAfterOf(err))
	}
	if ctx.Err() != nil {
		t.Error("its word came too late")
	}
	var waiting sync.WaitGroup
	for range 8 {
		waiting.Go(func() {
			if got, _, err := d.Dir(t.Context(), "lib"); err != nil || filepath.Base(got) != "one" {
				t.Errorf("%q: %v", got, err)
			}
		})
	}
	close(f.hold)
	waiting.Wait()
	if f.asked != 1 {
		t.Errorf("it was asked %d times", f.asked)
	}
	f.set(func() { f.hold = nil; clear(f.made); f.bad = cellproto.Errorf("build", cellproto.Failed, "status 1") })
	now = now.Add(depSure)
	for range 3 {
		if _, _, err := d.Dir(t.Context(), "lib"); cellproto.KindOf(err) != cellproto.Failed {
			t.Errorf("%v", err)
		}
		settle(d)
		f.set(func() { f.bad = nil }) // they are told the same all the same
	}
	now = now.Add(depRetry)
	if got, _, err := d.Dir(t.Context(), "lib"); err != nil || filepath.Base(got) != "one" {
		t.Errorf("%q: %v", got, err)
	}
}

// A nucleus that stops waits for no build.
func TestDependencyStops(t *testing.T) {
	dir, now, started := t.TempDir(), time.Unix(1000, 0), error(nil)
	f := &fakeRepos{pin: mirror.Pin{Commit: "one"}, made: map[string]string{}, root: dir, hold: make(chan struct{}), begun: make(chan struct{})}
	d := newFakeDepends(t, dir, f, &now, &started)
	ended := make(chan error)
	go func() { _, _, err := d.Dir(t.Context(), "lib"); ended <- err }()
	<-f.begun
	d.cancel()
	if err := <-ended; cellproto.KindOf(err) != cellproto.Canceled {
		t.Errorf("%v", err)
	}
	d.work.Wait()
	if _, _, err := d.Dir(t.Context(), "lib"); err == nil {
		t.Error("it goes on after the end")
	}
	if err := os.WriteFile(d.path, []byte("{damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pins := d.load(); len(pins) != 0 {
		t.Errorf("%+v", pins)
	}
}
