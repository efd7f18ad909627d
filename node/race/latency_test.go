package race

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLatencyBuckets(t *testing.T) {
	last := Micros(-1)
	for i := range buckets {
		lo, hi := last+1, upperOf(i)
		if i < buckets-1 && hi < maxMicros {
			if got := bucketOf(lo.Duration()); got != i {
				t.Fatalf("%d µs goes to bucket %d, not %d", lo, got, i)
			}
			if got := bucketOf(hi.Duration()); got != i {
				t.Fatalf("%d µs goes to bucket %d, not %d", hi, got, i)
			}
		}
		if hi-lo > lo/16 {
			t.Fatalf("bucket %d from %d to %d µs is too wide", i, lo, hi)
		}
		last = hi
	}
	for _, d := range []time.Duration{math.MaxInt64, math.MinInt64, -1} {
		if b := bucketOf(d); b != 0 && b != buckets-1 {
			t.Errorf("%d goes to bucket %d", d, b)
		}
	}
}

func TestLatencyQuantiles(t *testing.T) {
	var l Latency
	if l.P50() != 0 || l.P99() != 0 || l.Count() != 0 {
		t.Error("an empty histogram is not empty")
	}
	l.Record(10 * time.Microsecond)
	if l.P50() != 10 || l.P99() != 10 {
		t.Errorf("one record: %d %d", l.P50(), l.P99())
	}
	for range 8 {
		l.Record(10 * time.Microsecond)
	}
	l.Record(time.Second)
	if l.P99() != 10 {
		t.Errorf("one outlier of ten is the p99: %d", l.P99())
	}
	l.Record(time.Second)
	if l.P99() < 1_000_000 {
		t.Errorf("the second outlier is not seen: %d", l.P99())
	}
}

// Against the exact quantiles of what was recorded.
func TestLatencyIsClose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.IntRange(0, 10_000_000), 1, halfAt-1).Draw(t, "in")
		var l Latency
		for _, v := range in {
			l.Record(time.Duration(v) * time.Microsecond)
		}
		slices.Sort(in)
		for percent, got := range map[int]Micros{50: l.P50(), 99: l.P99()} {
			want := Micros(in[max(len(in)*percent/100, 1)-1])
			if got < want || got > want+want/16 {
				t.Fatalf("p%d of %d records is %d, want %d", percent, len(in), got, want)
			}
		}
	})
}

// The tail survives the halvings, and what is long ago does not.
func TestLatencyForgets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var l Latency
	for range 50_000 {
		d := time.Duration(1000+rng.IntN(200)) * time.Microsecond
		if rng.IntN(50) == 0 {
			d = time.Duration(20_000+rng.IntN(40_000)) * time.Microsecond
		}
		l.Record(d)
		if l.Count() >= halfAt {
			t.Fatalf("%d records", l.Count())
		}
	}
	if p := l.P99(); p < 20_000 {
		t.Errorf("2 %% of the calls take over 20 ms but the p99 is %d", p)
	}
	for range 20_000 {
		l.Record(time.Millisecond)
	}
	if p := l.P99(); p > 1100 {
		t.Errorf("after 20,000 calls of 1 ms the p99 is still %d", p)
	}
}

func TestLatencyJSON(t *testing.T) {
	var l, back Latency
	for i := range 5000 {
		l.Record(time.Duration(i) * time.Millisecond)
	}
	data, err := json.Marshal(&l)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &back); err != nil || back != l {
		t.Errorf("not the same after JSON: %v", err)
	}
	for _, bad := range []string{`{}`, `[[1]]x`, `[[-1,1]]`, `[[464,1]]`, `[[1,0]]`, `[[1,-1]]`, `[[1,2048]]`, `[[1,1],[1,1]]`, `[[1,2047],[2,2]]`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

// Record is to cost at most 50 ns and to allocate nothing.
func BenchmarkLatencyRecord(b *testing.B) {
	var l Latency
	b.ReportAllocs()
	d := time.Duration(0)
	for b.Loop() {
		d = (d + 7919*time.Microsecond) % time.Second
		l.Record(d)
	}
}

func BenchmarkLatencyP99(b *testing.B) {
	var l Latency
	for i := range 1000 {
		l.Record(time.Duration(i) * time.Millisecond)
	}
	for b.Loop() {
		_ = l.P99()
	}
}
