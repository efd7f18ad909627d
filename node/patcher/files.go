package patcher

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
)

// What is in patch/.base. All else there is left over from something that was interrupted.
const (
	baseFile     = "program"  // the owner's, while there are patches
	previousFile = "previous" // the one before the last change, until the new one has run
	recordFile   = "record.json"
)

const (
	maxRecord  = 64 << 10
	maxEntries = 4096 // names that are read in patch/
	maxFile    = 8 + cellproto.MaxPatchHeader + cellproto.MaxPatchDelta
)

// stamp tells whether a file is the one that was looked at. The time of its last change of state is not
// in it: another name for the file, which is how programs are kept, is such a change.
type stamp struct {
	dev, ino    uint64
	size, mtime int64
}

func stampOf(info os.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = uint64(st.Dev), st.Ino
	}
	return s
}

// openFile opens a regular file of the owner of the cell, or of root, which not everybody can write. It
// does not follow a symbolic link, nor wait for whoever holds the other end of a pipe.
func (p *Patcher) openFile(path string) (*os.File, os.FileInfo, error) {
	op := "read " + filepath.Base(path)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, cellproto.Errorf(op, cellproto.Denied, "it is a symbolic link")
	}
	if err != nil {
		return nil, nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = cellproto.Errorf(op, cellproto.Denied, "it is not a regular file")
	}
	if err == nil {
		err = p.owned(op, info)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// owned refuses what somebody else may have written.
func (p *Patcher) owned(op string, info os.FileInfo) error {
	if perm := info.Mode().Perm(); perm&0o002 != 0 {
		return cellproto.Errorf(op, cellproto.Denied, "everybody can write to it (mode %o)", perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != p.cfg.UID && st.Uid != 0 {
		return cellproto.Errorf(op, cellproto.Denied, "it belongs to the user %d", st.Uid)
	}
	return nil
}

// list reads the directory: what each file in it is. Hidden ones are none of ours: programs that copy
// or unpack write those.
func (p *Patcher) list() ([]found, error) {
	info, err := os.Lstat(p.dir)
	if err == nil && !info.IsDir() {
		err = cellproto.Errorf("read patch/", cellproto.Denied, "it is not a directory")
	}
	if err == nil {
		err = p.owned("read patch/", info)
	}
	if err != nil {
		return nil, err
	}
	d, err := os.Open(p.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	var files []found
	seen := map[string]looked{}
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue
		}
		f := found{link: link{File: strings.ToValidUTF8(name, "?")}}
		if len(files) < cellproto.MaxPatches {
			l := p.look(name)
			seen[name] = l
			if f.err = l.err; l.header != nil {
				f.Base, f.Result = l.header.Base, l.header.Result
			}
		} else {
			f.err = cellproto.Errorf("read "+name, cellproto.TooLarge, "there are more than %d patches", cellproto.MaxPatches)
		}
		files = append(files, f)
		if len(files) > 2*cellproto.MaxPatches {
			break
		}
	}
	p.looked = seen
	return files, nil
}

// looked is what a file was when it was looked at.
type looked struct {
	stamp  stamp
	header *patch.Header // nil: it has none that can be read
	err    error         // why it is not applied, whatever the program is
}

// look checks a file, unless it is as it was.
func (p *Patcher) look(name string) looked {
	if !strings.HasSuffix(name, patch.Suffix) {
		return looked{err: cellproto.Errorf("read "+name, cellproto.BadInput, "its name does not end in %s", patch.Suffix)}
	}
	f, info, err := p.openFile(filepath.Join(p.dir, name))
	if err != nil {
		return looked{err: err}
	}
	defer f.Close()
	l := looked{stamp: stampOf(info)}
	if before, ok := p.looked[name]; ok && before.stamp == l.stamp {
		return before
	}
	l.header, _, l.err = p.read(f, info.Size())
	return l
}

// read reads a patch and checks all that does not need the program: limits, signature, who signed,
// and then the delta.
func (p *Patcher) read(r io.Reader, size int64) (*patch.Header, []byte, error) {
	const op = "read patch"
	if size > maxFile {
		return nil, nil, cellproto.Errorf(op, cellproto.TooLarge, "it has %d bytes, the limit is %d", size, int64(maxFile))
	}
	buf := bufio.NewReader(r)
	h, err := patch.ReadHeader(buf, size)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(p.cfg.Trusted, h.Signer) {
		return nil, nil, cellproto.Errorf(op, cellproto.Denied, "it is signed by %s, whom [patch] trusted_keys does not name", h.Signer)
	}
	delta := make([]byte, h.DeltaSize) // no more than the file has
	if _, err := io.ReadFull(buf, delta); err != nil {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "it is not all there: %w", err)
	}
	return h, delta, h.CheckDelta(delta)
}

// readProgram reads a program whole. The stamp is zero if it was written meanwhile.
func (p *Patcher) readProgram(path string) ([]byte, stamp, error) {
	f, info, err := p.openProgram(path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, stamp{}, cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
	}
	return data, unchanged(f, stampOf(info)), nil
}

// unchanged gives s, if the file still has it.
func unchanged(f *os.File, s stamp) stamp {
	if info, err := f.Stat(); err != nil || stampOf(info) != s {
		return stamp{}
	}
	return s
}

// memo gives the hash of what it was asked for last without looking again: the result of one patch is
// the base of the next, and the first base was hashed when the file was looked at.
type memo struct {
	data []byte
	hash patch.Hash
}

func (m *memo) sum(data []byte) [32]byte {
	if len(data) == 0 || len(data) != len(m.data) || &data[0] != &m.data[0] {
		m.data, m.hash = data, blake3.Sum256(data)
	}
	return m.hash
}

// openProgram opens the program, or the one that is kept. A symbolic link cannot be replaced without
// making it something else.
func (p *Patcher) openProgram(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = cellproto.Errorf("read "+path, cellproto.Denied, "it is not a regular file")
	case info.Size() > cellproto.MaxPatchProgram:
		err = cellproto.Errorf("read "+path, cellproto.TooLarge, "it has %d bytes, the limit is %d", info.Size(), cellproto.MaxPatchProgram)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// hashed is a file's hash, as of the last look.
type hashed struct {
	stamp stamp
	hash  patch.Hash
}

// hash gives the hash of a program, which is read only if it is another file than at the last look.
func (p *Patcher) hash(path string, h *hashed) error {
	f, info, err := p.openProgram(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if s := stampOf(info); s != h.stamp {
		sum := blake3.New(32, nil)
		if _, err := io.Copy(sum, f); err != nil {
			return cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
		}
		sum.Sum(h.hash[:0])
		h.stamp = unchanged(f, s)
	}
	return nil
}

func (p *Patcher) kept(name string) string { return filepath.Join(p.dir, ".base", name) }

// load reads the record. One that is not there or damaged counts as none: what the program is then,
// the owner is taken to have put there.
func (p *Patcher) load() record {
	f, err := os.Open(p.kept(recordFile))
	if err != nil {
		return record{}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	var rec record
	if err != nil || json.Unmarshal(data, &rec) != nil {
		p.log.Warn("patch/.base/" + recordFile + " is damaged: the program is taken for the owner's")
		return record{}
	}
	return rec
}

func (p *Patcher) save(rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(p.kept(recordFile), data, 0o600); err != nil {
		return err
	}
	return syncDir(filepath.Dir(p.kept(recordFile)))
}

// sweep removes what an interrupted change has left in patch/.base.
func (p *Patcher) sweep() error {
	entries, err := os.ReadDir(p.kept(""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if name := e.Name(); name != baseFile && name != previousFile && name != recordFile {
			err = errors.Join(err, os.Remove(p.kept(name)))
		}
	}
	return err
}

// keepAs makes name in patch/.base the file that the program is now. A link will do, and takes no
// time: the program's file is never written, it is replaced. Where links cannot be it is a copy. The
// directory is synced by save, which follows.
func (p *Patcher) keepAs(name string) error {
	if err := os.Remove(p.kept(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(p.program, p.kept(name)); err != nil {
		data, _, err := p.readProgram(p.program)
		if err != nil {
			return err
		}
		return renameio.WriteFile(p.kept(name), data, 0o700)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
