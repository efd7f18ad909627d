package gossip

import (
	"slices"
	"sync"
)

// maxPublished bounds the slots that a Log has.
const maxPublished = 20_000

// Log numbers what this host publishes, so that a neighbour can ask for what is new since. What is
// published anew in a slot leaves its old number: only the newest of each is there.
type Log struct {
	mu    sync.Mutex
	next  uint64
	items []item // ascending by number
	where map[string]uint64
}

type item struct {
	n     uint64
	slot  string
	entry []byte // nil: published anew since, or too old
}

// NewLog makes a log whose first number is first: one that is above all that were ever given before, like
// the time.
func NewLog(first uint64) *Log { return &Log{next: first, where: map[string]uint64{}} }

// Publish puts an entry into a slot.
func (l *Log) Publish(slot string, entry []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.where[slot]; ok {
		if i, found := l.find(n); found {
			l.items[i].entry = nil
		}
	} else if len(l.where) >= maxPublished {
		l.dropOldest()
	}
	l.items = append(l.items, item{l.next, slot, slices.Clone(entry)})
	l.where[slot] = l.next
	l.next++
	if len(l.items) > 2*len(l.where)+16 {
		l.items = slices.DeleteFunc(l.items, func(i item) bool { return i.entry == nil })
	}
}

func (l *Log) find(n uint64) (int, bool) {
	return slices.BinarySearchFunc(l.items, n, func(i item, n uint64) int {
		switch {
		case i.n < n:
			return -1
		case i.n > n:
			return 1
		}
		return 0
	})
}

func (l *Log) dropOldest() {
	for i := range l.items {
		if it := &l.items[i]; it.entry != nil {
			delete(l.where, it.slot)
			it.entry = nil
			return
		}
	}
}

// Next gives the number that comes next.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Since gives what was published from a number on, at most room bytes of it, and the number to ask for
// next. A number that was never given (the asker knows this host from before it lost its clock) is
// answered from the begin.
func (l *Log) Since(from uint64, room int) (entries [][]byte, next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from > l.next {
		from = 0
	}
	i, _ := l.find(from)
	for _, it := range l.items[i:] {
		if it.entry == nil {
			continue
		}
		if room -= len(it.entry); room < 0 {
			return entries, it.n
		}
		entries = append(entries, it.entry)
	}
	return entries, l.next
}
