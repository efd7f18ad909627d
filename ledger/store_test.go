package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const testSegment = 2000 // bytes, so that a short test rolls and cleans often

// tally is what the records of a test say: the newest count of each slot.
type tally map[Hash]uint64

func testRecord(slot Hash, n uint64) []byte {
	return append(binary.BigEndian.AppendUint64(slot[:8:8], n), bytes.Repeat([]byte{byte(n)}, 60)...)
}

func (c tally) load(data []byte, _ finding) (Hash, bool) {
	var slot Hash
	copy(slot[:8], data)
	n := binary.BigEndian.Uint64(data[8:])
	if !bytes.Equal(data, testRecord(slot, n)) || n <= c[slot] {
		return slot, false
	}
	c[slot] = n
	return slot, true
}

func testSlot(n int) (h Hash) { binary.BigEndian.PutUint64(h[:], uint64(n)+1); return h }

// client appends to a store as a nucleus does, and remembers what it may rely on.
type client struct {
	store   *Store
	now     time.Time
	written tally // the newest that Append was given
	rely    tally // durable, or written more than SyncEvery ago
	due     []struct {
		slot Hash
		n    uint64
		at   time.Time
	}
}

func newClient(s *Store, have tally) *client {
	c := &client{store: s, now: time.Unix(1000, 0), written: tally{}, rely: tally{}}
	for k, v := range have {
		c.written[k] = v
	}
	return c
}

// work is a second in the life of a nucleus: some usage, now and then a key entry, the tick.
func (c *client) work(rnd *rand.Rand) error {
	c.now = c.now.Add(time.Second)
	for range rnd.IntN(4) {
		slot := testSlot(rnd.IntN(8))
		n := c.written[slot] + 1
		c.written[slot] = n
		if err := c.store.Append(c.now, slot, testRecord(slot, n), false); err != nil {
			return err
		}
		c.due = append(c.due, struct {
			slot Hash
			n    uint64
			at   time.Time
		}{slot, n, c.now})
	}
	if rnd.IntN(4) == 0 {
		slot := testSlot(100 + len(c.written))
		c.written[slot] = 1
		if err := c.store.Append(c.now, slot, testRecord(slot, 1), true); err != nil {
			return err
		}
		c.rely[slot] = 1 // now the signature leaves
	}
	if err := c.store.Tick(c.now); err != nil {
		return err
	}
	for len(c.due) > 0 && c.now.Sub(c.due[0].at) >= SyncEvery {
		c.rely[c.due[0].slot] = c.due[0].n
		c.due = c.due[1:]
	}
	return nil
}

// check compares what a restart found with what was relied on.
func (c *client) check(t *testing.T, got tally, when string) {
	t.Helper()
	for slot, n := range c.rely {
		if got[slot] < n {
			t.Fatalf("%s: slot %x has %d, but %d was on the disk", when, slot[:8], got[slot], n)
		}
	}
	for slot, n := range got {
		if n > c.written[slot] {
			t.Fatalf("%s: slot %x has %d, only %d was ever written", when, slot[:8], n, c.written[slot])
		}
	}
}

func openTest(t *testing.T, d *disk) (*Store, tally, *Report, error) {
	t.Helper()
	got := tally{}
	s, r, err := openStore(d, testSegment, got.load)
	return s, got, r, err
}

// The power goes at every single write, sync, and change of a name, while working and while starting
// again: what was durable is there, usage of the last interval may not be, and nothing is made up.
func TestCutAtEveryWrite(t *testing.T) {
	const seconds = 60
	run := func(d *disk, seed uint64) *client {
		s, got, _, err := openTest(t, d)
		c := newClient(s, got)
		rnd := rand.New(rand.NewPCG(seed, 2))
		for i := 0; err == nil && i < seconds; i++ {
			err = c.work(rnd)
		}
		return c
	}
	seeds := uint64(3)
	if long() {
		seeds = 40
	}
	cuts := 0
	for seed := range seeds {
		whole := newDisk(t, seed)
		run(whole, seed)
		for at := 1; at <= whole.ops; at++ {
			cuts++
			d := newDisk(t, seed)
			d.cutAt = at
			c := run(d, seed)
			d = d.reboot()
			if at%3 == 0 { // and once more while it starts
				d.cutAt = 1 + d.rnd.IntN(4)
				if s, _, _, err := openTest(t, d); err == nil {
					_ = s.Close()
				}
				d = d.reboot()
			}
			when := fmt.Sprintf("seed %d, cut at operation %d", seed, at)
			s, got, r, err := openTest(t, d)
			if err != nil {
				t.Fatalf("%s: it does not start again: %v", when, err)
			}
			if len(r.Damaged) > 0 {
				t.Fatalf("%s: the crash is taken for damage: %+v", when, r)
			}
			if c.store == nil {
				continue
			}
			c.check(t, got, when)
			again := newClient(s, got)
			rnd := rand.New(rand.NewPCG(seed, 3))
			for range 12 {
				if err := again.work(rnd); err != nil {
					t.Fatalf("%s: it does not go on: %v", when, err)
				}
			}
			if _, after, _, err := openTest(t, d.reboot()); err != nil {
				t.Fatal(err)
			} else {
				again.check(t, after, when+", and once more")
			}
		}
	}
	t.Logf("%d cuts with %d seeds", cuts, seeds)
}

// The disk fails for a while, as a full one does. Key entries are refused meanwhile, usage waits, and
// once it works again everything is there.
func TestDiskFailsForAWhile(t *testing.T) {
	whole := newDisk(t, 1)
	s, _, _, _ := openTest(t, whole)
	c := newClient(s, nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		if err := c.work(rnd); err != nil {
			t.Fatal(err)
		}
	}
	for at := 5; at <= whole.ops; at++ {
		for _, length := range []int{1, 2, 5, 20} {
			d := newDisk(t, uint64(at))
			d.badAt, d.badTo = at, at+length-1
			when := fmt.Sprintf("operations %d to %d fail", d.badAt, d.badTo)
			s, _, _, err := openTest(t, d)
			if err != nil {
				t.Fatal(err)
			}
			c, rnd := newClient(s, nil), rand.New(rand.NewPCG(1, 2))
			failed := false
			for range 40 {
				if err := c.work(rnd); err != nil {
					failed = true
					if s.Err() == nil && s.failed != nil {
						t.Fatal("the store does not say that it fails")
					}
				}
			}
			c.now = c.now.Add(time.Minute)
			for i := 0; s.Err() != nil || i == 0; i++ {
				if i > 30 {
					t.Fatalf("%s: it never recovers: %v", when, s.Err())
				}
				_ = s.Tick(c.now)
			}
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			for slot, n := range c.written {
				if binary.BigEndian.Uint64(slot[:]) < 100 { // usage: nothing is lost
					c.rely[slot] = n
				}
			}
			_, got, r, err := openTest(t, d.reboot())
			if err != nil || len(r.Damaged)+len(r.Aside) > 0 {
				t.Fatalf("%s: %v, %+v", when, err, r)
			}
			c.check(t, got, when)
			if !failed && length > 5 && at+length < whole.ops {
				t.Fatalf("%s: and nobody has noticed", when)
			}
		}
	}
}

// Damage is not a crash, wherever it is: the good records are kept and the file is put aside.
func TestDamagedSegments(t *testing.T) {
	build := func() (*disk, tally) {
		d := newDisk(t, 1)
		s, _, _, err := openTest(t, d)
		if err != nil {
			t.Fatal(err)
		}
		want := tally{}
		for i := range 80 {
			slot := testSlot(i)
			want[slot] = uint64(i) + 1
			if err := s.Append(time.Unix(int64(i), 0), slot, testRecord(slot, want[slot]), true); err != nil {
				t.Fatal(err)
			}
		}
		return d, want
	}
	base, _ := build()
	names := []string{}
	for name := range base.live {
		names = append(names, name)
	}
	if len(names) < 3 {
		t.Fatalf("%d segments", len(names))
	}
	for _, name := range names {
		size := len(base.live[name].data)
		for at := 0; at < size; at += 7 {
			d, want := build()
			f := d.live[name]
			f.data[at] ^= 0x20
			s, got, r, err := openTest(t, d)
			if err != nil {
				t.Fatal(err)
			}
			lost := 0
			for slot, n := range want {
				if got[slot] != n {
					lost++
				}
			}
			if len(r.Damaged) != 1 || r.Truncated > 0 || lost > 1 {
				t.Fatalf("%s: byte %d changed: %+v, %d lost", name, at, r, lost)
			}
			if err := s.Tick(time.Unix(100, 0)); err != nil {
				t.Fatal(err)
			}
			if d.live[name] != nil || d.live[name+".bad"] == nil {
				t.Fatalf("%s was not put aside", name)
			}
			if s.damaged != 1 || s.healed != 1 {
				t.Fatalf("%s: %d segments are damaged and %d healed, for metrics", name, s.damaged, s.healed)
			}
			_, again, r, err := openTest(t, d)
			if err != nil || len(r.Damaged) > 0 || len(again) != len(got) {
				t.Fatalf("after that: %v %+v %d of %d records", err, r, len(again), len(got))
			}
		}
	}
}

// Room stays bounded however long it runs, and the writes do too.
func TestStoreCleansUp(t *testing.T) {
	d := newDisk(t, 1)
	s, _, _, err := openTest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	want := tally{}
	var payload int64
	for i := range 20_000 {
		slot := testSlot(rnd.IntN(100))
		want[slot]++
		rec := testRecord(slot, want[slot])
		payload += int64(len(rec))
		now := time.Unix(int64(i/50), 0)
		if err := s.Append(now, slot, rec, false); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			if err := s.Tick(now); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	total, live := s.Room()
	if total > live*wasteNum/wasteDen+fewSegments*testSegment+50*100 {
		t.Errorf("%d bytes for %d of use", total, live)
	}
	_, got, _, err := openTest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	for slot, n := range want {
		if got[slot] != n {
			t.Fatalf("slot %x: %d, want %d", slot[:8], got[slot], n)
		}
	}
	t.Logf("%d bytes for %d of use; %.2f bytes written for one", total, live, float64(d.wrote)/float64(payload))
}

// While the disk takes nothing the newest of each register waits, however often another one grows.
func TestWhatWaitsIsTheNewestOfEach(t *testing.T) {
	d := newDisk(t, 1)
	s, _, _, err := openTest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	d.badAt, d.badTo = d.ops+1, d.ops+100
	put := func(slot int, n uint64) { _ = s.Append(now, testSlot(slot), testRecord(testSlot(slot), n), false) }
	put(1, 1)
	for n := range uint64(3 * maxPending) {
		put(2, n+1)
	}
	if s.Err() == nil || len(s.pending) > 2*maxPending || s.dropped > 0 {
		t.Errorf("the disk fails: %v; %d records wait, %d were dropped", s.Err(), len(s.pending), s.dropped)
	}
	d.badTo = 0
	if err := s.Tick(now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	_, got, _, err := openTest(t, d.reboot())
	if err != nil || got[testSlot(1)] != 1 || got[testSlot(2)] != 3*maxPending {
		t.Errorf("%v, %d and %d are on the disk", err, got[testSlot(1)], got[testSlot(2)])
	}
	d.badAt, d.badTo = d.ops+1, d.ops+100000
	for i := range 3 * maxPending {
		put(10+i, 1)
	}
	if len(s.pending) > 2*maxPending || s.dropped == 0 {
		t.Errorf("of as many registers %d wait, and %d were dropped", len(s.pending), s.dropped)
	}
}

// A disk that is full when the nucleus starts is one that is full: the ledger is in memory, and written when there is room.
func TestOpenOnAFullDisk(t *testing.T) {
	for _, before := range []int{0, 1, 60} { // records that are there, of which the last fill a segment
		d := newDisk(t, 1)
		s, _, _, err := openTest(t, d)
		if err != nil {
			t.Fatal(err)
		}
		for i := range before {
			if err := s.Append(time.Unix(1000, 0), testSlot(i), testRecord(testSlot(i), 1), true); err != nil {
				t.Fatal(err)
			}
		}
		if before == 0 {
			d = newDisk(t, 2)
		}
		d.badAt, d.badTo = d.ops+1, d.ops+20
		s, got, _, err := openTest(t, d)
		if err != nil || len(got) != before || s.Err() == nil {
			t.Fatalf("after %d records: %v, %d are read, the disk fails: %v", before, err, len(got), s.Err())
		}
		now := time.Unix(2000, 0)
		_ = s.Append(now, testSlot(500), testRecord(testSlot(500), 1), false)
		for range 40 {
			now = now.Add(time.Second)
			_ = s.Tick(now)
		}
		if s.Err() != nil {
			t.Fatalf("after %d records it never recovers: %v", before, s.Err())
		}
		if _, got, _, err = openTest(t, d.reboot()); err != nil || len(got) != before+1 {
			t.Errorf("after %d records: %v, %d are on the disk", before, err, len(got))
		}
	}
}

// A segment that cannot be read costs what is in it, until it can be, also where it is the only one.
func TestSegmentIsUnreadable(t *testing.T) {
	d := newDisk(t, 1)
	s, _, _, err := openTest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	for i := range 60 {
		if err := s.Append(now, testSlot(i), testRecord(testSlot(i), 1), true); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.segs) < 3 {
		t.Fatalf("%d segments", len(s.segs))
	}
	for i, seg := range s.segs {
		d := d.reboot()
		d.unreadable = segmentName(seg.num)
		again, got, r, err := openTest(t, d)
		if err != nil || len(r.Unread) != 1 || len(got) == 60 || len(got) < 10 {
			t.Fatalf("segment %d: %v, %+v, %d records", i, err, r, len(got))
		}
		if err := again.Append(now, testSlot(70), testRecord(testSlot(70), 1), true); err != nil {
			t.Fatal(err)
		}
		if again.head().num <= seg.num {
			t.Errorf("segment %d: what is newer is in segment %d, before it", seg.num, again.head().num)
		}
		if err := again.Tick(now); err != nil {
			t.Fatal(err)
		}
		d = d.reboot()
		if _, got, r, err = openTest(t, d); err != nil || len(r.Unread) > 0 || len(got) != 61 {
			t.Errorf("segment %d can be read again: %v, %+v, %d records", i, err, r, len(got))
		}
	}
	one := newDisk(t, 2)
	if s, _, _, err = openTest(t, one); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.Append(now, testSlot(i), testRecord(testSlot(i), 1), true); err != nil {
			t.Fatal(err)
		}
	}
	one = one.reboot()
	one.unreadable = segmentName(0)
	s, got, r, err := openTest(t, one)
	if err != nil || len(r.Unread) != 1 || len(got) != 0 {
		t.Fatalf("the only segment: %v, %+v, %d records", err, r, len(got))
	}
	for i := range 7 {
		if err := s.Append(now, testSlot(i), testRecord(testSlot(i), 2), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tick(now); err != nil {
		t.Fatal(err)
	}
	one = one.reboot()
	one.unreadable = segmentName(0)
	if _, got, r, err = openTest(t, one); err != nil || len(r.Unread) != 1 || len(got) != 7 {
		t.Errorf("at the next start: %v, %+v, %d records", err, r, len(got))
	}
	if _, got, r, err = openTest(t, one.reboot()); err != nil || len(r.Unread) > 0 || len(got) != 7 || got[testSlot(0)] != 2 {
		t.Errorf("once it can be read: %v, %+v, %v", err, r, got)
	}
}
