package call

import (
	"context"
	"io"
	"slices"
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
	// readingTime is how long the reading of one may keep others from being read.
	readingTime = 5 * time.Second
)

// votesHeld is what one quorum has of replies in memory, in bytes, and its share of what all have.
type votesHeld struct {
	reading chan struct{} // has an element for each of those that are read
	waiting atomic.Int32  // for a place among these
	bytes   atomic.Int64
	all     *atomic.Int64 // of all quorums of a caller
}

func newVotesHeld(all *atomic.Int64) *votesHeld {
	return &votesHeld{reading: make(chan struct{}, maxReading), all: all}
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

// read reads a whole reply into the place of it. If it succeeds, leave is due.
func (h *votesHeld) read(ctx context.Context, reply *cellproto.Reply) error {
	const op = "read a reply"
	if !h.enter(ctx) {
		if reply.Body != nil {
			reply.Body.Close()
		}
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "those of others are being read")
	}
	payload, err := h.readAll(op, reply)
	if err != nil {
		h.leave()
		return err
	}
	reply.Payload, reply.Body = payload, nil
	return nil
}

// enter waits for a place.
func (h *votesHeld) enter(ctx context.Context) bool {
	h.waiting.Add(1)
	defer h.waiting.Add(-1)
	select {
	case h.reading <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// leave gives the place of what was read to the next one.
func (h *votesHeld) leave() { <-h.reading }

// readAll takes room as a reply comes: who has announced much and sends little costs little. Who takes long for it
// makes room for those who wait.
func (h *votesHeld) readAll(op string, reply *cellproto.Reply) (_ []byte, err error) {
	out, held := reply.Payload, int64(0)
	defer func() {
		if err != nil {
			h.give(held)
		}
	}()
	more := func(n int) error {
		if !h.take(int64(n)) {
			return cellproto.Errorf(op, cellproto.Overloaded, "the replies that quorums compare at the moment take %d MiB", maxVoteBytes>>20)
		}
		held += int64(n)
		return nil
	}
	if err := more(len(out)); err != nil || reply.Body == nil {
		return out, err
	}
	defer reply.Body.Close()
	begin, buf := time.Now(), make([]byte, cellproto.ChunkSize)
	tick := time.AfterFunc(readingTime, func() {
		if h.waiting.Load() > 0 {
			reply.Body.Close()
		}
	})
	defer tick.Stop()
	for {
		n, err := reply.Body.Read(buf)
		if len(out)+n > maxVote {
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "it has more than %d bytes", maxVote)
		}
		if err := more(n); err != nil {
			return nil, err
		}
		out = append(out, buf[:n]...)
		switch {
		case err == io.EOF:
			return slices.Clip(out), nil
		case err != nil:
			return nil, err
		case time.Since(begin) > readingTime && h.waiting.Load() > 0:
			return nil, cellproto.Errorf(op, cellproto.Timeout, "others wait, and it is not here after %v", readingTime)
		}
	}
}

// keep has the reply of the newest vote be in memory if it is the first of its kind and there is room, else only its digest.
func (p *poll) keep(v *vote) {
	if v.a.reply == nil {
		return
	}
	defer p.held.leave()
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
		if v.a.reply != nil {
			p.held.leave()
		}
		if answers(&v.a) && v.digest == t.winner {
			return v.a, nil
		}
		p.held.release()
	}
	return attempt{}, cellproto.Errorf(p.op, cellproto.Unavailable, "the reply of which %d agree was too large to be kept beside the others, and none of them gives it once more", t.agreed)
}
