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

// kept is a request that can be made again. A nil one cannot.
type kept struct {
	frame    cellproto.Frame
	deadline time.Time // of the call
	repeats  int       // for the relay's lock
	size     int64
	of       *atomic.Int64 // what all take
}

// keep keeps a request, read at now, until release, if the function may be repeated and there is room.
// It gives one of an idempotent function a key, if its caller has not: the program can tell the repeat
// by it.
func (s *Server) keep(f *cellproto.Frame, now time.Time) *kept {
	serving := s.serving.Load()
	if f.More || len(f.Payload) > maxKept || serving.Schema == nil {
		return nil
	}
	fn := serving.Schema.Functions[f.Header.Func]
	if !fn.Pure && !fn.Idempotent {
		return nil
	}
	if !fn.Pure && len(f.Header.Key) == 0 {
		f.Header.Key = s.repeatKey()
	}
	size := int64(len(f.Payload)) + keptCost
	if s.kept.Add(size) > maxKepts {
		s.kept.Add(-size)
		return nil
	}
	budget := f.Header.Budget
	if budget == 0 {
		budget = cellproto.DefaultTimeout
	}
	return &kept{frame: f.Clone(), deadline: now.Add(budget), size: size, of: &s.kept}
}

// release is due once the call is over.
func (k *kept) release() {
	if k != nil {
		k.of.Add(-k.size)
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
