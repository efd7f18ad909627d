package cellproto

import "time"

// entry is a call, or a ping, in flight.
type entry struct {
	sink    Sink
	inbound bool
	left    bool // not counted any more: its reply is on its way
	ping    bool
	end     uint64        // place in the writer's queue after its request
	due     time.Duration // after Conn.born, when a call begun here is ended by expire; 0: it is not
}

// takes says whether frames of a type can belong to e.
func (e *entry) takes(t FrameType) bool {
	switch t {
	case TypePong:
		return e.ping
	case TypeReply:
		return !e.inbound && !e.ping
	case TypeCancel:
		return e.inbound
	}
	return !e.ping
}

// callTable finds the calls in flight on a connection by their ids. Ids are given in order, so those in
// flight mostly differ in their last bits: these name the place of each, and only what finds its place
// taken goes into a map, which is ten times slower.
type callTable struct {
	slots []callSlot // a power of two of them, or none
	rest  map[uint32]*entry
	count int
}

type callSlot struct {
	id uint32 // 0: free
	entry
}

const (
	firstSlots = 8
	mostSlots  = 1024
)

// len gives the number of calls.
func (t *callTable) len() int { return t.count }

func (t *callTable) slot(id uint32) *callSlot { return &t.slots[int(id)&(len(t.slots)-1)] }

// find gives call id, nil if it is not in flight. It is good until the next add.
func (t *callTable) find(id uint32) *entry {
	if t.count == 0 {
		return nil
	}
	if s := t.slot(id); s.id == id {
		return &s.entry
	}
	return t.rest[id]
}

// add adds call id, which is not in flight.
func (t *callTable) add(id uint32, e entry) {
	if 4*t.count >= len(t.slots) && len(t.slots) < mostSlots {
		t.grow()
	}
	t.count++
	t.place(id, e)
}

func (t *callTable) place(id uint32, e entry) {
	if s := t.slot(id); s.id == 0 {
		*s = callSlot{id, e}
		return
	}
	if t.rest == nil {
		t.rest = map[uint32]*entry{}
	}
	other := e // not e itself, which would be allocated each time then
	t.rest[id] = &other
}

func (t *callTable) grow() {
	old, rest := t.slots, t.rest
	t.slots, t.rest = make([]callSlot, max(firstSlots, 2*len(old))), nil
	for i := range old {
		if s := &old[i]; s.id != 0 {
			t.place(s.id, s.entry)
		}
	}
	for id, e := range rest {
		t.place(id, *e)
	}
}

// remove removes call id, which is in flight.
func (t *callTable) remove(id uint32) {
	t.count--
	if s := t.slot(id); s.id == id {
		*s = callSlot{}
		return
	}
	delete(t.rest, id)
}

// each has f look at all calls.
func (t *callTable) each(f func(*entry)) {
	for i := range t.slots {
		if s := &t.slots[i]; s.id != 0 {
			f(&s.entry)
		}
	}
	for _, e := range t.rest {
		f(e)
	}
}

// takeAll removes all calls and gives them.
func (t *callTable) takeAll() []entry {
	all := make([]entry, 0, t.count)
	t.each(func(e *entry) { all = append(all, *e) })
	*t = callTable{}
	return all
}
