package call

import (
	"sync"
	"sync/atomic"

	"github.com/celldnet/celld/cellproto"
)

// Calls that programs make to other cells through this nucleus. Each has a goroutine, and one that has made a call
// waits for the next one: its stack has grown to what a call takes, which costs more than all else here.

// forwards are those goroutines.
type forwards struct {
	next  chan forwarded // has no room: who waits takes it at once
	idle  atomic.Int32   // that wait
	tasks sync.WaitGroup
}

// mostIdle is how many wait for a next call. A collection of garbage shrinks their stacks to 2 KiB.
const mostIdle = 64

// forwarded is one call on its way.
type forwarded struct {
	in   *cellproto.Inbound
	body bool
}

// Accept answers the program's own calls to other cells (header "to"), for the connection to the
// program. It is a cellproto.Config.Accept.
func (c *Caller) Accept(conn *cellproto.Conn, f *cellproto.Frame) {
	refuse := func(err error) {
		_ = conn.Queue(cellproto.ErrorReply(f.ID, err)) // a program that is gone needs no answer; so below
		conn.FlushLater(conn)
	}
	if f.Header.To == "" {
		refuse(cellproto.Errorf("call", cellproto.BadInput, "no target: whom to call is in the header's to"))
		return
	}
	if !c.work.begin() {
		refuse(cellproto.Errorf("call", cellproto.Unavailable, "the nucleus is stopping"))
		return
	}
	call := forwarded{in: conn.Inbound(c.ctx, f), body: f.More}
	call.in.Together()
	select {
	case c.forwards.next <- call:
	default:
		c.forwards.tasks.Go(func() { c.forwardAll(call) })
	}
}

// forwardAll makes one call, and then others as they come, unless enough goroutines wait for them.
func (c *Caller) forwardAll(call forwarded) {
	for {
		c.forward(call.in, call.body)
		c.work.end()
		call = forwarded{} // it is not to be kept
		if c.forwards.idle.Add(1) > mostIdle {
			c.forwards.idle.Add(-1)
			return
		}
		select {
		case call = <-c.forwards.next:
			c.forwards.idle.Add(-1)
		case <-c.ctx.Done():
			return
		}
	}
}

// forward makes one of the program's calls to another cell.
func (c *Caller) forward(in *cellproto.Inbound, body bool) {
	h := in.Header
	h.To, h.Budget, h.Token = "", 0, nil
	req := &cellproto.Request{Header: h, Payload: in.Payload}
	if body {
		req.Body = in.Body()
	}
	res, err := c.Call(in.Context(), in.Header.To, req)
	if err != nil {
		var meta map[string]string
		if body && mayAgain(err) {
			meta = map[string]string{cellproto.MetaAgain: "1"}
		}
		_ = in.ReplyErrorMeta(err, meta) // a program that is gone needs no answer; so below
		return
	}
	if res.Reply.Body == nil {
		_ = in.Reply(res.Reply.Header, res.Reply.Payload)
		return
	}
	defer res.Reply.Body.Close()
	_ = in.ReplyBody(res.Reply.Header, res.Reply.Body)
}
