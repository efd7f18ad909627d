package mirror

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// What is in the directory of the foreign cells besides them. Nothing of it looks like a mirror.
//
//	.fetch/<blake3>    a program on its way: content keeps what it has beside it, and goes on from there
//	.new/<name>        a mirror that is being made
//	.gone/<name>       one that is being removed
//	.locks/<name>      held while either goes on
const (
	fetchDir = ".fetch"
	newDir   = ".new"
	goneDir  = ".gone"
	locksDir = ".locks"
)

// Fetcher gets programs.
type Fetcher interface {
	// Fetch fetches a to the path dst, verified by BLAKE3, from the peers named or whoever has it. An
	// interrupted one may leave hidden files beside dst, from which the next one goes on.
	Fetch(ctx context.Context, a signed.Artefact, from []peer.AddrInfo, dst string, progress func(done, total int64)) error
}

// Config says where mirrors are, and for which machine.
type Config struct {
	Root     string           // directory of the foreign cells, absolute; made when the first one is
	OS, Arch string           // as Go names them
	Account  cellproto.PeerID // of the person; its own cells of placement "friends" may be mirrored
	Environ  []string         // of the person, for their own git: AddRepo; nil: os.Environ

	CloneTimeout time.Duration // of one repository; 0: 120 s

	FileRepos bool // for tests: sources may be cloned from file:// too
}

// Validate reports what is missing, with kind BadInput.
func (c Config) Validate() error {
	if !filepath.IsAbs(c.Root) || c.OS == "" || c.Arch == "" {
		return cellproto.Errorf("open mirrors", cellproto.BadInput, "root %q, platform %q/%q", c.Root, c.OS, c.Arch)
	}
	return nil
}

// Deps is what a Store works with.
type Deps struct {
	Fetch Fetcher
	Build Builder          // nil: nothing is built from source
	Now   func() time.Time // nil: time.Now
}

// Store is the directory of the foreign cells. Its methods may be called from several goroutines, and
// several processes may have a Store of the same directory.
type Store struct {
	cfg  Config
	deps Deps

	mu     sync.Mutex
	index  map[cid.Cid]string // to the directory, of the last look
	looked time.Time
	root   time.Time // when Root was changed last, as of that look
}

// New gives the store. It touches nothing yet.
func New(cfg Config, deps Deps) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &Store{cfg: cfg, deps: deps}, nil
}

// Root is the directory of the foreign cells, which may not be there yet.
func (s *Store) Root() string { return s.cfg.Root }

// Mirror is a complete mirror.
type Mirror struct {
	Record
	Dir string // absolute
}

// open opens the directory of the foreign cells, which is made if it is missing. Everything is made and
// removed through it, so that no link that somebody has put there leads out of it.
func (s *Store) open() (*os.Root, error) {
	op := "open " + s.cfg.Root
	// Started by root, programs run as other users, who have to get there; nobody can list what there is.
	err := os.MkdirAll(s.cfg.Root, 0o711)
	for _, sub := range []string{fetchDir, newDir, goneDir, locksDir} {
		if err == nil {
			err = os.MkdirAll(filepath.Join(s.cfg.Root, sub), 0o700)
		}
	}
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	root, err := os.OpenRoot(s.cfg.Root)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	for _, sub := range []string{fetchDir, newDir, goneDir, locksDir} {
		if info, err := root.Lstat(sub); err != nil || !info.IsDir() {
			root.Close()
			return nil, cellproto.Errorf(op, cellproto.Failed, "%s in it is no directory", sub).
				WithHint("Remove it: it holds nothing that lasts.")
		}
	}
	return root, nil
}

// lockPause is how often a lock that another process has is tried again.
const lockPause = 20 * time.Millisecond

// lock keeps all others off the mirror of a name, also in other processes, until unlock or until this
// process ends.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l := flock.New(filepath.Join(s.cfg.Root, locksDir, name))
		ok, err := l.TryLockContext(ctx, lockPause)
		if err == nil && !ok {
			err = errors.New("somebody else has it")
		}
		if err != nil {
			return nil, cellproto.Errorf("lock "+name, cellproto.KindOf(err), "%w", err)
		}
		if s.standsFor(l) {
			return func() { l.Unlock() }, nil // the kernel does so too
		}
		l.Unlock() // of a file that Collect has removed meanwhile
	}
}

// standsFor says that a lock which is held is the one that others find under its name.
func (s *Store) standsFor(l *flock.Flock) bool {
	held, err := l.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.Path())
	return err == nil && os.SameFile(held, there)
}

// at gives the mirror in the directory of a name. Its kind is NotFound if there is none.
func (s *Store) at(name string) (*Mirror, error) {
	dir := filepath.Join(s.cfg.Root, name)
	if info, err := os.Lstat(dir); err != nil {
		return nil, cellproto.Errorf("open "+dir, cellproto.KindOf(err), "%w", err)
	} else if !info.IsDir() {
		return nil, cellproto.Errorf("open "+dir, cellproto.Failed, "it is no directory")
	}
	r, err := ReadRecord(dir)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, cellproto.Errorf("open "+dir, cellproto.Failed, "it is a directory, but no mirror: it has no %s", RecordFile).
			WithHint("Move it away: this name belongs to a mirror.")
	}
	return &Mirror{Record: *r, Dir: dir}, nil
}

// List gives all mirrors, by name. What cannot be read is left out.
func (s *Store) List() ([]Mirror, error) {
	entries, err := os.ReadDir(s.cfg.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cellproto.Errorf("list mirrors", cellproto.KindOf(err), "%w", err)
	}
	var out []Mirror
	for _, e := range entries {
		if !dirName.MatchString(e.Name()) {
			continue
		}
		if m, err := s.at(e.Name()); err == nil {
			out = append(out, *m)
		}
	}
	return out, nil
}

// Others gives this person's mirrors of other versions of a cell, as far as that can be told by its owner and its name.
// What is hosted for others is none of them: those want followed what they use.
func (s *Store) Others(id cid.Cid, m *signed.Manifest) ([]Mirror, error) {
	all, err := s.List()
	var out []Mirror
	for _, o := range all {
		if o.CID != "" && !o.Hosted && o.CID != id.String() && o.Owner == string(m.Owner) && o.Name == m.Name {
			out = append(out, o)
		}
	}
	return out, err
}

// lookAgain is how long the index is believed.
const lookAgain = time.Second

// Dir gives the directory of the mirror of a published cell. It is cheap: it looks when a directory has come or
// gone, and else once a second.
func (s *Store) Dir(id cid.Cid) (dir string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, root := s.deps.Now(), time.Time{}
	if info, err := os.Stat(s.cfg.Root); err == nil {
		root = info.ModTime()
	}
	if s.index == nil || now.Sub(s.looked) >= lookAgain || now.Before(s.looked) || !root.Equal(s.root) {
		s.index, s.looked, s.root = map[cid.Cid]string{}, now, root
		all, err := s.List()
		if err != nil {
			return "", false // then there is none that could be called
		}
		for _, m := range all {
			if id, err := cid.Decode(m.CID); err == nil {
				s.index[id] = m.Dir
			}
		}
	}
	dir, ok = s.index[id]
	return dir, ok
}

// forget has the next Dir look again.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index = nil
}

// find gives the mirror that a word names: a CID, the name of a directory, or the name of a cell if
// there is one mirror of that name only.
func (s *Store) find(word string) (*Mirror, error) {
	op := "find mirror " + word
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var named []Mirror
	for _, m := range all {
		if m.CID == word || filepath.Base(m.Dir) == word || m.Dir == word {
			return &m, nil
		}
		if m.Name == word {
			named = append(named, m)
		}
	}
	switch len(named) {
	case 0:
		return nil, cellproto.Errorf(op, cellproto.NotFound, "there is no mirror of it here").WithHint("cellctl mirror ls")
	case 1:
		return &named[0], nil
	}
	return nil, cellproto.Errorf(op, cellproto.BadInput, "%d mirrors have this name", len(named)).
		WithHint("Give the CID: cellctl mirror ls prints it.")
}
