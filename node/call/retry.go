package call

import (
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// A call of a pure or idempotent function whose program ends before it has answered is made again, with
// the next one: its request is kept until then. What is not kept, and all other calls, get MayHaveRun.

const (
	maxKept  = 64 << 10 // bytes of a request that is kept
	maxKepts = 4 << 20  // of all
	// maxRepeats is how often a call is made again: what kills one program may kill the next one.
	maxRepeats = 2
	// keptCost is what a kept request takes besides its payload, in bytes.
	keptCost = 256
)

// kept is a request that can be made again; with a nil of, none.
type kept struct {
	frame    cellproto.Frame
	deadline time.Time // of the call
	repeats  int       // for the relay's lock
	size     int64
	of       *atomic.Int64 // what all take
}

// keep keeps a request, read at now, in k until release, and says whether it does: the function may be
// repeated and there is room. It gives one of an idempotent function a key, if its caller has not: the
// program can tell the repeat by it.
func (s *Server) keep(k *kept, fn *served, f *cellproto.Frame, now time.Time) bool {
	if f.More || len(f.Payload) > maxKept || fn == nil || !fn.pure && !fn.idempotent {
		return false
	}
	if !fn.pure && len(f.Header.Key) == 0 {
		f.Header.Key = s.repeatKey()
	}
	size := int64(len(f.Payload)) + keptCost
	if s.kept.Add(size) > maxKepts {
		s.kept.Add(-size)
		return false
	}
	budget := f.Header.Budget
	if budget == 0 {
		budget = cellproto.DefaultTimeout
	}
	k.frame.CopyFrom(f)
	k.deadline, k.repeats, k.size, k.of = now.Add(budget), 0, size, &s.kept
	return true
}

// release is due once the call is over, whether its request was kept or not.
func (k *kept) release() {
	if k.of != nil {
		k.of.Add(-k.size)
		k.of = nil
	}
}

// repeatKey gives a key that no other call has.
func (s *Server) repeatKey() []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 16), s.keyPrefix[:]...), s.keysMade.Add(1))
}

func newKeyPrefix() (p [8]byte) {
	rand.Read(p[:]) // it never fails
	return p
}

// again takes a call up once more whose program was lost with err, and reports whether it does. The
// relay's lock is held.
func (s *session) again(r *cellproto.Relay, k *kept, err error) bool {
	left := time.Until(k.deadline)
	if k.repeats >= maxRepeats || left <= 0 {
		return false
	}
	k.repeats++
	f := k.frame.Clone()
	if f.Header.Budget > 0 {
		f.Header.Budget = left
	}
	return s.s.work.Go(func() { s.wake(r, &f, err) })
}
