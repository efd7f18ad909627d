package ledger

import (
	"crypto/ed25519"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has had of the processors: on a busy machine the clock on the wall says
// more about the others.
func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ratio says how often what runs while base runs once, by the medians of rounds that take turns, so
// that a busy machine disturbs both alike.
func ratio(t testing.TB, rounds, n int, base, what func()) float64 {
	var b, w []time.Duration
	measure := func(f func()) time.Duration {
		start := cpuTime(t)
		for range n {
			f()
		}
		return cpuTime(t) - start
	}
	for range rounds {
		b = append(b, measure(base))
		w = append(w, measure(what))
	}
	slices.Sort(b)
	slices.Sort(w)
	return float64(b[rounds/2]) / float64(w[rounds/2])
}

// TestFigures compares the ledger with the bare primitives in one run. What it asserts is far enough
// below the figures of a quiet machine not to fail on a busy one; CELL_LONG asserts the figures.
func TestFigures(t *testing.T) {
	rounds := 15
	if long() {
		rounds = 75 // one figure is 0.92 where 0.90 is asked
	}
	figure := func(name string, got, goal, floor float64) {
		t.Logf("%-44s %6.2f (goal %.2f)", name, got, goal)
		if got < floor || long() && got < goal {
			t.Errorf("%s: %.2f is too little", name, got)
		}
	}
	r := testReceipt(1, 2, 123456)
	body := must1[[]byte](t)(r.Body())
	pre := Preimage(RoleConsumer, body)
	s := dual(t, r, 1, 2)
	data := wire(t, s)
	key := testKey(1)
	figure("encode and sign, of a bare signature", ratio(t, rounds, 200, func() { ed25519.Sign(key, pre) }, func() {
		s, err := SealReceipt(r, key, RoleConsumer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Encode(); err != nil {
			t.Fatal(err)
		}
	}), 0.9, 0.6)
	verify := func() { Verify(r.Consumer, RoleConsumer, body, *s.ConsumerSig) }
	figure("decode and verify both, of two verifications", ratio(t, rounds, 50, func() {
		Verify(r.Consumer, RoleConsumer, body, *s.ConsumerSig)
		Verify(r.Provider, RoleProvider, body, *s.ProviderSig)
	}, func() {
		s, body, err := DecodeReceipt(data)
		if err == nil {
			err = VerifyReceipt(s, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}), 0.9, 0.6)
	b := newTestBook(9)
	b.expect(t, Stored, data)
	figure("stale drops in the time of a verification", ratio(t, rounds, 200, verify, func() {
		if b.Ingest(nowMS, data).Verdict != Stale {
			t.Fatal("not stale")
		}
	}), 15, 8)
	g := bigGraph(10_000)
	i := 0
	start := cpuTime(t)
	const queries = 2000
	for ; i < queries; i++ {
		g.Residual(peer(1 + i%9999))
	}
	figure("flow queries at 10,000 peers in 100 µs", float64(queries)*100e-6/(cpuTime(t)-start).Seconds(), 1, 0.3)
}

// pairs gives a receipt of each of n pairs, signed by both; one key signs for all consumers of a
// few, since only the bytes matter.
func pairs(t testing.TB, n int) [][]byte {
	out := make([][]byte, n)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < n; i += 2 {
				r := testReceipt(byte(1+i%100), byte(101+i/100%100), uint64(1_000_000+i))
				r.Epoch = uint32(i / 10_000)
				out[i] = wire(t, dual(t, r, byte(1+i%100), byte(101+i/100%100)))
			}
		}()
	}
	wg.Wait()
	return out
}

// Receipts of 10,000 pairs: on the disk, in memory, and how many bytes are written for each, when they grow 20,000
// times or with CELL_LONG 60,000.
func TestTenThousandPairs(t *testing.T) {
	list, growths := pairs(t, 10_000), 20_000
	if long() {
		growths = 60_000
	}
	dir := t.TempDir()
	files := must1[Files](t)(OpenDir(dir))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := openLedger(t, Config{Net: testNet, Self: pub(250), Near: func(Key, Key) bool { return true }}, files)
	var payload int64
	take := func(now time.Time, data []byte) { // as from the own store: verifying is measured elsewhere
		r := l.book.ingest(nowMS, data, fromStore)
		if r.Verdict != Stored {
			t.Fatal(r.Verdict, r.Err)
		}
		l.follow(r)
		payload += int64(len(data))
		if err := l.store.Append(now, r.Slot, r.Record, r.Durable); err != nil {
			t.Fatal(err)
		}
	}
	for i, data := range list {
		take(testTime.Add(time.Duration(i)*time.Millisecond), data)
	}
	memory := heap() - before
	rnd := rand.New(rand.NewPCG(1, 1))
	now := testTime
	for i := range growths { // then all of them grow, some more than others
		data := list[rnd.IntN(len(list))]
		s, _, err := DecodeReceipt(data)
		if err != nil {
			t.Fatal(err)
		}
		reg, _ := l.book.Register(s.RegKey())
		s.Receipt = reg.Ack.Receipt
		s.Credit++
		now = now.Add(time.Millisecond)
		take(now, wire(t, s))
		if i%1000 == 0 {
			if err := l.Tick(now); err != nil {
				t.Fatal(err)
			}
		}
	}
	written := l.store.written
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, name := range must1[[]string](t)(filepath.Glob(filepath.Join(dir, "*"))) {
		size += must1[os.FileInfo](t)(os.Stat(name)).Size()
	}
	start := time.Now()
	l = openLedger(t, Config{Net: testNet, Self: pub(250)}, must1[Files](t)(OpenDir(dir)))
	opened := time.Since(start)
	amplified := float64(written) / float64(payload)
	t.Logf("%.1f MB on the disk, %.1f MB in memory, %.2f bytes written for one, opened in %v", float64(size)/1e6, float64(memory)/1e6, amplified, opened.Round(time.Millisecond))
	if size > 10e6 || memory > 20e6 || amplified > 1.5 || len(l.book.regs) != len(list) {
		t.Errorf("more than 10 MB, 20 MB or 1.5; or %d registers", len(l.book.regs))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// ingestBatch is how many entries go to the disk together in what is measured.
const ingestBatch = 128

// ingesting has the clock's and the processor's time of durable ingest, in batches, and of what bounds it: verifying alone, and the log alone.
type ingesting struct {
	times, cpus [3]time.Duration // verifying, the log, ingest
	entries     int
}

// run takes a list of entries in once more, by all three in turns, so that a busy machine disturbs all alike.
func (x *ingesting) run(t testing.TB, list [][]byte) {
	raw, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	l := openLedger(t, Config{Net: testNet, Self: pub(250), Near: func(Key, Key) bool { return true }}, must1[Files](t)(OpenDir(t.TempDir())))
	for part := range slices.Chunk(list, ingestBatch) {
		for n, what := range []func(){
			func() {
				for _, data := range part {
					if s, body, err := DecodeReceipt(data); err != nil || VerifyReceipt(s, body) != nil {
						t.Fatal(err)
					}
				}
			},
			func() {
				if _, err := raw.Write(slices.Concat(part...)); err != nil {
					t.Fatal(err)
				}
				if err := datasync(raw); err != nil {
					t.Fatal(err)
				}
			},
			func() {
				for _, data := range part {
					if r := l.Ingest(testTime, data); r.Verdict != Stored {
						t.Fatal(r.Verdict, r.Err)
					}
				}
				if err := l.store.Sync(); err != nil {
					t.Fatal(err)
				}
			},
		} {
			start, cpu := time.Now(), cpuTime(t)
			what()
			x.times[n] += time.Since(start)
			x.cpus[n] += cpuTime(t) - cpu
		}
		x.entries += len(part)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// byCPU gives how many entries are taken in, in the processor time that the slower of the two needs by itself.
func (x *ingesting) byCPU() float64 {
	return float64(max(x.cpus[0], x.cpus[1])) / float64(x.cpus[2])
}

// Durable ingest needs little more of a processor than to verify what comes in. As of TestFigures, CELL_LONG asserts the figure.
func TestIngestFigures(t *testing.T) {
	var x ingesting
	rounds := 1
	if long() {
		rounds = 5
	}
	list := pairs(t, 20*ingestBatch)
	for range rounds {
		x.run(t, list)
	}
	got := x.byCPU()
	t.Logf("durable ingest, %d entries a batch, of the lesser of verifying and a raw log: %.2f (goal 0.80)", ingestBatch, got)
	if got < 0.5 || long() && got < 0.8 {
		t.Error("too little")
	}
}

func BenchmarkIngest(b *testing.B) {
	list := pairs(b, 40*ingestBatch)
	var x ingesting
	for b.Loop() {
		x.run(b, list)
	}
	rate := func(n int) float64 { return float64(x.entries) / x.times[n].Seconds() }
	b.ReportMetric(rate(0), "verify/s")
	b.ReportMetric(rate(1), "log/s")
	b.ReportMetric(rate(2), "ingest/s")
	b.ReportMetric(rate(2)/min(rate(0), rate(1)), "of-the-lesser")
	b.ReportMetric(x.byCPU(), "of-the-lesser-by-cpu")
}

func BenchmarkDecodeReceipt(b *testing.B) {
	data := wire(b, dual(b, testReceipt(1, 2, 123456), 1, 2))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeReceipt(data); err != nil {
			b.Fatal(err)
		}
	}
}
