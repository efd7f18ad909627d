package program

import (
	"context"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

const (
	// maxOwnCalls is how many calls of its own a jsonl program may have under way.
	maxOwnCalls = 16
	// keysPrefix begins the names of the functions that it may call.
	keysPrefix = "cell.kv."
)

// callNucleus makes a call of the program: of keys that its nucleus keeps for it. Files have bodies, and other
// cells are called by programs that speak frames.
func (a *adapter) callNucleus(call answer) {
	a.mu.Lock()
	full := a.calls >= maxOwnCalls
	if !full {
		a.calls++
	}
	a.mu.Unlock()
	switch {
	case full:
		a.called(call.ID, nil, cellproto.Errorf(call.Call, cellproto.Overloaded, "%d calls of the program are under way, as many as it may have", maxOwnCalls))
	case !strings.HasPrefix(call.Call, keysPrefix):
		a.called(call.ID, nil, cellproto.Errorf(call.Call, cellproto.Unsupported, "a program that speaks jsonl calls functions that begin with %s only", keysPrefix))
		a.ownCallEnds()
	default:
		a.replies.Go(func() {
			defer a.ownCallEnds()
			reply, err := a.askNucleus(call)
			a.called(call.ID, reply, err)
		})
	}
}

func (a *adapter) ownCallEnds() {
	a.mu.Lock()
	a.calls--
	a.mu.Unlock()
}

func (a *adapter) askNucleus(call answer) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cellproto.DefaultTimeout)
	defer cancel()
	if len(call.Args) > cellproto.MaxArgs {
		return nil, cellproto.Errorf(call.Call, cellproto.TooLarge, "arguments of %d bytes, the limit is %d", len(call.Args), cellproto.MaxArgs)
	}
	reply, err := a.far.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: call.Call, Codec: cellproto.JSON}, Payload: call.Args})
	if err != nil {
		return nil, err
	}
	return reply.Bytes(maxJSONLine)
}

// called tells the program what became of its call.
func (a *adapter) called(id uint64, reply []byte, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || len(a.queue) > maxStdin { // it does not read what it asks for
		return
	}
	before := len(a.queue)
	a.queue = appendCalled(a.queue, id, reply, err)
	a.queued += int64(len(a.queue) - before)
	a.wake()
}
