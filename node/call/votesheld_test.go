package call

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Large replies that are equal are in memory once, and many different ones only as far as there is room; the one that
// counts is asked for again if it was not kept.
func TestQuorumHoldsLittle(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 8, nil)
	large := func(text byte) []byte { return bytes.Repeat([]byte{text}, maxVote*3/4) }
	var most atomic.Int64
	for i, p := range all {
		text := byte('h')
		if i < 2 {
			text = byte('0' + i) // each of these lies in its own way
		}
		p.program.handle = func(in *cellproto.Inbound) {
			for held := c.votes.Load(); held > most.Load(); {
				most.Store(held)
			}
			in.ReplyBody(cellproto.Header{}, bytes.NewReader(large(text)))
		}
	}
	for range 2 { // the liars are banned after the first
		res, err := try(t, c, cell.id.String(), quorum("5of8", "big", "x"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(res.Reply.Payload, large('h')) {
			t.Fatalf("the reply has %d bytes, and begins with %q", len(res.Reply.Payload), res.Reply.Payload[:min(len(res.Reply.Payload), 4)])
		}
		if held := c.votes.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}
	}
	if most.Load() > maxKeptVotes+(maxReading+1)*maxVote {
		t.Errorf("%d bytes were held", most.Load())
	}
}

// What is read takes room as it comes, and none if it is not wanted in the end.
func TestVotesHeld(t *testing.T) {
	var all atomic.Int64
	h := newVotesHeld(&all)
	ctx, cancel := context.WithCancel(t.Context())
	body := func(n int) *cellproto.Reply {
		return &cellproto.Reply{Body: io.NopCloser(strings.NewReader(strings.Repeat("x", n)))}
	}
	read := func(h *votesHeld, ctx context.Context, r *cellproto.Reply) error {
		_, err := h.read(ctx, r)
		return err
	}
	wantKind(t, read(h, ctx, body(maxVote+1)), cellproto.TooLarge)
	if all.Load() != 0 {
		t.Errorf("%d bytes are held of what was too large", all.Load())
	}
	for i := range maxReading {
		r := body(maxVote)
		if err := read(h, ctx, r); err != nil || len(r.Payload) != maxVote || all.Load() != int64(i+1)*maxVote {
			t.Fatalf("%d bytes, %d held, %v", len(r.Payload), all.Load(), err)
		}
	}
	cancel() // nobody compares them, so that there is no place
	wantKind(t, read(h, ctx, body(1)), cellproto.Canceled)
	other := newVotesHeld(&all)
	all.Store(maxVoteBytes)
	wantKind(t, read(other, t.Context(), body(1)), cellproto.Overloaded)
	all.Store(maxReading * maxVote)
	if h.release(); all.Load() != 0 {
		t.Errorf("%d bytes are held after all", all.Load())
	}
}

// drips has a provider send a little of its reply's body, and no more.
func drips(in *cellproto.Inbound) {
	body, w := io.Pipe()
	go func() {
		w.Write(make([]byte, dripped))
		<-in.Context().Done()
		w.CloseWithError(in.Context().Err())
	}()
	in.ReplyBody(cellproto.Header{}, body)
}

const dripped = 1000

// Providers that send slowly have all the places. Who sends in one frame needs none of these; who sends a body waits for no
// more than a quarter of the time. The calls of those who were too slow are counted once.
func TestQuorumOfSlowBodies(t *testing.T) {
	for name, c := range map[string]struct {
		in     time.Duration
		most   time.Duration
		answer func(in *cellproto.Inbound)
	}{
		"small replies": {patience, 3 * time.Second, lie("small")},
		"bodies": {6 * time.Second, 5 * time.Second, func(in *cellproto.Inbound) {
			in.ReplyBody(cellproto.Header{}, strings.NewReader(strings.Repeat("x", 1000)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cell := publish(t, testSchema())
			caller, all := electorate(t, cell, 2*maxReading, rare)
			asked := make([]uint64, maxReading)
			for i, p := range all {
				if i < maxReading {
					p.program.handle = drips
					asked[i] = caller.Spent(p.host.ID(), time.Now()).Calls
					continue
				}
				p.program.handle = func(in *cellproto.Inbound) {
					for caller.votes.Load() < maxReading*dripped && in.Context().Err() == nil {
						time.Sleep(time.Millisecond)
					}
					c.answer(in)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.in)
			defer cancel()
			begin := time.Now()
			res, err := caller.Call(ctx, cell.id.String(), quorum("4of7", "big", "x"))
			if took := time.Since(begin); err != nil || res.Quorum.Agreed != 4 || took > c.most {
				t.Fatalf("%+v, %v after %v", res, err, took)
			}
			for i, before := range asked {
				if n := caller.Spent(all[i].host.ID(), time.Now()).Calls - before; n != 1 {
					t.Errorf("%d calls of slow provider %d are counted", int64(n), i)
				}
			}
		})
	}
}
