package ledger

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

var (
	errCut = errors.New("power cut")
	errIO  = errors.New("input/output error")
)

// disk is a directory in memory that keeps apart what programs see from what would be left after a
// power cut. At one operation it fails: for good, tearing what it was doing, or for a while.
type disk struct {
	t     testing.TB
	rnd   *rand.Rand
	live  map[string]*inode
	safe  map[string]*inode // names that a cut leaves
	ops   int
	cutAt int // the operation at which the power goes; 0 for never
	badAt int // the first operation that fails with errIO
	badTo int // and the last
	dead  bool
	wrote int64

	unreadable string // a file that cannot be read
	readOnly   string // one that can only be read
	syncing    func() // is called before each sync of a file, by which it can be held up
	writing    func() // so before each write
}

type inode struct {
	data []byte // what programs read
	safe []byte // what a cut leaves for certain
	lost bool   // a failed sync has thrown data away, that is perhaps still read: of what was not synced zeros survive
}

func newDisk(t testing.TB, seed uint64) *disk {
	return &disk{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), live: map[string]*inode{}, safe: map[string]*inode{}}
}

// step counts an operation and says how it ends.
func (d *disk) step() error {
	if d.dead {
		return errCut
	}
	d.ops++
	if d.ops == d.cutAt {
		d.dead = true
		return errCut
	}
	if d.badAt > 0 && d.ops >= d.badAt && d.ops <= d.badTo {
		return errIO
	}
	return nil
}

// reboot gives the disk after a cut: of each file what was synced, and of the rest a part that may be
// garbage; of names made and removed since the last sync some.
func (d *disk) reboot() *disk {
	n := newDisk(d.t, d.rnd.Uint64())
	names := maps.Clone(d.safe)
	for _, name := range slices.Sorted(maps.Keys(d.live)) {
		if names[name] != d.live[name] && d.rnd.IntN(2) == 0 {
			names[name] = d.live[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if d.live[name] == nil && d.rnd.IntN(2) == 0 {
			continue
		}
		ino := names[name]
		data := slices.Clone(ino.safe)
		if len(ino.data) > len(data) {
			rest := slices.Clone(ino.data[len(data):][:d.rnd.IntN(len(ino.data)-len(data)+1)])
			at := len(data)
			data = append(data, rest...)
			if len(rest) > 0 && (ino.lost || d.rnd.IntN(2) == 0) { // sectors that never came, or not again
				if !ino.lost && d.rnd.IntN(2) == 0 {
					at = sectorAfter(at+d.rnd.IntN(len(rest)), len(data))
				}
				clear(data[at:])
			}
		}
		f := &inode{data: data, safe: slices.Clone(data)}
		n.live[name], n.safe[name] = f, f
	}
	return n
}

// sectorAfter gives where the next sector begins, or the end.
func sectorAfter(at, end int) int { return min((at+sector-1)/sector*sector, end) }

func (d *disk) List() ([]string, error) {
	if d.dead {
		return nil, errCut
	}
	return slices.Sorted(maps.Keys(d.live)), nil
}

func (d *disk) Create(name string) (File, error) {
	if d.live[name] != nil {
		return nil, errors.New("it exists")
	}
	if err := d.step(); err != nil {
		return nil, err
	}
	d.live[name] = &inode{}
	return &diskFile{d, d.live[name], false}, nil
}

func (d *disk) Open(name string) (File, error) {
	if d.dead || d.live[name] == nil {
		return nil, errCut
	}
	if name == d.unreadable {
		return nil, errIO
	}
	return &diskFile{d, d.live[name], name == d.readOnly}, nil
}

func (d *disk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	delete(d.live, name)
	return nil
}

func (d *disk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.live[to] = d.live[from]
	delete(d.live, from)
	return nil
}

func (d *disk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	d.safe = maps.Clone(d.live)
	return nil
}

func (d *disk) Close() error { return nil }

type diskFile struct {
	d        *disk
	ino      *inode
	readOnly bool
}

func (f *diskFile) ReadOnly() bool { return f.readOnly }

func (f *diskFile) Append(p []byte) error {
	if f.readOnly {
		return errIO
	}
	if f.d.writing != nil {
		f.d.writing()
	}
	err := f.d.step()
	if err != nil {
		p = p[:f.d.rnd.IntN(len(p)+1)]
	}
	f.ino.data = append(f.ino.data, p...)
	f.d.wrote += int64(len(p))
	return err
}

func (f *diskFile) ReadAt(p []byte, at int64) (int, error) {
	if f.d.dead {
		return 0, errCut
	}
	n := copy(p, f.ino.data[min(at, int64(len(f.ino.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) Size() (int64, error) { return int64(len(f.ino.data)), nil }

func (f *diskFile) Truncate(n int64) error {
	if f.readOnly {
		return errIO
	}
	if err := f.d.step(); err != nil {
		return err
	}
	f.ino.data = f.ino.data[:n]
	f.ino.safe = f.ino.safe[:min(n, int64(len(f.ino.safe)))]
	return nil
}

func (f *diskFile) Sync() error {
	if f.d.syncing != nil {
		f.d.syncing()
	}
	err := f.d.step()
	switch {
	case err == nil && !f.ino.lost:
		f.ino.safe = slices.Clone(f.ino.data)
	case errors.Is(err, errCut) && !f.ino.lost: // some sectors
		n := len(f.ino.safe)
		end := sectorAfter(n+f.d.rnd.IntN(len(f.ino.data)-n+1), len(f.ino.data))
		f.ino.safe = append(f.ino.safe, f.ino.data[n:end]...)
	case errors.Is(err, errIO):
		f.ino.lost = true // the kernel forgets dirty pages after it has said so once
		if f.d.rnd.IntN(2) == 0 {
			clear(f.ino.data[len(f.ino.safe):])
		}
	}
	return err
}

func (f *diskFile) Close() error { return nil }
