package ledger

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// When what was used goes to the disk at the latest; a crash of the machine costs at most that, and the
// counterparties have it.
const (
	SyncEvery   = 5 * time.Second
	SyncEntries = 256
)

// maxPending bounds the registers that wait in memory for a disk that takes nothing; twice as many records of them do.
const maxPending = 4096

// place is where a record lies.
type place struct {
	seg  *segment
	at   int64
	size int64 // head included
}

// pending is a record that is not known to be on the disk.
type pending struct {
	slot Hash
	data []byte
}

// Report says what opening a Store found.
type Report struct {
	Records   int
	Truncated int64    // bytes that a crash had left half written at the end
	Damaged   []string // segments with bytes that have changed; their good records are kept
	ReadOnly  []string // segments that can only be read; what comes goes to a new one
	Unread    []string // segments that cannot be read; they are left where they are, for the next start
	Aside     []string // segments that were damaged at an earlier start, and are still kept
}

// Store keeps records in an append-only log of segments. A record belongs to a slot, and the newest of
// a slot is kept. It has no lock.
//
// After a failed write or sync nothing is known of what the disk has, so the segment is given up and
// all that was not synced is written again, to a new one.
type Store struct {
	files   Files
	segs    []*segment // ascending; the last is written to
	index   map[Hash]place
	next    uint64 // number of the next segment
	pending []pending
	since   time.Time // the oldest of pending
	failed  error     // the last write or sync; the last segment is given up
	buf     []byte
	segSize int64
	written int64  // bytes, for the write amplification
	dropped uint64 // records that found no room in pending
	damaged uint64 // segments in which bytes had changed
	healed  uint64 // of these, how many are put aside: what was good in them is written anew
}

// OpenStore reads all segments and calls load for each record, in the order of the log; load gives the
// record's slot, or false when it is of no use. A record whose end is missing at the very end is what a crash leaves:
// it is cut off. Any other bad record is damage: the good ones are kept, the file is put aside. A segment that cannot be read is left alone, and what comes goes to a new one: the host goes
// on without what is in it, and has it again when it can be read.
func OpenStore(files Files, load func(data []byte, by finding) (Hash, bool)) (*Store, *Report, error) {
	return openStore(files, segmentSize, load)
}

func openStore(files Files, segSize int64, load func([]byte, finding) (Hash, bool)) (*Store, *Report, error) {
	const op = "open ledger"
	s := &Store{files: files, index: map[Hash]place{}, segSize: segSize}
	r := &Report{}
	names, err := files.List()
	if err != nil {
		return nil, nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	for _, name := range names {
		if num, ok := segmentNum(name); ok {
			s.segs = append(s.segs, &segment{num: num})
			s.next = max(s.next, num+1)
		} else if whole, ok := strings.CutSuffix(name, badExt); ok {
			if num, ok := segmentNum(whole); ok {
				r.Aside = append(r.Aside, name)
				s.next = max(s.next, num+1)
			}
		}
	}
	slices.SortFunc(s.segs, func(a, b *segment) int { return cmp.Compare(a.num, b.num) })
	last := 0 // with something in it: of those behind it a crash has left the names
	for i, seg := range s.segs {
		if err = s.open(seg); err != nil || seg.size > int64(len(segmentMagic)) {
			last = i
		}
	}
	for i, seg := range s.segs {
		if seg.file == nil || s.read(seg, i >= last, r, load) != nil {
			s.leave(seg)
			r.Unread = append(r.Unread, segmentName(seg.num))
		}
	}
	s.segs = slices.DeleteFunc(s.segs, func(seg *segment) bool { return seg.file == nil })
	s.failed = s.ready(len(r.Unread) > 0) // a full disk is one: what is read counts, and Tick tries again
	return s, r, nil
}

// open opens one segment.
func (s *Store) open(seg *segment) (err error) {
	if seg.file, err = s.files.Open(segmentName(seg.num)); err != nil {
		seg.file = nil
		return err
	}
	if seg.size, err = seg.file.Size(); err != nil {
		s.leave(seg)
	}
	return err
}

// read takes one segment in. last is for that behind which nothing was written.
func (s *Store) read(seg *segment, last bool, r *Report, load func([]byte, finding) (Hash, bool)) error {
	b, err := readAll(seg.file)
	if err != nil {
		return err
	}
	seg.size = int64(len(b))
	if last && len(b) <= len(segmentMagic) { // made, and nothing written before the crash
		if seg.torn = s.files.Remove(segmentName(seg.num)) != nil; !seg.torn { // else clean removes it
			s.leave(seg)
		}
		return nil
	}
	if seg.file.ReadOnly() {
		r.ReadOnly = append(r.ReadOnly, segmentName(seg.num))
	}
	good, how := scan(b, last, func(at int, data []byte, by finding) {
		r.Records++
		if slot, ok := load(data, by); ok {
			s.point(slot, place{seg, int64(at), int64(recordHead + len(data))})
		}
	})
	switch {
	case how == whole && len(b) > len(segmentMagic):
	case how == torn && last:
		r.Truncated += seg.size - int64(good)
		seg.size = int64(good)
		if seg.file.Truncate(seg.size) != nil {
			seg.torn = true
		}
	default:
		r.Damaged = append(r.Damaged, segmentName(seg.num))
		s.spoilt(seg)
	}
	seg.safe = seg.size
	return nil
}

// leave gives a segment up that cannot be read.
func (s *Store) leave(seg *segment) {
	if seg.file != nil {
		seg.file.Close()
		seg.file = nil
	}
}

func (s *Store) spoilt(seg *segment) {
	if !seg.bad {
		s.damaged++
	}
	seg.bad = true
}

// ready makes a last segment to write to. What was read is synced first: it is shown to others from now
// on, and a power cut must not take it back. anew begins another segment: what is written now comes behind one that cannot be read.
func (s *Store) ready(anew bool) error {
	if len(s.segs) == 0 {
		return s.roll()
	}
	if err := s.head().sync(); err != nil {
		return err
	}
	if h := s.head(); anew || h.bad || h.torn || h.file.ReadOnly() || h.size >= s.segSize {
		return s.roll()
	}
	return s.files.Sync()
}

// roll begins a new segment. Its name is on the disk before anything in it counts.
func (s *Store) roll() error {
	num := s.next
	s.next++ // also when it fails: a name is used once
	f, err := s.files.Create(segmentName(num))
	if err != nil {
		return err
	}
	seg := &segment{num: num, file: f, size: int64(len(segmentMagic))}
	if err = f.Append([]byte(segmentMagic)); err == nil {
		if err = seg.sync(); err == nil {
			err = s.files.Sync()
		}
	}
	if err != nil {
		if s.files.Remove(segmentName(num)) == nil {
			f.Close()
		} else { // abandon tries it again
			s.segs = append(s.segs, seg)
		}
		return err
	}
	s.written += seg.size
	s.segs = append(s.segs, seg)
	return nil
}

// point makes p the newest of a slot.
func (s *Store) point(slot Hash, p place) {
	if old, ok := s.index[slot]; ok {
		old.seg.live -= old.size
	}
	p.seg.live += p.size
	s.index[slot] = p
}

// Forget says that the record of a slot is of no use any more. It is gone when its segment is cleaned, and may come back
// before.
func (s *Store) Forget(slot Hash) {
	if p, ok := s.index[slot]; ok {
		p.seg.live -= p.size
		delete(s.index, slot)
	}
}

// Append adds a record. With durable it is on the disk when Append returns without an error, and so is
// everything before it; else Tick sees to that. After an error a record may be on the disk or not, and
// only one that is not durable is written again by itself. Kinds: Failed, TooLarge.
func (s *Store) Append(now time.Time, slot Hash, data []byte, durable bool) error {
	return s.AppendBatch(now, []Hash{slot}, [][]byte{data}, durable)
}

// AppendBatch is Append for several records, in one write.
func (s *Store) AppendBatch(now time.Time, slots []Hash, datas [][]byte, durable bool) error {
	const op = "write ledger"
	for _, data := range datas {
		if len(data) == 0 || len(data) > maxRecord {
			return cellproto.Errorf(op, cellproto.TooLarge, "a record of %d bytes, the limit is %d", len(data), maxRecord)
		}
	}
	if len(s.pending) == 0 {
		s.since = now
	}
	before := len(s.pending)
	for i, data := range datas {
		s.pending = append(s.pending, pending{slots[i], data})
	}
	err := s.failed
	if err == nil || durable { // else Tick tries again, once a second
		err = s.flush(before, durable || len(s.pending) >= SyncEntries)
	}
	if err == nil {
		return nil
	}
	if durable { // its writer decides whether it comes again
		s.pending = slices.Delete(s.pending, before, len(s.pending))
	}
	s.thin()
	return cellproto.Errorf(op, cellproto.Failed, "%w", err).WithHint("Is the disk full? It is tried again, and what is lost comes back from counterparties.")
}

// thin leaves the newest record of each slot of what waits for a disk that takes nothing, and no more than maxPending of those.
func (s *Store) thin() {
	if len(s.pending) < 2*maxPending {
		return
	}
	newest := make(map[Hash]int, maxPending)
	for i, p := range s.pending {
		newest[p.slot] = i
	}
	i := -1
	s.pending = slices.DeleteFunc(s.pending, func(p pending) bool { i++; return newest[p.slot] != i })
	if over := len(s.pending) - maxPending; over > 0 {
		s.dropped += uint64(over)
		s.pending = slices.Delete(s.pending, 0, over)
	}
}

// flush writes pending from one on, all of it after a failure, and syncs if asked.
func (s *Store) flush(from int, sync bool) error {
	if s.failed != nil {
		if s.failed = s.abandon(); s.failed != nil {
			return s.failed
		}
		from, sync = 0, true
	}
	if s.failed = s.write(s.pending[from:]); s.failed == nil && sync {
		s.failed = s.sync()
	}
	return s.failed
}

func (s *Store) sync() error {
	if err := s.head().sync(); err != nil {
		return err
	}
	s.pending = s.pending[:0]
	return nil
}

func (s *Store) head() *segment { return s.segs[len(s.segs)-1] }

// write appends records to the last segment, in as few writes as segments are touched.
func (s *Store) write(list []pending) error {
	for i := 0; i < len(list); {
		if s.head().size >= s.segSize {
			if err := s.head().sync(); err != nil {
				return err
			}
			if err := s.roll(); err != nil {
				return err
			}
		}
		seg, first := s.head(), i
		buf := s.buf[:0]
		for ; i < len(list) && (len(buf) == 0 || seg.size+int64(len(buf)) < s.segSize); i++ {
			buf = appendRecord(buf, list[i].data)
		}
		s.buf = buf
		if err := seg.file.Append(buf); err != nil {
			return err
		}
		s.written += int64(len(buf))
		for _, p := range list[first:i] {
			size := int64(recordHead + len(p.data))
			s.point(p.slot, place{seg, seg.size, size})
			seg.size += size
		}
	}
	return nil
}

// abandon gives the last segment up: what the disk has of its end is unknown. What can be cut off is, and what has nothing else is removed: in the
// midst of others it would look like one that has lost all. So would one look damaged that a power cut leaves without what a sync has failed to write:
// clean removes it.
func (s *Store) abandon() error {
	if len(s.segs) == 0 { // the disk was full at the start
		return s.roll()
	}
	seg := s.head()
	empty := seg.size <= int64(len(segmentMagic))
	if empty && s.files.Remove(segmentName(seg.num)) == nil {
		s.segs = s.segs[:len(s.segs)-1]
		seg.file.Close()
		return s.roll()
	}
	err := seg.file.Truncate(seg.size)
	if err == nil {
		_ = seg.sync() // all that counts of it is written again
	}
	seg.torn = seg.torn || err != nil || empty
	return s.roll()
}

// Tick syncs what has waited for SyncEvery, tries again after a failure, and takes room back. It is
// called about once a second.
func (s *Store) Tick(now time.Time) error {
	const op = "write ledger"
	if s.failed != nil || len(s.pending) > 0 && now.Sub(s.since) >= SyncEvery {
		if err := s.flush(len(s.pending), true); err != nil {
			return cellproto.Errorf(op, cellproto.Failed, "%w", err)
		}
	}
	if err := s.clean(); err != nil {
		return cellproto.Errorf("clean ledger", cellproto.Failed, "%w", err)
	}
	return nil
}

// Sync puts everything on the disk.
func (s *Store) Sync() error {
	if err := s.flush(len(s.pending), true); err != nil {
		return cellproto.Errorf("write ledger", cellproto.Failed, "%w", err)
	}
	return nil
}

// Err says what is wrong with the disk, or nil.
func (s *Store) Err() error { return s.failed }

// Room says how many bytes there are and how many of them are of use.
func (s *Store) Room() (total, live int64) {
	for _, seg := range s.segs {
		total, live = total+seg.size, live+seg.live
	}
	return total, live
}

// Waste is allowed up to this: two and a half times what is of use, and a few segments. More waste
// costs room, less costs writes: a segment that is cleaned is then about one tenth in use.
const (
	wasteNum, wasteDen = 5, 2
	fewSegments        = 4
)

// clean copies what is of use in the emptiest segment to the end of the log and removes the segment,
// until there is little waste. Damaged segments are cleaned first and put aside, and torn ones, with something behind them, are not left to
// be taken for damage.
func (s *Store) clean() error {
	for {
		total, live := s.Room()
		var victim *segment
		for _, seg := range s.segs[:len(s.segs)-1] {
			switch {
			case victim != nil && (victim.bad || victim.torn):
			case seg.bad || seg.torn:
				victim = seg
			case total <= max(fewSegments*s.segSize, live*wasteNum/wasteDen):
			case victim == nil || seg.live*victim.size < victim.live*seg.size:
				victim = seg
			}
		}
		if victim == nil {
			return nil
		}
		if err := s.empty(victim); err != nil {
			return err
		}
	}
}

// empty moves what is of use out of a segment and removes it.
func (s *Store) empty(seg *segment) error {
	b, err := readAll(seg.file)
	if err != nil {
		return err
	}
	var move []pending
	for slot, p := range s.index {
		if p.seg != seg {
			continue
		}
		if data := recordAt(b[min(p.at, int64(len(b))):]); data != nil {
			move = append(move, pending{slot, data})
			continue
		}
		seg.live -= p.size // counterparties have it
		delete(s.index, slot)
		if p.at < seg.safe { // else it was never there, and its writer was told
			s.spoilt(seg) // the disk has changed what it had
		}
	}
	slices.SortFunc(move, func(x, y pending) int { return cmp.Compare(s.index[x.slot].at, s.index[y.slot].at) })
	if len(s.pending) == 0 && len(move) > 0 {
		s.since = time.Time{} // if it fails, the next Tick tries again
	}
	before := len(s.pending)
	s.pending = append(s.pending, move...)
	if err := s.flush(before, true); err != nil {
		return err
	}
	s.segs = slices.DeleteFunc(s.segs, func(x *segment) bool { return x == seg })
	seg.file.Close()
	name := segmentName(seg.num)
	if seg.bad {
		s.healed++
		err = s.files.Rename(name, name+badExt)
	} else {
		err = s.files.Remove(name)
	}
	if err != nil {
		return err // its records are copies now; they are read once more at the next start
	}
	return s.files.Sync()
}

// Close syncs and closes the files.
func (s *Store) Close() error {
	err := s.Sync()
	s.closeFiles()
	return err
}

func (s *Store) closeFiles() {
	for _, seg := range s.segs {
		if seg.file != nil {
			seg.file.Close()
		}
	}
	s.files.Close()
}
