package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/mirror/offer"
)

// What taking cells up may cost a donor, before the first instruction of them has run: the control group and the
// sandbox bound what runs, not what is fetched.

const (
	// maxIntake is the largest program that is fetched for others, in bytes.
	maxIntake = 256 << 20
	// intakeTime is how long one may take at the rate that the owner gives: a take has twice as long.
	intakeTime = offer.TakeTimeout / 2
	// intakeLeast is what a take is charged in any case: it starts a daemon and a program.
	intakeLeast = 1 << 20
	// Bytes a day, of one peer, of one network, and of all.
	intakePeer  = 1 << 30
	intakeGroup = 2 << 30
	intakeAll   = 16 << 30
	intakeDay   = 24 * time.Hour
	// failedFor is how long a cell is not taken up again whose program did not start, nor one of a publisher of
	// whom failedMost did not.
	failedFor  = time.Hour
	failedMost = 3
	// spareDisk is the part of the disk that stays free, but for the most that is left to it.
	spareDisk     = 20
	spareDiskMost = 5 << 30
	// intakeBurst is what may come at once. Below leastRate who sends would give up.
	intakeBurst = 1 << 20
)

// intake counts what was taken up for whom.
type intake struct {
	now   func() time.Time
	bytes atomic.Int64 // in all, ever
	pace  *rate.Limiter

	mu     sync.Mutex
	begun  time.Time // of the day that is counted
	spent  map[string]int64
	failed map[string]failure
}

// failure is how often a cell, or a publisher's, did not start of late.
type failure struct {
	times int
	last  time.Time
}

func newIntake(now func() time.Time) *intake {
	return &intake{now: now, pace: rate.NewLimiter(rate.Inf, intakeBurst), spent: map[string]int64{}, failed: map[string]failure{}}
}

// incoming is a program that would be fetched.
type incoming struct {
	cell, publisher string
	size            int64 // bytes; of source, the most that it may have
	source          bool  // it is built here: what comes of it is not seen until it is there
}

// payers are who is charged for a take, and how much a day.
func payers(from offer.Asker) map[string]int64 {
	return map[string]int64{"peer " + from.Peer.String(): intakePeer, "group " + from.Group: intakeGroup, "": intakeAll}
}

// admit says why a program is not fetched now. bps is what the owner gives, 0: no limit; free are the bytes of the
// disk that may be filled.
func (i *intake) admit(from offer.Asker, p incoming, bps, free int64) error {
	const op = "take it up"
	later := func(after time.Duration, format string, args ...any) error {
		err := cellproto.Errorf(op, cellproto.Overloaded, format, args...)
		err.RetryAfter = after
		return err
	}
	most := int64(maxIntake)
	if bps > 0 {
		most = min(most, max(bps, leastRate)*int64(intakeTime/time.Second))
	}
	switch {
	case p.size > most:
		return cellproto.Errorf(op, cellproto.Denied, "a program of %d MiB is larger than the %d MiB that are fetched here", p.size>>20, most>>20)
	case p.size > free:
		return later(time.Hour, "there is no room on the disk of this machine for a program of %d MiB", p.size>>20)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	for name, times := range map[string]int{"cell " + p.cell: 1, "publisher " + p.publisher: failedMost} {
		if f := i.failed[name]; f.times >= times && now.Sub(f.last) < failedFor {
			return later(f.last.Add(failedFor).Sub(now), "its program, or others of its publisher, did not start here")
		}
	}
	i.turn(now)
	for who, limit := range payers(from) {
		if i.spent[who]+max(p.size, intakeLeast) > limit {
			return later(i.begun.Add(intakeDay).Sub(now), "%s is fetched a day for one peer, one network and all, and was", fmt.Sprintf("%d MiB", limit>>20))
		}
	}
	return nil
}

// turn begins another day. i.mu is held.
func (i *intake) turn(now time.Time) {
	if now.Sub(i.begun) >= intakeDay || now.Before(i.begun) {
		i.begun = now
		clear(i.spent)
	}
}

// charge counts bytes.
func (i *intake) charge(from offer.Asker, n int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.turn(i.now())
	for who := range payers(from) {
		i.spent[who] += n
	}
}

// begin charges a take, source as a whole, and gives what is told how much of the program is there: that waits, so that it comes no
// faster than bps.
func (i *intake) begin(ctx context.Context, from offer.Asker, in incoming, bps int64) (arrived func(done int64)) {
	if in.source {
		i.charge(from, in.size)
	} else {
		i.charge(from, intakeLeast)
	}
	limit := rate.Inf
	if bps > 0 {
		limit = rate.Limit(max(bps, leastRate))
	}
	i.pace.SetLimit(limit)
	last, free := int64(-1), int64(intakeLeast)
	return func(done int64) {
		n := done - last
		if last < 0 { // an earlier attempt may have left it
			n = 0
		}
		last = done
		if n <= 0 {
			return
		}
		i.bytes.Add(n)
		if paid := n - free; paid > 0 {
			i.charge(from, paid)
		}
		free = max(free-n, 0)
		for n > 0 && ctx.Err() == nil {
			part := min(n, intakeBurst)
			_ = i.pace.WaitN(ctx, int(part)) // ctx ends the fetch, too
			n -= part
		}
	}
}

// notStarted notes that a program was fetched and did not start.
func (i *intake) notStarted(p incoming) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	maps.DeleteFunc(i.failed, func(_ string, f failure) bool { return now.Sub(f.last) >= failedFor })
	for _, name := range []string{"cell " + p.cell, "publisher " + p.publisher} {
		i.failed[name] = failure{i.failed[name].times + 1, now}
	}
}

// roomOnDisk is how many bytes may come to the disk that a directory is on, or will be; a lot if that is not known.
func roomOnDisk(dir string) int64 {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for ; errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir); err = unix.Statfs(dir, &st) {
		dir = filepath.Dir(dir)
	}
	if err != nil {
		return 1 << 62
	}
	block := int64(st.Bsize)
	return int64(st.Bavail)*block - min(int64(st.Blocks)*block/spareDisk, spareDiskMost)
}
