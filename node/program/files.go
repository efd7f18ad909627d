package program

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
)

// keptDir is where the last good program is kept, so that it can be taken up again after the one in
// bin/ was replaced by a bad one. Like all of cache/ it can be deleted.
//
//	cache/swap/program        the last good program: a copy, which shares its blocks where it can
//	cache/swap/program.of     which file in bin/ that is the copy of
//	cache/swap/next-N         one that has been started and has not proven itself yet
//	cache/swap/refused.json   the program in bin/ that is not to be run, and why
const keptDir = "cache/swap"

const (
	keptFile    = "program"
	keptOfFile  = "program.of"
	nextPrefix  = "next-"
	refusedFile = "refused.json"
	beforeFile  = "before" // what Install has replaced
)

// files knows the program's files: which one is to be started, and which one to go back to.
type files struct {
	bin string // what cell.toml names
	dir string // keptDir
	log *zap.Logger

	mu     sync.Mutex
	loaded bool
	bad    os.FileInfo // bin as it was when it was refused; nil: it was not
	why    refusal     // of bad
	next   int
	same   keptOf // what was noted, when it was found to hold last
}

// refusal is what refused.json says.
type refusal struct {
	BLAKE3 string    `json:"blake3"`
	Reason string    `json:"reason"`
	Hint   string    `json:"hint,omitempty"`
	At     time.Time `json:"at"`
}

func newFiles(cfg Config, log *zap.Logger) *files {
	return &files{bin: filepath.Join(cfg.Dir, cfg.Binary), dir: filepath.Join(cfg.Dir, keptDir), log: log}
}

// staged is a program's file as it is about to be started.
type staged struct {
	path  string      // to execute
	info  os.FileInfo // of it; nil: it is not there
	trial bool        // it is another one than the last good one, to which it can give way
	same  bool        // it has the same bytes as the last good one
	link  string      // keeps it until it has proven itself; "": that is not needed, or cannot be
}

func (f *files) kept() string { return filepath.Join(f.dir, keptFile) }

// choose says which file is to be started: the one in bin/, or, if that was refused, the last good one.
func (f *files) choose() staged {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.bin)
	if err != nil {
		return staged{path: f.bin}
	}
	kept, err := os.Stat(f.kept())
	f.load(info)
	if f.bad != nil && !sameFile(f.bad, info) {
		f.bad = nil
	}
	if f.bad != nil && err == nil {
		return staged{path: f.kept(), info: kept}
	}
	s := staged{path: f.bin, info: info}
	if s.same = err == nil && f.sameContent(kept, info); s.same {
		return s
	}
	s.trial = err == nil
	s.link = f.stage()
	return s
}

// sameFile reports that two looks saw the same file with the same content and the same mode.
func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

// sameBytes compares two files up to their first difference. Programs that a patch tells apart have
// one size, and to hash both is a good part of what a swap takes.
func sameBytes(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	const piece = 256 << 10
	p, q := make([]byte, piece), make([]byte, piece)
	for {
		n, err := io.ReadFull(x, p)
		m, err2 := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		switch {
		case err == nil && err2 == nil:
		case (err == io.EOF || err == io.ErrUnexpectedEOF) && (err2 == io.EOF || err2 == io.ErrUnexpectedEOF):
			return true, nil
		default:
			return false, errors.Join(err, err2)
		}
	}
}

// Digest gives the BLAKE3 of a file.
func Digest(path string) (sum [32]byte, err error) {
	r, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := blake3.New(32, nil)
	if _, err := io.Copy(h, r); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// stage keeps what is in bin/ under another name, so that it is still there when it has proven itself
// and somebody has replaced it. Without, there is nothing to go back to, which is no reason not to
// start it. f.mu is held.
func (f *files) stage() (link string) {
	if f.next == 0 {
		f.sweep()
	}
	f.next++
	link = filepath.Join(f.dir, fmt.Sprint(nextPrefix, f.next))
	err := os.MkdirAll(f.dir, 0o700)
	if err == nil {
		err = keepAsIs(f.bin, link)
	}
	if err != nil {
		f.log.Warn("the program cannot be kept for a rollback", zap.Error(err))
		return ""
	}
	return link
}

// sweep removes what an earlier nucleus has left half-way.
func (f *files) sweep() {
	left, _ := filepath.Glob(filepath.Join(f.dir, nextPrefix+"*")) // the pattern is good
	for _, path := range left {
		_ = os.Remove(path) // it is only cached
	}
}

// proven makes a staged program the one to go back to: a file of its own, since whoever writes into the one in
// bin/ would write into a second name of it as well.
func (f *files) proven(s staged) {
	if s.link == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := f.kept() + ".new"
	_ = os.Remove(fresh) // of an attempt that was killed
	err := copyTo(s.link, fresh)
	if err == nil {
		err = os.Rename(fresh, f.kept())
	}
	_ = os.Remove(s.link) // it is only cached; so below
	if err != nil {
		_ = os.Remove(fresh)
		f.log.Warn("the program cannot be kept for a rollback", zap.Error(err))
	}
}

// dropped forgets a staged program.
func (f *files) dropped(s staged) {
	if s.link != "" {
		_ = os.Remove(s.link) // it is only cached
	}
}

// of gives a path that leads to the program of s now.
func (f *files) of(s staged) string {
	paths := []string{s.path, f.kept(), s.link}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err == nil && s.info != nil && os.SameFile(info, s.info) && info.Size() == s.info.Size() && info.ModTime().Equal(s.info.ModTime()) {
			return path
		}
	}
	for _, path := range []string{s.link, f.kept()} { // a copy
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return s.path
}

// fallback reports that there is a program to go back to from s.
func (f *files) fallback(s staged) bool {
	info, err := os.Stat(f.kept())
	return err == nil && s.info != nil && !s.same && !os.SameFile(info, s.info)
}

// refuse says that s, if it is what is in bin/, is not to be started again, until it is replaced or
// somebody asks for it. It must be written down then, with note.
func (f *files) refuse(s staged, reason, hint string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded = true
	if s.info != nil && s.path == f.bin {
		f.bad, f.why = s.info, refusal{Reason: reason, Hint: hint, At: time.Now()}
	}
}

// note writes a refusal down for the next nucleus.
func (f *files) note() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad == nil {
		return
	}
	sum, err := Digest(f.bin)
	if err == nil {
		f.why.BLAKE3 = hex.EncodeToString(sum[:])
		var data []byte
		if data, err = json.Marshal(f.why); err == nil {
			err = renameio.WriteFile(filepath.Join(f.dir, refusedFile), data, 0o600)
		}
	}
	if err != nil {
		f.log.Warn("cannot note that the program was refused", zap.Error(err))
	}
}

// forgive has the program in bin/ tried again.
func (f *files) forgive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad, f.loaded = nil, true
	_ = os.Remove(filepath.Join(f.dir, refusedFile)) // mostly there is none
}

// load reads, once, what an earlier nucleus has refused. What is damaged counts as missing. f.mu is held.
func (f *files) load(bin os.FileInfo) {
	if f.loaded {
		return
	}
	f.loaded = true
	why, ok := readRefusal(filepath.Join(f.dir, refusedFile))
	if !ok {
		return
	}
	if sum, err := Digest(f.bin); err == nil && hex.EncodeToString(sum[:]) == why.BLAKE3 {
		f.bad, f.why = bin, why
	}
}

// maxNote is what is read of refused.json and program.of, in bytes.
const maxNote = 64 << 10

func readRefusal(path string) (why refusal, ok bool) {
	data, err := readSmall(path)
	return why, err == nil && json.Unmarshal(data, &why) == nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxNote))
}

// Refuses reports that the file at Config.Binary was refused and is the same still.
func (p *Program) Refuses() bool {
	info, err := os.Stat(p.files.bin)
	if err != nil {
		return false
	}
	p.files.mu.Lock()
	defer p.files.mu.Unlock()
	p.files.load(info)
	return p.files.bad != nil && sameFile(p.files.bad, info)
}

// refused gives why the program in bin/ is not run, if it is not.
func (f *files) refused() (refusal, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.loaded {
		if info, err := os.Stat(f.bin); err == nil {
			f.load(info)
		}
	}
	return f.why, f.bad != nil
}

// Install puts a copy of the file at path into Config.Binary, by rename, with what was there kept for
// undo, which puts that back. The copy can be executed. What is not a whole program is refused.
func (p *Program) Install(path string) (undo func() error, err error) {
	cfg := p.cfg
	cfg.Binary = path // for messages
	if err := checkWhole(cfg, path); err != nil {
		return nil, err
	}
	src, err := os.Open(path)
	if err != nil {
		return nil, startError(cfg, "%w", err)
	}
	defer src.Close()
	bin, before := p.files.bin, filepath.Join(p.files.dir, beforeFile)
	fail := func(err error) (func() error, error) {
		return nil, cellproto.Errorf("install "+path, cellproto.KindOf(err), "%w", err)
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return fail(err)
	}
	had := true
	if err := os.MkdirAll(p.files.dir, 0o700); err != nil {
		return fail(err)
	}
	if err := linkOrCopy(bin, before); errors.Is(err, os.ErrNotExist) {
		had = false
	} else if err != nil {
		return fail(err)
	}
	if err := replaceBy(bin, src); err != nil {
		return fail(err)
	}
	return func() error {
		if !had {
			return os.Remove(bin)
		}
		return os.Rename(before, bin)
	}, nil
}

// replaceBy replaces the program at bin by the content of src.
func replaceBy(bin string, src *os.File) error {
	t, err := renameio.NewPendingFile(bin, renameio.WithPermissions(0o755), renameio.WithTempDir(filepath.Dir(bin)))
	if err != nil {
		return err
	}
	defer t.Cleanup()
	if _, err := io.Copy(t, src); err != nil {
		return err
	}
	return t.CloseAtomicallyReplace()
}
