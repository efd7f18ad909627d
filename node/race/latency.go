package race

import (
	"encoding/json"
	"math/bits"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const (
	subBits = 4            // 16 buckets an octave: a bucket is at most 1/16 wide
	sub     = 1 << subBits // the first octaves, below 16 µs, are exact
	octaves = 32 - subBits // up to 2^32 µs, 71 minutes
	buckets = sub + octaves*sub
	halfAt  = 2048 // records at which all counts are halved
)

// Latency is a histogram of times with fixed memory (under 1 KiB) that forgets: at every 2,048
// records all counts are halved, so that it speaks of the last one to two thousand. The zero value
// is empty and ready. It is not safe for concurrent use. Record takes a few nanoseconds and
// allocates nothing.
//
// The buckets are log-linear as in HdrHistogram: what comes out is at most 1/16 above what went in,
// never below it.
type Latency struct {
	count [buckets]uint16
	total int
}

// Record adds one time; what is negative counts as 0, what is above 71 minutes as that.
func (l *Latency) Record(d time.Duration) {
	l.count[bucketOf(d)]++
	l.total++
	if l.total >= halfAt {
		l.Halve()
	}
}

// Halve makes everything recorded so far count half. A caller that knows how old the records are
// halves them by age. The odd one of a bucket is carried to the next: else a p99, which stands on
// a few lone records at the far end, would fall at each halving.
func (l *Latency) Halve() {
	var carry uint16
	l.total = 0
	for i, c := range l.count {
		if c == 0 {
			continue
		}
		c += carry
		carry = c & 1
		l.count[i] = c / 2
		l.total += int(c / 2)
	}
}

// Fade halves once for each half-life that has passed since the time as of which it stands, unless fewer than
// kept records would be left, and gives as of when it stands now. When the clock was set back that is now.
func (l *Latency) Fade(now, asOf time.Time, half time.Duration, kept int) time.Time {
	d := now.Sub(asOf)
	if d < 0 {
		return now
	}
	n := d / half
	for i := time.Duration(0); i < n && l.total > 0 && l.total/2 >= kept; i++ {
		l.Halve()
	}
	return asOf.Add(n * half)
}

// Count is how many records the histogram stands on, fewer than 2,048.
func (l *Latency) Count() int { return l.total }

// P50 is the median in µs; 0 when empty.
func (l *Latency) P50() Micros { return l.quantile(50) }

// P99 is the 99th percentile in µs; 0 when empty. With fewer than a hundred records the largest
// one is set aside: it says nothing of the hundredth.
func (l *Latency) P99() Micros { return l.quantile(99) }

// quantile gives the record at rank floor(percent of the total), at least the first.
func (l *Latency) quantile(percent int) Micros {
	if l.total == 0 {
		return 0
	}
	rank := max(l.total*percent/100, 1)
	for i, c := range l.count {
		if rank -= int(c); rank <= 0 {
			return upperOf(i)
		}
	}
	return maxMicros
}

// bucketOf numbers the buckets in the order of their values.
func bucketOf(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	v := uint64(d / time.Microsecond)
	if v < sub {
		return int(v)
	}
	if v >= 1<<32 {
		return buckets - 1
	}
	octave := bits.Len64(v) - 1 - subBits
	return octave*sub + int(v>>octave)
}

// upperOf is the largest value of a bucket, in µs.
func upperOf(i int) Micros {
	if i < sub {
		return Micros(i)
	}
	octave := i/sub - 1
	return Micros((uint64(i%sub+sub+1) << octave) - 1).clamp()
}

// MarshalJSON writes the buckets that are not empty, as [[bucket, count], ...].
func (l *Latency) MarshalJSON() ([]byte, error) {
	out := [][2]int{}
	for i, c := range l.count {
		if c > 0 {
			out = append(out, [2]int{i, int(c)})
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote. Anything else is an error of kind Corrupt, and leaves
// l empty.
func (l *Latency) UnmarshalJSON(data []byte) error {
	*l = Latency{}
	const op = "read latency histogram"
	var in [][2]int
	if err := json.Unmarshal(data, &in); err != nil {
		return cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	var n Latency
	for _, b := range in {
		if b[0] < 0 || b[0] >= buckets || b[1] <= 0 || b[1] >= halfAt || n.count[b[0]] != 0 {
			return cellproto.Errorf(op, cellproto.Corrupt, "bucket %d with count %d is impossible", b[0], b[1])
		}
		n.count[b[0]] = uint16(b[1])
		n.total += b[1]
	}
	if n.total >= halfAt {
		return cellproto.Errorf(op, cellproto.Corrupt, "%d records are more than it holds", n.total)
	}
	*l = n
	return nil
}
