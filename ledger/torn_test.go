package ledger

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// oneSegment gives a segment with these records, of which the first bytes are their slots.
func oneSegment(records ...[]byte) []byte {
	b := []byte(segmentMagic)
	for _, r := range records {
		b = appendRecord(b, r)
	}
	return b
}

// readSegments opens a store of these files, and gives the records that it finds.
func readSegments(t *testing.T, segments ...[]byte) (d *disk, r *Report, got [][]byte) {
	t.Helper()
	d = newDisk(t, 1)
	for i, b := range segments {
		ino := &inode{data: slices.Clone(b), safe: slices.Clone(b)}
		d.live[segmentName(uint64(i))], d.safe[segmentName(uint64(i))] = ino, ino
	}
	s, r, err := openStore(d, testSegment, func(data []byte, _ finding) (Hash, bool) {
		got = append(got, slices.Clone(data))
		return bodyID(data), true
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tick(time.Unix(1000, 0)); err != nil { // what is damaged is put aside
		t.Fatal(err)
	}
	return d, r, got
}

// filled gives one of that many bytes, none of which is 0.
func filled(n int, of byte) []byte { return bytes.Repeat([]byte{of | 1}, n) }

// What a crash can leave at the end of the last segment is cut off: a part of a record, or zeros in place of sectors. All else that does not
// verify is damage, also in the last record: it may be what a member of a pool has signed.
func TestTornOrChanged(t *testing.T) {
	first, last := filled(700, 1), filled(700, 3)
	whole := oneSegment(first, last)
	begin := len(whole) - len(last) - recordHead
	expect := func(what string, b []byte, torn bool) {
		t.Helper()
		_, r, got := readSegments(t, b)
		if len(got) != 1 || (r.Truncated > 0) != torn || (len(r.Damaged) > 0) == torn {
			t.Errorf("%s: %d records, %+v, want torn %v", what, len(got), r, torn)
		}
	}
	for n := begin + 1; n < len(whole); n += 13 {
		expect("a part of it", whole[:n], true)
	}
	for _, at := range []int{begin, (begin/sector + 1) * sector} {
		b := slices.Clone(whole)
		clear(b[at:])
		expect("zeros to the end", b, true)
		expect("zeros, and more of them", append(b, make([]byte, 1000)...), true)
	}
	for at := begin; at < len(whole); at++ {
		b := slices.Clone(whole)
		b[at] ^= 4
		expect("one bit of the last record", b, false)
	}
	b := slices.Clone(whole)
	b[len(b)-1] = 0
	expect("its last byte is 0", b, false)
	b = slices.Clone(whole)
	clear(b[begin+100 : begin+650])
	expect("zeros in its midst", b, false)
}

// A peer's entry can have in it what looks like a record. It makes no crash look like damage, but where the file ends just behind it, and is not
// read in place of the entry when that has changed, be it in its length.
func TestRecordInARecord(t *testing.T) {
	trap := filled(200, 5)
	inner := appendRecord(nil, []byte{9})
	for at := 20; at < 160; at += len(inner) {
		copy(trap[at:], inner)
	}
	b := oneSegment(filled(50, 1), trap, filled(50, 3))
	begin := len(segmentMagic) + recordHead + 50
	for n := begin + 1; n < begin+recordHead+len(trap); n++ {
		behind := n - (begin + recordHead + 20)
		inside := behind > 0 && behind <= 140 && behind%len(inner) == 0
		_, r, got := readSegments(t, b[:n])
		if (len(got) == 1) == inside || (r.Truncated == 0) != inside || (len(r.Damaged) > 0) != inside {
			t.Fatalf("cut at byte %d: %d records, %+v", n, len(got), r)
		}
	}
	for at := begin; at < begin+recordHead+len(trap); at++ {
		for bit := range 8 {
			b := slices.Clone(b)
			b[at] ^= 1 << bit
			_, r, got := readSegments(t, b)
			if len(got) != 2 || len(got[1]) != 50 || len(r.Damaged) != 1 {
				t.Fatalf("bit %d of byte %d: %d records, %+v", bit, at-begin, len(got), r)
			}
		}
	}
}

// A segment of which nothing is left says so, unless it is the last: that one was made when the power went.
func TestShortSegment(t *testing.T) {
	full := oneSegment(filled(50, 1))
	for n := range len(segmentMagic) + 1 {
		short := full[:n]
		d, r, got := readSegments(t, full, short, full)
		if len(got) != 2 || !slices.Equal(r.Damaged, []string{segmentName(1)}) || d.live[segmentName(1)+badExt] == nil {
			t.Errorf("%d bytes between others: %d records, %+v", n, len(got), r)
		}
		d, r, got = readSegments(t, full, short, short)
		if len(got) != 1 || len(r.Damaged)+len(r.Unread) > 0 || len(d.live) != 1 {
			t.Errorf("%d bytes at the end: %d records, %+v, %d files", n, len(got), r, len(d.live))
		}
	}
}

// A disk that takes nothing for a while, just when a segment was begun, leaves none that looks like one that has lost all.
func TestBegunSegmentIsGivenUp(t *testing.T) {
	d := newDisk(t, 1)
	s, _, _, err := openTest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	put := func(n int) error { return s.Append(now, testSlot(n), testRecord(testSlot(n), 1), true) }
	d.badAt, d.badTo = d.ops+1, d.ops+1
	if err := put(1); err == nil {
		t.Fatal("the disk does not fail")
	}
	if err := put(2); err != nil {
		t.Fatal(err)
	}
	_, got, r, err := openTest(t, d.reboot())
	if err != nil || len(got) != 1 || len(r.Damaged) > 0 || r.Truncated > 0 {
		t.Errorf("%v, %d records, %+v", err, len(got), r)
	}
}

// What can only be read counts, and what comes goes to a new segment at once. If it is torn, it is not taken for damage later.
func TestSegmentIsReadOnly(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, cut := range []int{0, 5} { // bytes that are missing at its end
		d := newDisk(t, 1)
		b := oneSegment(testRecord(testSlot(1), 1), testRecord(testSlot(2), 1))
		ino := &inode{data: b[:len(b)-cut], safe: b[:len(b)-cut]}
		d.live[segmentName(0)], d.safe[segmentName(0)] = ino, ino
		d.readOnly = segmentName(0)
		want := 3 - min(cut, 1)
		s, got, r, err := openTest(t, d)
		if err != nil || len(got) != want-1 || len(r.ReadOnly) != 1 || len(r.Unread)+len(r.Damaged) > 0 {
			t.Fatalf("%v, %d records, %+v", err, len(got), r)
		}
		if err := s.Append(now, testSlot(3), testRecord(testSlot(3), 1), true); err != nil {
			t.Fatal(err)
		}
		if err := s.Tick(now); err != nil {
			t.Fatal(err)
		}
		d = d.reboot()
		if s, got, r, err = openTest(t, d); err != nil || len(got) != want || len(r.Damaged)+len(r.Aside)+len(r.ReadOnly) > 0 {
			t.Errorf("later: %v, %d records, %+v", err, len(got), r)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a disk changes while the store is open is found when the segment is cleaned: what is good in it is kept, it is put aside, and counted.
func TestChangedWhileOpen(t *testing.T) {
	d := newDisk(t, 1)
	s, _, _, err := openTest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	put := func(slot int, n uint64) {
		t.Helper()
		if err := s.Append(now, testSlot(slot), testRecord(testSlot(slot), n), true); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 1)
	put(2, 1)
	d.live[segmentName(0)].data[len(segmentMagic)+recordHead+20] ^= 1 // in the first record
	rnd := rand.New(rand.NewPCG(1, 1))                                // so that what is of use is spread over all segments
	for n := uint64(1); s.damaged == 0 && n < 10_000; n++ {
		put(10+rnd.IntN(100), n)
		if err := s.Tick(now); err != nil {
			t.Fatal(err)
		}
	}
	if s.damaged != 1 || s.healed != 1 || d.live[segmentName(0)+badExt] == nil {
		t.Errorf("%d segments are damaged, %d healed", s.damaged, s.healed)
	}
	_, got, r, err := openTest(t, d.reboot())
	if err != nil || got[testSlot(1)] != 0 || got[testSlot(2)] != 1 || len(r.Aside) != 1 || len(r.Damaged) > 0 {
		t.Errorf("later: %v, %+v, %v", err, r, got)
	}
}

// lost makes a record's head, and some bytes behind it, what a disk has in place of them: length is what it says then.
func lost(b []byte, at int, length uint16) {
	copy(b[at:], filled(100, 0x54))
	binary.BigEndian.PutUint16(b[at+4:], length)
}

// Where a disk has changed both a record's length and its data, and it says that it ends behind the file, the good ones behind it tell that no crash
// has left it so. In a segment that no crash can have torn, or that is damaged anyway, all that is good is found.
func TestGoodBehindAnEndThatIsMissing(t *testing.T) {
	const size = recordHead + 300
	whole := oneSegment(filled(300, 1), filled(300, 3), filled(300, 5), filled(300, 7), filled(300, 9))
	for _, length := range []uint16{1000, 2000, maxRecord} {
		expect := func(what string, records int, segments ...[]byte) {
			t.Helper()
			if _, r, got := readSegments(t, segments...); len(got) != records || len(r.Damaged) != 1 || r.Truncated > 0 {
				t.Errorf("%d bytes, %s: %d records, %+v", length, what, len(got), r)
			}
		}
		b := slices.Clone(whole)
		lost(b, len(segmentMagic)+2*size, length)
		expect("in the last segment", 4, b)
		expect("not in the last one", 3+5, b[:len(b)-10], whole)
		expect("not in the last one, with a part of a head", 3+5, b[:len(b)-size+recordHead-1], whole)
		b[len(segmentMagic)+recordHead]++
		expect("behind another that has changed", 2, b[:len(b)-10])
		expect("behind another that has changed, with a part of a head", 2, b[:len(b)-size+recordHead-1])
	}
}

// forge gives four bytes that bring a checksum from one value to another.
func forge(from, to uint32) []byte {
	table := castagnoli()
	state := ^to
	for range 4 {
		i := slices.IndexFunc(table[:], func(x uint32) bool { return x>>24 == state>>24 })
		state = (state^table[i])<<8 | uint32(i)
	}
	return binary.LittleEndian.AppendUint32(nil, state^^from)
}

// A peer can sign an entry until its checksum is that of its beginning with a shorter length. It makes no crash look like damage, but where the
// file ends just there.
func TestTwoLengthsWithOneChecksum(t *testing.T) {
	const short = 100
	entry := filled(300, 5)
	sum := func(data []byte, length uint16) uint32 {
		return crc32.Checksum(append(binary.BigEndian.AppendUint16(nil, length), data...), castagnoli())
	}
	copy(entry[296:], forge(sum(entry[:296], 300), sum(entry[:short], short)))
	if sum(entry, 300) != sum(entry[:short], short) {
		t.Fatal("it has two checksums")
	}
	b := oneSegment(filled(50, 1), entry)
	begin := len(segmentMagic) + recordHead + 50
	for n := begin + 1; n < len(b); n++ {
		_, r, got := readSegments(t, b[:n])
		if torn := n != begin+recordHead+short; len(got) != 1 || (r.Truncated > 0) != torn || (len(r.Damaged) > 0) == torn {
			t.Fatalf("cut at byte %d: %d records, %+v", n-begin, len(got), r)
		}
	}
}

func FuzzSegment(f *testing.F) {
	f.Add(appendRecord(appendRecord([]byte(segmentMagic), []byte("one")), []byte("two")))
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := 0
		check := func(at int, data []byte, _ finding) {
			if at < end || len(data) == 0 || len(data) > maxRecord {
				t.Fatalf("a record of %d bytes at %d", len(data), at)
			}
			end = at + recordHead + len(data)
			if end > len(b) || !bytes.Equal(appendRecord(nil, data), b[at:end]) {
				t.Fatal("that is not what was written")
			}
		}
		scan(b, true, check)
		end = 0
		scan(b, false, check)
		d := newDisk(t, 1)
		ino := &inode{data: bytes.Clone(b), safe: bytes.Clone(b)}
		d.live[segmentName(0)], d.safe[segmentName(0)] = ino, ino
		s, _, err := openStore(d, testSegment, func([]byte, finding) (Hash, bool) { return Hash{}, false })
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
