package program

import (
	"debug/elf"
	"errors"
	"io"
	"os"
	"runtime"

	"github.com/celldnet/celld/cellproto"
)

// errUnfinished marks the errors of a file that somebody is still writing, as far as can be told.
var errUnfinished = errors.New("is still being written")

// Unfinished reports that err is about a program that somebody is still writing: it makes sense to
// look again soon.
func Unfinished(err error) bool { return errors.Is(err, errUnfinished) }

// checkWhole looks whether the file at path is all there, as far as its format tells. What else may be
// wrong with it, the attempt to start it says better.
func checkWhole(cfg Config, path string) *cellproto.Error {
	unfinished := func(what string) *cellproto.Error {
		return startError(cfg, "%s %s: it %w", cfg.Binary, what, errUnfinished).WithHint("%s", hintRename)
	}
	f, err := os.Open(path)
	if err != nil {
		return explainExec(cfg, path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return startError(cfg, "%w", err)
	case !info.Mode().IsRegular():
		return explainExec(cfg, path, nil)
	case info.Size() == 0:
		return unfinished("is empty")
	}
	head := make([]byte, len(elf.ELFMAG))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != elf.ELFMAG {
		return nil // another format, which does not tell
	}
	if !wholeELF(f, info.Size()) {
		return unfinished("is damaged or half-written")
	}
	return nil
}

// wholeELF reports that a file has all the bytes that its headers speak of.
func wholeELF(r io.ReaderAt, size int64) bool {
	f, err := elf.NewFile(r)
	if err != nil {
		return false
	}
	fits := func(off, n uint64) bool { return off <= uint64(size) && n <= uint64(size)-off }
	for _, p := range f.Progs {
		if !fits(p.Off, p.Filesz) {
			return false
		}
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS && !fits(s.Offset, s.FileSize) {
			return false
		}
	}
	return len(f.Progs) > 0
}

// here is this machine's system and processor, as Go names them.
const here = runtime.GOOS + "/" + runtime.GOARCH
