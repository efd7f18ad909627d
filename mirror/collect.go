package mirror

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// KeepUnused is how long a mirror that is stopped is kept after its last use.
const KeepUnused = 7 * 24 * time.Hour

// maxFetching bounds how many programs that are not whole are kept, and maxFetchingBytes how large they are together, but
// for those that were written to within stillFetching.
const (
	maxFetching      = 8
	maxFetchingBytes = 1 << 30
	stillFetching    = 10 * time.Minute
)

const (
	askTimeout = 2 * time.Second  // for a nucleus to say how it is
	endTimeout = 15 * time.Second // for one to stop
)

// State asks the nucleus of a mirror how it is: running, frozen, idle or stopped.
func State(ctx context.Context, dir string) string {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, err := (&ctl.Client{Dir: dir}).Status(ctx)
	if err != nil {
		return ctl.Stopped
	}
	return status.State
}

// Remove stops the mirror that a word names, and removes it: a CID, the name of its directory, or that
// of the cell if it is the only one of that name.
func (s *Store) Remove(ctx context.Context, word string) (*Mirror, error) {
	m, err := s.find(word)
	if err != nil {
		return nil, err
	}
	if err := Stop(ctx, m.Dir); err != nil {
		return nil, err
	}
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return m, s.discard(ctx, root, filepath.Base(m.Dir))
}

// Stop stops the nucleus of a cell's directory, and returns when it has.
func Stop(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := (&ctl.Client{Dir: dir}).Stop(ctx); err != nil && !errors.Is(err, ctl.ErrNotRunning) && !errors.Is(err, ctl.ErrLost) {
		return cellproto.Errorf("stop "+dir, cellproto.KindOf(err), "%w", err)
	}
	unlock, err := hold(ctx, dir)
	if err != nil {
		return err
	}
	unlock()
	return nil
}

// hold keeps every nucleus from starting in dir, as soon as none runs there.
func hold(ctx context.Context, dir string) (unlock func(), err error) {
	run := filepath.Join(dir, ctl.RunDir)
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, cellproto.Errorf("lock "+dir, cellproto.KindOf(err), "%w", err)
	}
	l := flock.New(filepath.Join(run, "lock"))
	if ok, err := l.TryLockContext(ctx, lockPause); err != nil || !ok {
		return nil, cellproto.Errorf("lock "+dir, cellproto.Unavailable, "its nucleus runs").WithHint("cellctl stop %s", dir)
	}
	return func() { l.Unlock() }, nil // the kernel does so too
}

// discard removes a mirror that is stopped, in one step as far as anybody sees.
func (s *Store) discard(ctx context.Context, root *os.Root, name string) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	defer s.forget()
	letGo, err := hold(ctx, filepath.Join(s.cfg.Root, name))
	if err != nil {
		return err
	}
	defer letGo()
	gone := path.Join(goneDir, name)
	err = root.RemoveAll(gone) // of a removal that was killed
	if err == nil {
		err = root.Rename(name, gone)
	}
	if err == nil {
		err = root.RemoveAll(gone)
	}
	if err != nil {
		return cellproto.Errorf("remove "+name, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// Collect removes the mirrors that are stopped and were not used for KeepUnused, and what was left half-way or is kept of
// fetches that were interrupted, but for what somebody works on. It gives the mirrors, and the paths of the rest; with dry
// it removes nothing.
func (s *Store) Collect(ctx context.Context, dry bool) (gone []Mirror, rest []string, err error) {
	all, err := s.List()
	if err != nil || all == nil && !s.exists() {
		return nil, nil, err
	}
	root, err := s.open()
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	if gone, err = s.unused(ctx, root, all, dry); err != nil {
		return gone, nil, err
	}
	for _, sub := range []string{newDir, goneDir, fetchDir} {
		swept, err := s.sweep(ctx, root, sub, dry)
		rest = append(rest, swept...)
		if err != nil {
			return gone, rest, err
		}
	}
	if !dry {
		err = s.sweepLocks(ctx, root)
	}
	return gone, rest, err
}

// unused gives, and unless it is dry removes, those of all that are stopped and were not used for KeepUnused.
func (s *Store) unused(ctx context.Context, root *os.Root, all []Mirror, dry bool) (out []Mirror, err error) {
	for _, m := range all {
		if s.deps.Now().Sub(m.LastUsed) < KeepUnused || State(ctx, m.Dir) != ctl.Stopped {
			continue
		}
		if !dry {
			// Whoever starts it in this moment wins: it is kept.
			quick, cancel := context.WithTimeout(ctx, 2*lockPause)
			err := s.discard(quick, root, filepath.Base(m.Dir))
			cancel()
			if cellproto.KindOf(err) == cellproto.Unavailable || cellproto.KindOf(err) == cellproto.Timeout {
				continue
			}
			if err != nil {
				return out, err
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// Sweep removes what was left half-way by what was killed. What somebody works on stays, and so does what an interrupted
// fetch has.
func (s *Store) Sweep(ctx context.Context) error {
	if !s.exists() {
		return nil
	}
	root, err := s.open()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, sub := range []string{newDir, goneDir} {
		_, sweepErr := s.sweep(ctx, root, sub, false)
		err = errors.Join(err, sweepErr)
	}
	return err
}

func (s *Store) exists() bool {
	_, err := os.Lstat(s.cfg.Root)
	return err == nil
}

// fetchedPart is how dht/content names what it has of a file that it fetches: .<name>.<hash>.part.
var fetchedPart = regexp.MustCompile(`^\.(.+)\.[0-9a-f]{16}\.part$`)

// mirrorOf gives the mirror for which something in .new, .gone or .fetch is, by its name.
func mirrorOf(name string) string {
	if part := fetchedPart.FindStringSubmatch(name); part != nil {
		return part[1]
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, sourceSuffix), objectsSuffix)
}

// sweep removes what is in .new or .gone of what was killed, or in .fetch of what was interrupted, unless it is dry, and
// gives the paths. What somebody works on is locked, and stays.
func (s *Store) sweep(ctx context.Context, root *os.Root, sub string, dry bool) (swept []string, err error) {
	entries, err := fs.ReadDir(root.FS(), sub)
	if err != nil {
		return nil, cellproto.Errorf("sweep "+sub, cellproto.KindOf(err), "%w", err)
	}
	for _, e := range entries {
		unlock, ok := s.lockAtOnce(ctx, mirrorOf(e.Name()))
		if !ok {
			continue
		}
		if !dry {
			err = root.RemoveAll(path.Join(sub, e.Name()))
		}
		unlock()
		if err != nil {
			return swept, cellproto.Errorf("sweep "+sub, cellproto.KindOf(err), "%w", err)
		}
		swept = append(swept, filepath.Join(s.cfg.Root, sub, e.Name()))
	}
	return swept, nil
}

// sweepLocks removes the locks of mirrors that are not here: they have names of strangers' cells.
func (s *Store) sweepLocks(ctx context.Context, root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), locksDir)
	if err != nil {
		return cellproto.Errorf("sweep "+locksDir, cellproto.KindOf(err), "%w", err)
	}
	for _, e := range entries {
		if _, err := root.Lstat(e.Name()); err == nil {
			continue
		}
		unlock, ok := s.lockAtOnce(ctx, e.Name())
		if !ok {
			continue
		}
		err := root.Remove(path.Join(locksDir, e.Name())) // while it is held: whoever has opened it meanwhile opens it again
		unlock()
		if err != nil {
			return cellproto.Errorf("sweep "+locksDir, cellproto.KindOf(err), "%w", err)
		}
	}
	return nil
}

// drop removes from .fetch what there is of one program. Its name is locked.
func (s *Store) drop(root *os.Root, name string) error {
	entries, err := fs.ReadDir(root.FS(), fetchDir)
	for _, e := range entries {
		if mirrorOf(e.Name()) == name {
			err = errors.Join(err, root.RemoveAll(path.Join(fetchDir, e.Name())))
		}
	}
	if err != nil {
		return cellproto.Errorf("remove what was fetched of "+name, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// lockAtOnce is lock for who does not wait for others.
func (s *Store) lockAtOnce(ctx context.Context, name string) (unlock func(), ok bool) {
	quick, cancel := context.WithTimeout(ctx, 2*lockPause)
	defer cancel()
	unlock, err := s.lock(quick, name)
	return unlock, err == nil
}

// makeRoom sees to it that the programs that are not whole do not become many; the one named stays.
// The oldest of more than maxFetching, or of more bytes than are kept, go. A fetch that goes on in another process would
// lose its file and say so: what it writes to is never among the oldest.
func (s *Store) makeRoom(root *os.Root, but string) error {
	entries, err := fs.ReadDir(root.FS(), fetchDir)
	if err != nil {
		return cellproto.Errorf("sweep "+fetchDir, cellproto.KindOf(err), "%w", err)
	}
	type file struct {
		name string
		at   time.Time
		size int64
	}
	var files []file
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.Contains(e.Name(), but) {
			files = append(files, file{e.Name(), info.ModTime(), info.Size()})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return b.at.Compare(a.at) })
	now, bytes := s.deps.Now(), int64(0)
	for i, f := range files {
		bytes += f.size
		age := now.Sub(f.at)
		if i < maxFetching-1 && (bytes <= maxFetchingBytes || age < stillFetching) {
			continue
		}
		if err := root.RemoveAll(path.Join(fetchDir, f.name)); err != nil {
			return cellproto.Errorf("sweep "+fetchDir, cellproto.KindOf(err), "%w", err)
		}
	}
	return nil
}
