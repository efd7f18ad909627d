package cellproto

import (
	"encoding/binary"
	"sync/atomic"
	"time"
	"unsafe"
)

// CapHandoff in a hello: a caller takes its connection being handed to the program, and comes back on
// goaway; a program takes callers' connections.
const CapHandoff = "handoff"

// CapEarly in a program's hello, beside CapHandoff: it takes the connections that it was handed before it said hello, and
// holds to Page.Take. Without, it is handed none before that.
const CapEarly = "handoff-early"

// HandoffType says what a message on the handoff socket means.
type HandoffType uint8

// The messages, and which descriptor comes with them (SCM_RIGHTS).
const (
	HandoffPage  HandoffType = 1 // nucleus to program, once, first: the shared page's
	HandoffConn  HandoffType = 2 // nucleus to program: a caller's connection, of which nothing was read
	HandoffLeave HandoffType = 3 // nucleus to program: goaway to one caller, with an id of 0 to all
	HandoffEnded HandoffType = 4 // program to nucleus: a connection has ended
)

// Handoff is a message between a nucleus and its program, on the socket named by EnvHandoff.
type Handoff struct {
	Type    HandoffType
	ID      uint32 // of the connection, chosen by the nucleus
	Subject string // of HandoffConn: who calls, "" for the owner; at most MaxSubject bytes
}

// Limits of a handoff message, in bytes.
const (
	MaxSubject = 256
	MaxHandoff = 5 + MaxSubject
)

// Append appends the message: type u8, id u32 big-endian, subject.
func (h *Handoff) Append(b []byte) ([]byte, error) {
	if len(h.Subject) > MaxSubject {
		return b, Errorf("hand over", TooLarge, "the caller's name has %d bytes, the limit is %d", len(h.Subject), MaxSubject)
	}
	b = append(b, byte(h.Type))
	b = binary.BigEndian.AppendUint32(b, h.ID)
	return append(b, h.Subject...), nil
}

// ParseHandoff reads a whole message. Kind BadInput, or TooLarge.
func ParseHandoff(b []byte) (Handoff, error) {
	const op = "read handoff"
	switch {
	case len(b) < 5:
		return Handoff{}, Errorf(op, BadInput, "%d bytes are no message", len(b))
	case len(b) > MaxHandoff:
		return Handoff{}, Errorf(op, TooLarge, "message of %d bytes, the limit is %d", len(b), MaxHandoff)
	}
	h := Handoff{Type: HandoffType(b[0]), ID: binary.BigEndian.Uint32(b[1:]), Subject: string(b[5:])}
	if h.Type < HandoffPage || h.Type > HandoffEnded {
		return Handoff{}, Errorf(op, BadInput, "message of type %d", h.Type)
	}
	if h.Type != HandoffConn && h.Subject != "" {
		return Handoff{}, Errorf(op, BadInput, "message of type %d names a caller", h.Type)
	}
	return h, nil
}

// PageSize is the size of the shared page, in bytes.
const PageSize = 4096

// Page is what a program tells its nucleus of the calls that come to it over connections of its own,
// and how many it may take: counters in memory that both have mapped. Every field has one writer,
// but for the one that both may set once, and counters wrap around. What a program writes there is its word only: it limits and proves nothing.
type Page struct{ p *pageLayout }

type pageLayout struct {
	version uint32 // 1; by the nucleus
	limit   uint32 // calls that may be in flight in the program, by the nucleus
	begun   uint32 // calls that have begun; this and what follows by the program
	ended   uint32 // of them
	refused uint32 // calls that have not begun: there was no room
	timed   uint32 // how many times have been written
	times   [timedKept]uint32
	whose   uint32 // whose the connections are that were handed over before the hello; see Take
}

// What pageLayout.whose says.
const (
	heldByNobody = iota
	heldByProgram
	heldByNucleus
)

const (
	timedKept = 64
	// timedEvery is which calls are timed: to ask the clock twice would be a tenth of a small call.
	timedEvery = 64
)

// NewPage makes a page of PageSize bytes of mapped memory, aligned as mmap does. The nucleus sets the
// limit of calls in flight, 0 for the program's side.
func NewPage(mem []byte, limit int) Page {
	_ = mem[PageSize-1]
	p := Page{(*pageLayout)(unsafe.Pointer(&mem[0]))}
	if limit > 0 {
		atomic.StoreUint32(&p.p.version, 1)
		atomic.StoreUint32(&p.p.limit, uint32(limit))
	}
	return p
}

// Take is for a program, before the first connection that it takes. It reports false when the nucleus has
// taken back what was handed over: the program is not to take any.
func (p Page) Take() bool {
	return atomic.CompareAndSwapUint32(&p.p.whose, heldByNobody, heldByProgram)
}

// TakeBack is for a nucleus whose program could not be started. It reports true when the program has taken no connection,
// and will take none.
func (p Page) TakeBack() bool {
	return atomic.CompareAndSwapUint32(&p.p.whose, heldByNobody, heldByNucleus)
}

// Limit gives how many calls may be in flight in the program.
func (p Page) Limit() int { return int(atomic.LoadUint32(&p.p.limit)) }

// Begin counts a call, and says whether to time it.
func (p Page) Begin() (timed bool) { return atomic.AddUint32(&p.p.begun, 1)%timedEvery == 1 }

// End counts the end of a call.
func (p Page) End() { atomic.AddUint32(&p.p.ended, 1) }

// Refuse counts a call for which there was no room.
func (p Page) Refuse() { atomic.AddUint32(&p.p.refused, 1) }

// Time notes how long a call took. It may be called concurrently.
func (p Page) Time(d time.Duration) {
	at := atomic.AddUint32(&p.p.timed, 1) - 1
	atomic.StoreUint32(&p.p.times[at%timedKept], uint32(min(max(d.Microseconds(), 0), 1<<32-1)))
}

// Counts gives the counters. In flight are begun - ended, modulo 2^32.
func (p Page) Counts() (begun, ended, refused uint32) {
	ended = atomic.LoadUint32(&p.p.ended) // first, so that it is never ahead of begun
	return atomic.LoadUint32(&p.p.begun), ended, atomic.LoadUint32(&p.p.refused)
}

// Times gives those of the last 64 times that were noted since seen, a value that it gave before, or 0.
func (p Page) Times(seen uint32) (times []time.Duration, now uint32) {
	now = atomic.LoadUint32(&p.p.timed)
	for at := now - min(now-seen, timedKept); at != now; at++ {
		times = append(times, time.Duration(atomic.LoadUint32(&p.p.times[at%timedKept]))*time.Microsecond)
	}
	return times, now
}
