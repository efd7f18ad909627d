package state

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// function is one that programs call. Its arguments have been parsed.
type function struct {
	run  func(s *Store, ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error)
	body func(s *Store, ctx context.Context, a *cellproto.StateArgs, in *cellproto.Inbound) error // instead: it moves a body, and replies
	in   bool                                                                                     // it takes one
}

// functions gives the function of this name, or false.
func functions(name string) (function, bool) {
	switch name {
	case cellproto.FuncKVGet:
		return function{run: (*Store).get}, true
	case cellproto.FuncKVPut:
		return function{run: (*Store).put}, true
	case cellproto.FuncKVDelete:
		return function{run: (*Store).delete}, true
	case cellproto.FuncKVCAS:
		return function{run: (*Store).swap}, true
	case cellproto.FuncKVList:
		return function{run: (*Store).listKeys}, true
	case cellproto.FuncFileRead:
		return function{body: (*Store).readFile}, true
	case cellproto.FuncFileWrite:
		return function{body: (*Store).writeFile, in: true}, true
	case cellproto.FuncFileRemove:
		return function{run: (*Store).removeFile}, true
	case cellproto.FuncFileList:
		return function{run: (*Store).listFiles}, true
	}
	return function{}, false
}

// Accept takes a program's call if it is for its state, and reports whether it was. It is for
// cellproto.Config.Accept, on the connection to a program only.
func (s *Store) Accept(c *cellproto.Conn, f *cellproto.Frame) bool {
	fn, known := functions(f.Header.Func)
	if f.Header.To != "" || !known {
		return false
	}
	op := f.Header.Func
	a, err := cellproto.ParseStateArgs(f.Header.Codec, f.Payload)
	if err == nil && f.More && !fn.in {
		err = cellproto.Errorf("", cellproto.BadInput, "it takes no body")
	}
	if err == nil {
		err = s.begin(fn.body != nil)
	}
	if err != nil {
		if c.Queue(cellproto.ErrorReply(f.ID, named(op, err))) == nil { // a lost connection needs no answer
			c.FlushLater(c)
		}
		return true
	}
	in := c.Inbound(s.ctx, f)
	in.Payload = nil // a has it
	go func() {
		defer s.end(fn.body != nil)
		s.answer(op, fn, a, in)
	}()
	return true
}

// answer runs one call. Errors of sending mean that nobody waits for it any more.
func (s *Store) answer(op string, fn function, a *cellproto.StateArgs, in *cellproto.Inbound) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic", zap.String("function", op), zap.Any("value", v), zap.ByteString("stack", debug.Stack()))
			_ = in.ReplyError(cellproto.Errorf(op, cellproto.Failed, "a bug in celld: %v", v))
		}
	}()
	if fn.body != nil {
		if err := fn.body(s, in.Context(), a, in); err != nil {
			_ = in.ReplyError(named(op, err))
		}
		return
	}
	r, err := fn.run(s, in.Context(), a)
	if err == nil {
		err = reply(in, r)
	}
	if err != nil {
		_ = in.ReplyError(named(op, err))
	}
}

func reply(in *cellproto.Inbound, r *cellproto.StateReply) error {
	codec := in.Header.Codec
	if codec != cellproto.JSON {
		codec = cellproto.CBOR
	}
	data, err := r.Marshal(codec)
	if err == nil {
		_ = in.Reply(cellproto.Header{Codec: codec}, data) // nobody waits if it fails
	}
	return err
}

// named puts the function's name before an error.
func named(op string, err error) error {
	e := cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s", cellproto.HintOf(err))
	e.RetryAfter = cellproto.RetryAfterOf(err)
	return e
}

// paid reads a body at the store's rate.
type paid struct {
	r   io.Reader
	s   *Store
	ctx context.Context
}

func (p paid) Read(b []byte) (int, error) {
	if len(b) > cellproto.ChunkSize {
		b = b[:cellproto.ChunkSize]
	}
	n, err := p.r.Read(b)
	if n > 0 {
		if perr := p.s.pay(p.ctx, n); perr != nil {
			return n, perr
		}
	}
	return n, err
}

func quote(b []byte) string { return fmt.Sprintf("%.80q", b) }
