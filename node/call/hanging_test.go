package call

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/celldnet/celld/cellproto"
)

// hanging has two providers, the winner of the race first. It hangs, once it has read so much of a body, until the test is over.
func hanging(t *testing.T, read int64, change func(*CallerConfig, *CallerDeps)) (cell *published, c *Caller, hangs, other *provider) {
	t.Helper()
	cell = publish(t, testSchema())
	c, all := electorate(t, cell, 2, change)
	hangs, other = all[0], all[1]
	if string(c.remote(cell.id).decision.Winner) != peerText(hangs.host) {
		hangs, other = other, hangs
	}
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	hangs.program.handle = func(in *cellproto.Inbound) {
		_, _ = io.CopyN(io.Discard, in.Body(), read)
		<-over
	}
	return cell, c, hangs, other
}

// A body that is larger than what is kept does not have its call be lost to a provider that hangs, though that answers pings:
// a file is sent to the next one whole, whatever was read of it, and a stream as long as all that was read is kept.
func TestLargeBodyLeavesWhoHangs(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		read int64
		body io.Reader
	}{
		"a file of which half was read":     {size / 2, bytes.NewReader(make([]byte, size))},
		"a file that was read":              {size, bytes.NewReader(make([]byte, size))},
		"a stream":                          {0, pipe{bytes.NewReader(make([]byte, size))}},
		"a stream of which little was read": {1000, pipe{bytes.NewReader(make([]byte, size))}},
	} {
		t.Run(name, func(t *testing.T) {
			cell, caller, _, other := hanging(t, c.read, rare)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			req := request("total", "x")
			req.Body = c.body
			res, err := caller.Call(ctx, cell.id.String(), req)
			if err != nil {
				t.Fatal(err)
			}
			if string(res.Reply.Payload) != fmt.Sprint(size) || res.Provider != peerText(other.host) {
				t.Errorf("%s counted %s bytes, want %d by the other one", res.Provider, res.Reply.Payload, size)
			}
		})
	}
}

// A body that goes through slowly is not sent to another one meanwhile: each would have half of the way there.
func TestSlowBodyIsWaitedFor(t *testing.T) {
	const size, limit = 8 << 20, 6 * time.Second
	core, log := observer.New(zap.DebugLevel)
	cell, caller, slow, other := hanging(t, 0, func(cfg *CallerConfig, deps *CallerDeps) { rare(cfg, deps); deps.Log = zap.New(core) })
	slow.program.handle = func(in *cellproto.Inbound) {
		n, begin := int64(0), time.Now()
		for more := true; more; time.Sleep(20 * time.Millisecond) { // past half of the call's time
			passed := time.Since(begin) // which sets the pace, whatever else this machine has to do
			k, err := io.CopyN(io.Discard, in.Body(), max(size*int64(passed)/int64(limit*3/4)-n, 0))
			n, more = n+k, err == nil && passed < limit/2+limit/20
		}
		rest, _ := io.Copy(io.Discard, in.Body())
		in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Append(nil, n+rest))
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	begun := other.program.begun.Load()
	req := request("total", "x")
	req.Body = bytes.NewReader(make([]byte, size))
	res, err := caller.Call(ctx, cell.id.String(), req)
	if err != nil || string(res.Reply.Payload) != fmt.Sprint(size) {
		t.Fatalf("%+v, %v", res, err)
	}
	if log.FilterMessage("a provider is silent").Len() > 0 {
		t.Skip("this machine is too busy to answer pings: its calls go elsewhere, as they should")
	}
	if n := other.program.begun.Load() - begun; n != 0 || res.Provider != peerText(slow.host) {
		t.Errorf("the other one was asked %d times, %s has answered", n, res.Provider)
	}
}

// Who takes a file so slowly that it will not be there in time has it be sent to another one, though it never stops.
func TestDribbledBodyGoesElsewhere(t *testing.T) {
	const size = 1 << 20
	cell, caller, dribbles, other := hanging(t, 0, rare)
	dribbles.program.handle = func(in *cellproto.Inbound) {
		for in.Context().Err() == nil {
			if _, err := io.CopyN(io.Discard, in.Body(), size/64); err != nil {
				return
			}
			time.Sleep(250 * time.Millisecond)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	req := request("total", "x")
	req.Body = bytes.NewReader(make([]byte, 4*size))
	res, err := caller.Call(ctx, cell.id.String(), req)
	if err != nil || string(res.Reply.Payload) != fmt.Sprint(4*size) || res.Provider != peerText(other.host) {
		t.Fatalf("%+v, %v", res, err)
	}
}

// A call whose body cannot be had again, and whose provider answers nothing any more, ends while there is time to make it anew,
// and says so.
func TestLostBodyOfAMuteProvider(t *testing.T) {
	cell := publish(t, testSchema())
	peers := &book{}
	for range 2 {
		p := provide(t, cell, nil)
		muted, _ := hushed(t, p)
		p.program.handle = func(in *cellproto.Inbound) {
			if in.Header.Func != "total" {
				answer(in)
				return
			}
			_, _ = io.CopyN(io.Discard, in.Body(), 1<<20)
			muted.Store(true)
		}
		peers.add(p.host)
	}
	c := use(t, cell, peers, rare)
	call(t, c, cell, "echo")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	req := request("total", "x")
	req.Body = pipe{bytes.NewReader(make([]byte, 4<<20))}
	_, err := c.Call(ctx, cell.id.String(), req)
	wantKind(t, err, cellproto.MayHaveRun)
	if ctx.Err() != nil || !strings.Contains(err.Error(), "cannot be sent a second time") {
		t.Errorf("in time: %v; it says %q", ctx.Err(), err)
	}
	if hint := cellproto.HintOf(err); !strings.HasPrefix(hint, "Call again") {
		t.Errorf("the hint is %q", hint)
	}
}

// A program that can send a body again learns that it is what its call has failed for, and only then: a callee's word on that
// is none.
func TestProgramMaySendABodyAgain(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Deps = map[string]string{"math": cell.id.String()} })
	mine := newFakeProgram(t)
	mine.accept = c.Accept
	if _, err := mine.Conn(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(fn string) (*cellproto.Reply, error) {
		req := request(fn, "x")
		req.Header.To, req.Body = "math", pipe{bytes.NewReader(make([]byte, 2<<20))}
		return mine.far.Call(t.Context(), req)
	}
	lies := func(in *cellproto.Inbound) {
		_, _ = io.Copy(io.Discard, in.Body())
		in.ReplyErrorMeta(cellproto.Errorf("", cellproto.FuncError, "it does not work"), map[string]string{cellproto.MetaAgain: "1"})
	}
	for _, p := range all {
		p.program.handle = lies
	}
	if _, err := ask("total"); cellproto.KindOf(err) != cellproto.FuncError || mayAgain(err) {
		t.Errorf("%v: it may be sent again because the callee says so", err)
	}
	for _, p := range all {
		p.program.handle = func(in *cellproto.Inbound) {
			_, _ = io.CopyN(io.Discard, in.Body(), 1<<20)
			p.cutLinks()
		}
	}
	if _, err := ask("total"); cellproto.KindOf(err) != cellproto.MayHaveRun || !mayAgain(err) {
		t.Errorf("%v: the program is not told that it may send the body again", err)
	}
}
