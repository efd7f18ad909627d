package program

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// sameContent reports that the kept program is the one in bin/. To read both takes longer than to start one,
// so what was found is noted.
func (f *files) sameContent(kept, bin os.FileInfo) bool {
	if os.SameFile(kept, bin) {
		return true
	}
	if kept.Size() != bin.Size() {
		return false
	}
	if f.noted(kept, bin) {
		return true
	}
	same, err := sameBytes(f.kept(), f.bin)
	if err == nil && same {
		f.noteSame(time.Now())
	}
	return err == nil && same
}

// keptOf says of which file in bin/ the kept program is the copy.
type keptOf struct {
	Kept    mark  `json:"kept"`
	Bin     mark  `json:"bin"`
	Checked int64 `json:"checked"` // Unix time in ns
}

// mark tells one state of a file from all others that it had or will have, but for those within one tick of
// its file system's clock.
type mark struct {
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"`   // ns
	Changed int64  `json:"changed"` // ns
}

func markOf(info os.FileInfo) mark {
	m := mark{Size: info.Size(), ModTime: info.ModTime().UnixNano()}
	m.Inode, m.Changed = changedAt(info)
	return m
}

// racy is how much older than a look a change must be for the look to have seen all of it, racyFine the same where times are those
// of a system's clock, which ticks every 10 ms or faster, and not rounded.
const (
	racy     = 2 * time.Second
	racyFine = 100 * time.Millisecond
)

// noted reports that the two were found to be the same, and neither has changed since.
func (f *files) noted(kept, bin os.FileInfo) bool {
	if f.same.holds(kept, bin) {
		return true
	}
	data, err := readSmall(filepath.Join(f.dir, keptOfFile))
	var of keptOf
	if err != nil || json.Unmarshal(data, &of) != nil || !of.holds(kept, bin) {
		return false
	}
	f.same = of
	return true
}

// holds says that neither file has changed since they were found to be the same.
func (k keptOf) holds(kept, bin os.FileInfo) bool {
	return k.Bin.Changed != 0 && k.Kept == markOf(kept) && k.Bin == markOf(bin) && k.settled()
}

// settled says that neither file had changed just before they were compared.
func (k keptOf) settled() bool {
	return k.Kept.Changed < k.Checked-tick(k.Kept.Changed) && k.Bin.Changed < k.Checked-tick(k.Bin.Changed)
}

// tick gives how far apart two changes can be, in ns, that have the same time: file systems that round do so to a millisecond at least.
func tick(changed int64) int64 {
	if changed%int64(time.Millisecond) != 0 {
		return int64(racyFine)
	}
	return int64(racy)
}

// noteSame notes that the kept program and the one in bin/ have the same bytes now.
func (f *files) noteSame(now time.Time) {
	kept, err := os.Stat(f.kept())
	var bin os.FileInfo
	if err == nil {
		bin, err = os.Stat(f.bin)
	}
	if err != nil {
		return // they are compared again
	}
	of := keptOf{markOf(kept), markOf(bin), now.UnixNano()}
	if !of.settled() {
		return // nobody would go by it
	}
	data, err := json.Marshal(of)
	if err == nil { // not synced, which would take as long as a start: one that is cut short is none
		err = os.WriteFile(filepath.Join(f.dir, keptOfFile), data, 0o600)
	}
	if err != nil {
		f.log.Debug("cannot note which program is kept", zap.Error(err))
	}
}

// keepAsIs keeps what a file is until it has proven itself. What the system itself executes cannot be written to
// while it runs, so that a second name will do for that time; a script can, and is copied.
func keepAsIs(from, to string) error {
	real, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	_ = os.Remove(to) // a left-over; else what follows says so
	if isELF(real) && os.Link(real, to) == nil {
		return nil
	}
	return copyTo(real, to)
}

func isELF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 4)
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == "\x7fELF"
}

// linkOrCopy makes a second name of the file that from leads to, which is about to lose its first one.
func linkOrCopy(from, to string) error {
	real, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	_ = os.Remove(to) // a left-over; else Link says so
	if os.Link(real, to) == nil {
		return nil
	}
	return copyTo(real, to)
}

// copyTo makes a file with the bytes of another one.
func copyTo(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	if !clone(dst, src) {
		_, err = io.Copy(dst, src)
	}
	return errors.Join(err, dst.Close())
}
