// Package state keeps what a program wants to find again, for programs that cannot write to the disk and
// for all others: keys with values, and files, under data/store of the cell's directory.
//
// It owns that directory, the limits (bytes in all, bytes a second, sizes, names, calls at a time), and the
// answers to the functions cell.kv.* and cell.file.*, which a program calls on the connection that it serves.
// What was acknowledged is on the disk. It does not know what the program is, nor who calls it.
package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/celldnet/celld/cellproto"
)

// Dir is where a cell's state is kept, below its directory.
const Dir = "data/store"

const (
	minSize  = 1 << 20
	minRate  = 64 << 10 // bytes a second
	dirMode  = 0o700
	fileMode = 0o600
	// block is what anything on the disk takes at least, in bytes.
	block = 4 << 10
	// retryAfter is what a program is told to wait that makes too many calls at a time.
	retryAfter = 50 * time.Millisecond
)

// Config says where state is kept and how much of it. Dir must be set.
type Config struct {
	Dir  string // of the cell, absolute
	Size int64  // bytes on the disk in all, at least 1 MiB; default 64 MiB
	Rate int    // bytes a second, written and read; default cellproto.StateRate
}

func (c Config) withDefaults() Config {
	if c.Size == 0 {
		c.Size = 64 << 20
	}
	if c.Rate == 0 {
		c.Rate = cellproto.StateRate
	}
	return c
}

// Validate reports the first field that is out of bounds, with kind BadInput.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return cellproto.Errorf("check state config", cellproto.BadInput, format, args...)
	}
	switch c = c.withDefaults(); {
	case !filepath.IsAbs(c.Dir):
		return bad("Dir %q is not an absolute path", c.Dir)
	case c.Size < minSize:
		return bad("Size is %d bytes, the least is %d", c.Size, minSize)
	case c.Rate < minRate:
		return bad("Rate is %d bytes a second, the least is %d", c.Rate, minRate)
	}
	return nil
}

// Store is the state of one cell. Nothing is opened, nor made, before a program asks for it.
type Store struct {
	cfg   Config
	log   *zap.Logger
	rate  *rate.Limiter
	ctx   context.Context // of all calls; ends with Close
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu     sync.Mutex
	closed bool
	calls  int // under way
	bodies int // of them, those that move files

	// quota is held while something grows on the disk.
	quota sync.Mutex

	keys  keys
	files files
}

// New makes a store. log may be nil.
func New(cfg Config, log *zap.Logger) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = zap.NewNop()
	}
	s := &Store{cfg: cfg.withDefaults(), log: log}
	s.rate = rate.NewLimiter(rate.Limit(s.cfg.Rate), s.cfg.Rate)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.keys.s, s.files.s = s, s
	return s, nil
}

// Close ends the calls under way, waits for them, and closes what is open. Later calls are Unavailable.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.tasks.Wait()
	s.keys.close()
	s.files.close()
}

// begin takes a place for a call, which end gives back.
func (s *Store) begin(body bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return cellproto.Errorf("", cellproto.Unavailable, "the nucleus is stopping")
	case s.calls >= cellproto.MaxStateCalls || body && s.bodies >= cellproto.MaxStateBodies:
		e := cellproto.Errorf("", cellproto.Overloaded, "%d calls for state are under way, %d of them with files", s.calls, s.bodies)
		e.RetryAfter = retryAfter
		return e
	}
	if s.calls++; body {
		s.bodies++
	}
	s.tasks.Add(1)
	return nil
}

func (s *Store) end(body bool) {
	s.mu.Lock()
	if s.calls--; body {
		s.bodies--
	}
	s.mu.Unlock()
	s.tasks.Done()
}

// pay waits until n more bytes may be moved. What cannot before the deadline is Overloaded: nothing was done.
func (s *Store) pay(ctx context.Context, n int) error {
	for n > 0 {
		part := min(n, s.rate.Burst())
		if err := s.rate.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return cellproto.Errorf("", cellproto.KindOf(ctx.Err()), "%w while it waited for its turn: state is kept at %d bytes a second", ctx.Err(), s.cfg.Rate)
			}
			e := cellproto.Errorf("", cellproto.Overloaded, "the state's %d bytes a second are used up for longer than there is time", s.cfg.Rate)
			e.RetryAfter = time.Second
			return e
		}
		n -= part
	}
	return nil
}

// errFull says that the state may take no more of the disk.
func (s *Store) errFull() error {
	return cellproto.Errorf("", cellproto.TooLarge, "the cell's state may take %d bytes of the disk, and has them", s.cfg.Size).
		WithHint("Delete what is not needed, or raise [resources] disk in cell.toml.")
}

// diskError gives what the system said as the program's users are to read it.
func diskError(err error) error {
	var known *cellproto.Error
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return cellproto.Errorf("", cellproto.Failed, "the disk is full: %w", err).WithHint("Make room on the disk that the cell's directory is on.")
	case errors.Is(err, syscall.EROFS):
		return cellproto.Errorf("", cellproto.Failed, "%w", err).WithHint("The cell's directory is on a disk that is mounted read-only.")
	}
	return cellproto.Errorf("", cellproto.Failed, "%w", err)
}

// openRoot opens a directory below the cell's, which is made if it is missing. No symbolic link leads out.
func (s *Store) openRoot(sub string) (*os.Root, error) {
	cell, err := os.OpenRoot(s.cfg.Dir)
	if err != nil {
		return nil, diskError(err)
	}
	defer cell.Close()
	path := filepath.Join(filepath.FromSlash(Dir), sub)
	if err := cell.MkdirAll(path, dirMode); err != nil {
		return nil, diskError(err)
	}
	root, err := cell.OpenRoot(path)
	return root, diskError(err)
}

// asideName is the name of what was damaged, so that its owner finds it.
func asideName(name string, now time.Time) string {
	return fmt.Sprintf("%s.damaged-%s", name, now.UTC().Format("20060102T150405.000"))
}
