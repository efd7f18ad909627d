package call

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// What replies take in memory while they are compared. Providers are strangers, and each of dozens may send maxVote: their
// digests are compared, and of each kind of reply one is kept.

const (
	// Of the replies of one quorum so many bytes are kept, and so many are read or waiting to be compared at one time.
	maxKeptVotes = 2 * maxVote
	maxReading   = 4
	// maxVoteBytes is what all quorums of a caller have of replies, in bytes.
	maxVoteBytes = 64 << 20
	// readingTime is how long the reading of one may keep others from being read, or a quarter of the time that is left if
	// that is less. Those who wait look every readingLook.
	readingTime = 5 * time.Second
	readingLook = 250 * time.Millisecond
)

// votesHeld is what one quorum has of replies in memory, in bytes, and its share of what all have.
type votesHeld struct {
	places chan struct{} // has an element for each of those that are read, or were and are not compared yet
	bytes  atomic.Int64
	all    *atomic.Int64 // of all quorums of a caller

	mu     sync.Mutex
	coming map[*coming]struct{} // that are read
}

// coming is the body of a reply that is read. votesHeld.mu guards late.
type coming struct {
	body  io.Closer
	until time.Time // others make it late after this if they wait
	late  bool      // they have closed it
}

func newVotesHeld(all *atomic.Int64) *votesHeld {
	return &votesHeld{places: make(chan struct{}, maxReading), all: all, coming: map[*coming]struct{}{}}
}

// take takes room, if there is any.
func (h *votesHeld) take(n int64) bool {
	h.bytes.Add(n)
	if h.all.Add(n) > maxVoteBytes {
		h.give(n)
		return false
	}
	return true
}

func (h *votesHeld) give(n int64) {
	h.bytes.Add(-n)
	h.all.Add(-n)
}

// release gives all of it back.
func (h *votesHeld) release() { h.all.Add(-h.bytes.Swap(0)) }

// read reads a whole reply. With placed it has one of the places, and leave is due: one without a body needs none, so that
// it does not wait for those that come slowly.
func (h *votesHeld) read(ctx context.Context, reply *cellproto.Reply) (placed bool, err error) {
	const op = "read a reply"
	body := reply.Body
	if body != nil {
		defer body.Close()
	}
	if !h.take(int64(len(reply.Payload))) {
		return false, noRoom(op)
	}
	if body == nil {
		return false, nil
	}
	if !h.enter(ctx) {
		h.give(int64(len(reply.Payload)))
		return false, cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "those of others are being read")
	}
	payload, err := h.readAll(ctx, op, reply)
	if err != nil {
		h.leave()
		return false, err
	}
	reply.Payload, reply.Body = payload, nil
	return true, nil
}

func noRoom(op string) error {
	return cellproto.Errorf(op, cellproto.Overloaded, "the replies that quorums compare at the moment take %d MiB", maxVoteBytes>>20)
}

// enter waits for a place, and has those that take long for theirs make room.
func (h *votesHeld) enter(ctx context.Context) bool {
	select {
	case h.places <- struct{}{}:
		return true
	default:
	}
	look := time.NewTicker(readingLook)
	defer look.Stop()
	for {
		select {
		case h.places <- struct{}{}:
			return true
		case <-ctx.Done():
			return false
		case now := <-look.C:
			h.hurry(now)
		}
	}
}

// hurry closes those whose time is over.
func (h *votesHeld) hurry(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.coming {
		if !c.late && now.After(c.until) {
			c.late = true
			c.body.Close()
		}
	}
}

// leave gives the place of what was read to the next one.
func (h *votesHeld) leave() { <-h.places }

// comes notes that a body is read from now on; over is due, and says whether it was late.
func (h *votesHeld) comes(ctx context.Context, body io.Closer) (over func() (late bool)) {
	wait := readingTime
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4)
	}
	c := &coming{body: body, until: time.Now().Add(wait)}
	h.mu.Lock()
	h.coming[c] = struct{}{}
	h.mu.Unlock()
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.coming, c)
		return c.late
	}
}

// readAll takes room as a body comes, beside what its reply has already: who has announced much and sends little costs
// little. After an error it has given all of it back.
func (h *votesHeld) readAll(ctx context.Context, op string, reply *cellproto.Reply) (_ []byte, err error) {
	out := reply.Payload
	held := int64(len(out))
	over := h.comes(ctx, reply.Body)
	defer func() {
		if late := over(); err == nil {
			return
		} else if late {
			err = cellproto.Errorf(op, cellproto.Timeout, "others wait, and it takes too long")
		}
		h.give(held)
	}()
	for buf := make([]byte, cellproto.ChunkSize); ; {
		n, err := reply.Body.Read(buf)
		if len(out)+n > maxVote {
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "it has more than %d bytes", maxVote)
		}
		if !h.take(int64(n)) {
			return nil, noRoom(op)
		}
		held += int64(n)
		out = append(out, buf[:n]...)
		switch {
		case err == io.EOF:
			return slices.Clip(out), nil
		case err != nil:
			return nil, err
		}
	}
}

// keep has the reply of the newest vote be in memory if it is the first of its kind and there is room, else only its digest.
func (p *poll) keep(v *vote) {
	if v.a.reply == nil {
		return
	}
	if v.placed {
		defer p.held.leave()
	}
	size := int64(len(v.a.reply.Payload))
	for i := range p.votes[:len(p.votes)-1] {
		if w := &p.votes[i]; w.digest == v.digest && !w.dropped {
			v.dropped = true
		}
	}
	if v.dropped = v.dropped || p.kept+size > maxKeptVotes; v.dropped {
		v.a.reply.Payload = nil
		p.held.give(size)
		return
	}
	p.kept += size
}

// again asks those whose reply counts for it once more, since it was not kept, until one gives the same.
func (p *poll) again(ctx context.Context, t tally) (attempt, error) {
	for i := range p.votes {
		p.votes[i].a.reply = nil // what was kept makes room
	}
	p.held.release()
	for i := range p.votes {
		if p.votes[i].digest != t.winner {
			continue
		}
		req := p.request()
		v := p.voteOf(ctx, p.votes[i].voter, &req)
		if v.placed {
			p.held.leave()
		}
		if answers(&v.a) && v.digest == t.winner {
			return v.a, nil
		}
		p.held.release()
	}
	return attempt{}, cellproto.Errorf(p.op, cellproto.Unavailable, "the reply of which %d agree was too large to be kept beside the others, and none of them gives it once more", t.agreed)
}
