package cell

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"sync/atomic"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/wire"
)

// CBOR is arguments that are encoded already. They are used until the call has returned.
type CBOR []byte

// Doer sends calls: *Client, *Local.
type Doer interface {
	Do(ctx context.Context, r *Request) (*Reply, error)
}

// Stub is what a client that cellctl gen wrote calls through. Its methods may be used concurrently.
type Stub struct {
	via  Doer
	to   string
	meta map[string]string // of each request; nil: none. It is not written to
	json atomic.Bool       // the callee reads no CBOR
}

// NewStub calls the cell named to through via: to is "" if that leads to the cell itself. With a nil via
// it is the client of each call's context (ClientFrom).
func NewStub(via Doer, to string) *Stub { return &Stub{via: via, to: to} }

// NewStubFor is NewStub for a client that was made for the schema with this hash, in hex. The cell is told, so that
// it knows whom a change would break.
func NewStubFor(via Doer, to, schema string) *Stub {
	s := NewStub(via, to)
	if l, ok := via.(*Local); ok {
		l.madeFor(schema)
	}
	if _, err := cellproto.ParseSchemaHash(schema); err == nil && to != "" {
		s.meta = map[string]string{cellproto.MetaMadeFor: schema}
	}
	return s
}

func (s *Stub) do(ctx context.Context, r *Request) (*Reply, error) {
	r.To, r.meta = s.to, s.meta
	if s.via == nil {
		return Do(ctx, r)
	}
	return s.via.Do(ctx, r)
}

// Invoke makes a typed call: args is what a generated client has encoded, parse reads the reply. A callee
// that reads no CBOR gets JSON, from the second call on at once. A reply that is not what parse reads is
// BadReply, in either codec.
func Invoke[Out any](ctx context.Context, s *Stub, r Request, args *wire.Writer, parse func(*wire.Reader) Out) (Out, error) {
	var none Out
	reply, err := s.send(ctx, &r, args)
	if err != nil {
		return none, err
	}
	data, err := reply.Bytes(maxReply)
	if err != nil {
		return none, err
	}
	if reply.reply.Header.Codec != cellproto.CBOR {
		return decoded(reply.reply.Header.Codec, data, parse)
	}
	w := wire.NewReader(data)
	out := parse(&w)
	if err := w.Done(); err != nil {
		return none, remote(err)
	}
	return out, nil
}

// decoded reads a reply that is not in CBOR: JSON by the same checks. It is apart, so that what it gives is on the
// heap only here.
func decoded[Out any](codec cellproto.Codec, data []byte, parse func(*wire.Reader) Out) (Out, error) {
	var out Out
	if codec != cellproto.JSON {
		err := decodeReply(codec, data, &out)
		if err != nil {
			err = remote(err)
		}
		return out, err
	}
	r, err := wire.NewJSONReader(data)
	if err == nil {
		out = parse(&r)
		err = r.Done()
	}
	if err != nil {
		var none Out
		return none, remote(err)
	}
	return out, nil
}

// InvokeBody is Invoke of a function whose reply is a body, which must be closed.
func InvokeBody(ctx context.Context, s *Stub, r Request, args *wire.Writer) (io.ReadCloser, error) {
	reply, err := s.send(ctx, &r, args)
	if err != nil {
		return nil, err
	}
	return reply.Body(), nil
}

// InvokeRaw is Invoke of a function of bytes.
func InvokeRaw(ctx context.Context, s *Stub, r Request, data []byte) ([]byte, error) {
	r.Args = data
	reply, err := s.do(ctx, &r)
	if err != nil {
		return nil, err
	}
	return reply.Bytes(maxReply)
}

func (s *Stub) send(ctx context.Context, r *Request, args *wire.Writer) (*Reply, error) {
	if args.Err != nil {
		return nil, cellproto.Errorf("call "+r.Func, cellproto.BadInput, "cannot encode the arguments: %w", args.Err)
	}
	if !s.json.Load() {
		r.Args = CBOR(args.B)
		reply, err := s.do(ctx, r)
		if cellproto.KindOf(err) != cellproto.Unsupported || r.Body != nil {
			return reply, err
		}
	}
	var text bytes.Buffer
	if err := cborToJSON(&text, bytes.NewReader(args.B)); err != nil {
		return nil, cellproto.Errorf("call "+r.Func, cellproto.BadInput, "cannot encode the arguments: %w", err)
	}
	r.Args = json.RawMessage(text.Bytes())
	reply, err := s.do(ctx, r)
	if err == nil {
		s.json.Store(true)
	}
	return reply, err
}

// AppendAny appends a value of any type that JSON can carry.
func AppendAny(w *wire.Writer, v any) {
	data, err := cborEncoder.Marshal(v)
	if err != nil && w.Err == nil {
		w.Err = err
	}
	w.B = append(w.B, data...)
}

// ParseAny reads a value of any type.
func ParseAny(r *wire.Reader) (v any) {
	raw := r.Raw()
	if raw == nil {
		return nil
	}
	if err := replyDecoder.Unmarshal(raw, &v); err != nil {
		r.Fail(err)
	}
	return v
}

type keyKey struct{}

// WithKey has a generated client's calls of functions that are idempotent, and not pure, use this key
// (see Request.Key). A key is for one call.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, keyKey{}, key)
}

// Key gives the key of WithKey, else a new one: it makes it safe to send the call again.
func Key(ctx context.Context) string {
	if key, ok := ctx.Value(keyKey{}).(string); ok {
		return key
	}
	return rand.Text()
}
